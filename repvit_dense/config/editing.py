"""Change the backbone or the data set of a config, and everything that depends on it."""

import copy
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.config.structure import (
    CLASS_COUNTS,
    SOURCE_KEYS,
    class_heads,
    datasets,
    expected_in_channels,
    feature_consumers,
    metrics,
    pipeline_steps,
    task,
)
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict

    from repvit_dense.data.source import Source

# Settings of the training, not of the architecture: every backbone of the catalogue accepts them.
TRAINING_SETTINGS = ('out_indices', 'frozen_stages', 'norm_eval', 'with_cp', 'drop_path_rate')
# Their values for a backbone that starts from random weights.
UNFROZEN = {'frozen_stages': -1, 'norm_eval': False}

LOADERS = ('LoadAnnotations', 'DenseLoadAnnotations')  # without and with a label map
ABOUT_DATA = ('data', 'data_url', 'data_licence')  # of the section `provenance`


def set_backbone(cfg: 'Config', name: str) -> None:
    """Replace the backbone of a config by the one of this name, and adapt the settings that depend on it.

    These are the channels of the neck or heads, the published weights (if the config starts from published weights),
    the pixel normalisation of these weights, and weight decay: norms, biases and position tables of a peer are exempt.
    A RepViT keeps the weight decay of the recipe, as it was published. A backbone without published weights is not
    frozen.

    Raises:
        InputError: the catalogue has no such name (the message lists the nearest), or the config has no backbone.
    """
    from repvit_dense import catalogue

    try:
        entry = catalogue.find(name)
    except ValueError as error:
        raise InputError(str(error)) from error
    old = cfg.get('model', {}).get('backbone')
    if old is None:
        raise InputError(f"{cfg.filename}: this config has no model.backbone to replace by '{name}'")
    settings = {key: old[key] for key in TRAINING_SETTINGS if key in old}
    if 'tap' in old and entry.type == 'RepViT':
        settings['tap'] = old.tap
    if not entry.default_weights:
        settings |= {key: value for key, value in UNFROZEN.items() if key in settings}
    pretrained = {'init_cfg': {'type': 'Pretrained', 'checkpoint': entry.default_weights}}
    weights = pretrained if old.get('init_cfg') and entry.default_weights else {}
    cfg.model.backbone = {'type': entry.type, **entry.args, **settings, **weights}
    set_channels(cfg.model, [entry.channels[i] for i in settings.get('out_indices', range(len(entry.channels)))])
    if 'data_preprocessor' in cfg.model:
        cfg.model.data_preprocessor.update(mean=list(entry.mean), std=list(entry.std))
    if entry.type != 'RepViT' and 'optim_wrapper' in cfg:
        cfg.optim_wrapper.constructor = 'DenseNoDecayOptimWrapperConstructor'
        cfg.merge_from_dict({'optim_wrapper.paramwise_cfg.no_decay': list(entry.no_decay)})


def set_channels(model: 'ConfigDict', channels: list[int]) -> None:
    """Set `in_channels` of the neck or heads to the channels of the backbone's features."""
    for _, part in feature_consumers(model):
        part.in_channels = expected_in_channels(part, channels)
    neck = model.get('neck')
    if neck and neck.get('type') == 'SSDNeck':  # passes the backbone's features on, and appends smaller ones
        neck.out_channels = [*channels, *neck.out_channels[len(channels) :]]  # a list, as in_channels
        model.bbox_head.in_channels = neck.out_channels


def set_dataset(cfg: 'Config', data: str) -> None:
    """Train and evaluate on other data: the name of a data set, or a folder in a layout of `repvit_dense.data`.

    Data sets, metrics and the class counts of the heads change; without a test split, the test data are those of val.
    Pipelines, image sizes and wrappers such as RepeatDataset belong to the recipe and stay, and so do weights and
    colours of classes if the new ones have the same names; a ConcatDataset is left with the one new data set.
    Annotations that have to be converted are written to the work dir, or to `work_dirs/CONFIG--DATA` if the config has
    none. What the config states about its data, such as a licence, stays for the folder of its data alone.

    Raises:
        InputError: there is no such data set, or it lacks the labels that this config trains on.
    """
    from repvit_dense.data import checks, layouts

    work_dir = cfg.get('work_dir') or Path('work_dirs', f'{Path(cfg.filename or "config").stem}--{Path(data).stem}')
    source = layouts.find(data, task(cfg), work_dir)
    for note in source.notes:
        checks.warn(note)
    same_classes = all(_has_classes_of(part, source) for part in datasets(cfg.train_dataloader.dataset))
    before = training_folders(cfg)
    for split in ('train', 'val', 'test'):
        loader, evaluator = copy.deepcopy(cfg.get(f'{split}_dataloader')), copy.deepcopy(cfg.get(f'{split}_evaluator'))
        test = source.test if split == 'test' else None
        if loader:
            _replace_source(loader.dataset, source, test or (source.train if split == 'train' else source.val))
            cfg[f'{split}_dataloader'] = loader  # a copy: validation and test may share one
        if evaluator:
            cfg[f'{split}_evaluator'] = evaluator
        _set_evaluator(cfg, split, source.test_files if test else source.ann_files)
    for step in _loading_steps(cfg):
        step.pop('reduce_zero_label', None)  # taken from the data set
        step.pop('poly2mask', None)  # polygons are faster to augment, but run-length masks would be dropped
    _set_label_map(cfg, source.label_map)
    drawn = cfg.get('embedded_data') or {}
    if not source.embedded or drawn.get('root') != source.embedded['root']:
        cfg.embedded_data = source.embedded and dict(source.embedded)
    if not same_classes:
        set_class_counts(cfg.model, len(source.classes), source.things)
    if isinstance(cfg.get('provenance'), dict) and training_folders(cfg) != before:
        forget_data(cfg)


def training_folders(cfg: 'Config') -> set[str]:
    """Return the folders of the training data."""
    loader = cfg.get('train_dataloader')
    dataset = loader.get('dataset') if isinstance(loader, dict) else None
    parts = datasets(dataset) if isinstance(dataset, dict) else ()
    return {os.path.realpath(str(part['data_root'])) for part in parts if part.get('data_root')}


def forget_data(cfg: 'Config', stated: Collection[str] = ()) -> None:
    """Remove what the config states about its data, because it has others now; `stated` lists keys that stay."""
    for key in ABOUT_DATA:
        if not {'provenance', f'provenance.{key}'} & set(stated):
            cfg.provenance.pop(key, None)


def ignore_value(cfg: 'Config', value: int) -> None:
    """Leave out the pixels of the masks that have this value, in training and in scores.

    Raises:
        InputError: the config does not train on semantic masks.
    """
    if task(cfg) != 'semantic':
        raise InputError(
            f'--ignore-index {value}: only masks with semantic labels have values; this config reads others'
        )
    earlier = [tuple(pair) for step in _loading_steps(cfg) for pair in step.get('label_map', ()) if pair[0] != value]
    _set_label_map(cfg, tuple(dict.fromkeys([*earlier, (value, 255)])))


def _loading_steps(cfg: 'Config') -> Iterator[dict]:
    return (step for step in pipeline_steps(cfg) if step.get('type') in LOADERS)


def _set_label_map(cfg: 'Config', label_map: tuple[tuple[int, int], ...]) -> None:
    """Give the steps that load semantic masks a label map, which may be empty."""
    for step in _loading_steps(cfg):
        step.pop('label_map', None)
        step['type'] = LOADERS[bool(label_map)]
        if label_map:
            step['label_map'] = [list(pair) for pair in label_map]


def _replace_source(dataset: dict, source: 'Source', arguments: dict) -> None:
    """Replace the keys that say which data to read, inside wrappers too."""
    if 'datasets' in dataset:
        dataset['datasets'] = dataset['datasets'][:1]
    wrapped = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    for part in wrapped or ():
        _replace_source(part, source, arguments)
    if wrapped is None:
        metainfo = dataset['metainfo'] if _has_classes_of(dataset, source) else source.metainfo
        for key in SOURCE_KEYS:
            dataset.pop(key, None)
        dataset.update(type=source.type, **copy.deepcopy(arguments))
        if metainfo:
            dataset['metainfo'] = copy.deepcopy(metainfo)


def _has_classes_of(dataset: 'dict | ConfigDict', source: 'Source') -> bool:
    """Return whether a data set of a config names its classes, and the new one has the same."""
    old, new = dataset.get('metainfo') or {}, source.metainfo or {}
    names = [[list(meta.get(key) or ()) for key in ('classes', 'thing_classes')] for meta in (old, new)]
    return bool(names[0][0]) and names[0] == names[1]


def _set_evaluator(cfg: 'Config', split: str, files: dict[str, str]) -> None:
    """Point the metrics at the new ground truth; drop those that have none, unless no metric would remain."""
    key, remaining = f'{split}_evaluator', [part for part in metrics(cfg, split) if _set_ground_truth(part, files)]
    if remaining:
        cfg[key] = remaining if isinstance(cfg[key], list) else remaining[0]


def _set_ground_truth(metric: dict, files: dict[str, str]) -> bool:
    """Set the annotation file of a metric; return whether the data has one for it."""
    if 'ann_file' not in metric:
        return True
    if 'Panoptic' in metric['type']:
        metric.update(ann_file=files['panoptic'], seg_prefix=files['maps'])
    elif 'instances' in files:
        metric['ann_file'] = files['instances']
    return 'Panoptic' in metric['type'] or 'instances' in files


def set_class_counts(model: dict, classes: int, things: int) -> None:
    """Set the number of classes of all heads, and the weights of classes in their losses; boxes count only things."""
    counts = dict(zip(CLASS_COUNTS, (things, things, classes - things), strict=True))
    for _, part in class_heads(model):
        part.update({key: counts[key] for key in CLASS_COUNTS if key in part})
        for name, losses in part.items():
            for loss in losses if isinstance(losses, list) else [losses]:
                weights = loss.get('class_weight') if isinstance(loss, dict) else None
                if not isinstance(weights, list | tuple):
                    continue
                if name == 'loss_cls' and len(set(weights[:-1])) == 1:  # equal for all classes, then 'no object'
                    loss['class_weight'] = [weights[0]] * classes + [weights[-1]]
                else:
                    del loss['class_weight']  # the weights were chosen for the old classes
