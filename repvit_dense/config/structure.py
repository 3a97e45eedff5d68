"""Look up the parts of a config: its task, pipelines, data sets, metrics, and the heads that depend on them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from repvit_dense import catalogue

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict

# The keys of a data set that say which data to read; its other keys, such as the pipeline, belong to the recipe.
SOURCE_KEYS = (
    *('type', 'data_root', 'ann_file', 'data_prefix', 'metainfo'),
    *('img_suffix', 'seg_map_suffix', 'reduce_zero_label'),
)
CLASS_COUNTS = ('num_classes', 'num_things_classes', 'num_stuff_classes')


def scope(cfg: 'Config') -> str:
    """Return the library whose registries the config uses, 'mmdet' or 'mmseg'."""
    return cfg.get('default_scope') or 'mmdet'


def task(cfg: 'Config') -> str:
    """Return the kind of labels a config reads: 'detection' (boxes only), 'instance', 'panoptic' or 'semantic'."""
    if scope(cfg) == 'mmseg':
        return 'semantic'
    steps = list(pipeline_steps(cfg))
    if any('Panoptic' in str(step.get('type')) for step in steps):
        return 'panoptic'
    return 'instance' if any(step.get('with_mask') for step in steps) else 'detection'


def pipeline_steps(cfg: 'Config') -> 'Iterator[ConfigDict]':
    """Yield the transforms of all pipelines, including nested ones and those of wrapped data sets and hooks."""
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'tta_pipeline', 'custom_hooks'):
        yield from nested(cfg.get(key))


def nested(value: Any) -> 'Iterator[ConfigDict]':
    """Yield all dictionaries in a value, the outer ones first."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from nested(part)


def datasets(dataset: 'ConfigDict') -> 'Iterator[ConfigDict]':
    """Yield the data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    wrapped = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    if wrapped is None:
        yield dataset
        return
    for part in wrapped:
        yield from datasets(part)


def metrics(cfg: 'Config', split: str) -> list[dict]:
    """Return the metrics of 'val' or 'test'."""
    evaluator = cfg.get(f'{split}_evaluator')
    return [part for part in (evaluator if isinstance(evaluator, list) else [evaluator]) if part]


def feature_consumers(model: 'ConfigDict') -> 'Iterator[tuple[str, ConfigDict]]':
    """Yield path and config of the parts that receive the backbone's features: the neck, or every head without one."""
    neck = model.get('neck')
    if neck:
        yield ('model.neck.0', neck[0]) if isinstance(neck, list) else ('model.neck', neck)
        return
    for key in ('rpn_head', 'bbox_head', 'mask_head', 'panoptic_head', 'decode_head', 'auxiliary_head'):
        parts = model.get(key) or ()
        for i, part in enumerate(parts if isinstance(parts, list) else [parts] if parts else ()):
            if 'in_channels' in part:
                yield (f'model.{key}.{i}' if isinstance(parts, list) else f'model.{key}'), part


def class_names(cfg: 'Config') -> list[str]:
    """Return the classes that the training data of a config name, without those of their type."""
    loader = cfg.get('train_dataloader') or {}
    part: dict = next(datasets(loader['dataset']), {}) if loader.get('dataset') else {}
    return list((part.get('metainfo') or {}).get('classes') or ())


def backbone_name(model: dict) -> str | None:
    """Return the name of a model's backbone in the catalogue or in timm; the name of its class if it has neither."""
    part = model.get('backbone') or {}
    for row in catalogue.BACKBONES.values():
        if row.type == part.get('type') and all(part.get(key) == value for key, value in row.args.items()):
            return row.name
    return f'timm/{part["model_name"]}' if part.get('model_name') else part.get('type')


def expected_in_channels(part: 'ConfigDict', channels: Sequence[int]) -> int | list[int]:
    """Return the `in_channels` a part needs for these feature channels; its `in_index` selects among them."""
    if isinstance(part.in_channels, int):
        return channels[part.get('in_index', -1)]
    return [channels[i] for i in part.get('in_index', range(len(channels)))]


def class_heads(model: dict, path: str = 'model') -> Iterator[tuple[str, dict]]:
    """Yield path and config of the parts with a number of classes; an RPN, which is class-agnostic, is left out."""
    if any(key in model for key in CLASS_COUNTS):
        yield path, model
    for key, value in model.items():
        if isinstance(value, dict) and key not in ('backbone', 'rpn_head'):
            yield from class_heads(value, f'{path}.{key}')
        elif isinstance(value, list):  # the stages of a cascade
            yield from class_heads({str(i): part for i, part in enumerate(value)}, f'{path}.{key}')


def one_line(error: Exception) -> str:
    """Return the message of an error on one line; `str` of a KeyError would add quotes."""
    return ' '.join(str(error.args[0] if error.args else error).split())
