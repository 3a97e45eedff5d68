"""Load a config, apply the options of a command, and check it before anything heavy starts."""

import copy
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

    from repvit_dense.data import checks
    from repvit_dense.data.sources import Source

PACKAGE = Path(__file__).parents[1]
# In a checkout configs/ lies beside the package; in an installed wheel inside it.
CONFIG_FOLDERS = (PACKAGE.parent / 'configs', PACKAGE / '.mim' / 'configs')

GET_COCO = (
    'COCO 2017 (cocodataset.org/#download) unpacks to train2017/, val2017/ and annotations/; put or link it there, or '
    'change data_root in the config. '
    'To train without any download: python tools/train.py configs/repvit_maskrcnn_shapes.py'
)
GET_MASKS = (
    'Put or link the data there, change data_root in the config, or name a folder: --data PATH. '
    'To train without any download: python tools/train.py configs/repvit_segformer_shapes.py'
)


def load(
    path: str | Path,
    options: list[str] | None = None,
    backbone: str | None = None,
    data: str | None = None,
    work_dir: str | None = None,
) -> 'Config':
    """Read a config file, by path or by the name of a packaged one, and change what is asked for.

    Args:
        path: of the file, or the name of a packaged config.
        options: `key=value` pairs, applied last.
        backbone: see `set_backbone`.
        data: see `set_dataset`.
        work_dir: where the run writes; converted data too.

    Raises:
        InputError: no such file, a config that cannot be read, an option that is not `key=value`, an unknown name.
    """
    file = find(path)
    from mmengine.config import Config  # takes seconds; a mistyped name need not wait for it

    try:
        cfg = Config.fromfile(file)
    except Exception as error:  # a config is Python: anything can go wrong in it
        raise InputError(f'{file}: cannot read this config: {type(error).__name__}: {error}') from error
    if work_dir:
        cfg.work_dir = work_dir
    if backbone:
        set_backbone(cfg, backbone)
    if data:
        set_dataset(cfg, data)
    for option in options or ():
        _apply_option(cfg, option)
    return cfg


def find(path: str | Path) -> Path:
    """The config file at this path, or the packaged one of this name, with or without `configs/` and `.py`."""
    path = Path(path)
    candidates = [path]
    if path.parent in (Path(), Path('configs')):  # anything else is a path of one's own, mistyped
        candidates += [folder / name for folder in CONFIG_FOLDERS for name in (path.name, f'{path.name}.py')]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(f'{path}: no such config file. Packaged ones: {", ".join(names())}')


def names() -> list[str]:
    """Of the packaged configs."""
    return sorted({file.stem for folder in CONFIG_FOLDERS for file in folder.glob('*.py')})


def _apply_option(cfg: 'Config', option: str) -> None:
    from mmengine.config import DictAction

    key, equals, value = option.partition('=')
    if not key or not equals:
        raise InputError(f"--cfg-options takes key=value pairs, such as train_cfg.max_epochs=1; got '{option}'")
    section = key.partition('.')[0]
    similar = difflib.get_close_matches(section, cfg, n=1, cutoff=0.8)
    if section not in cfg and similar:
        raise InputError(f"--cfg-options {option}: this config has no '{section}'; did you mean '{similar[0]}'?")
    # mmengine's parser of lists drops spaces, which a path may have.
    parse = DictAction._parse_iterable if set(value) & set('[](),') else DictAction._parse_int_float_bool
    try:
        cfg.merge_from_dict({key: parse(value.strip('\'"'))})
    except (AssertionError, KeyError, TypeError) as error:
        raise InputError(f'--cfg-options {option}: cannot be applied to this config ({_text(error)})') from error


def _text(error: Exception) -> str:
    """What an error says, on one line; `str` of a KeyError is quoted."""
    return ' '.join(str(error.args[0] if error.args else error).split())


# Settings of the training, not of the architecture: every backbone of the catalogue takes them.
KEPT = ('out_indices', 'frozen_stages', 'norm_eval', 'with_cp', 'drop_path_rate')
# What they are where training starts from random weights.
FROM_NOTHING = {'frozen_stages': -1, 'norm_eval': False}


def set_backbone(cfg: 'Config', name: str) -> None:
    """Put the backbone of this name in the place of the config's; whatever depends on it follows.

    That is: the channels that neck or heads take, the published weights to start from (where the config starts from
    published weights), the pixel normalisation that these expect, and weight decay: a peer's norms, biases and
    position tables are exempt. A RepViT keeps the rule of the recipe, as it was published. Where no weights were
    published nothing stays frozen.

    Raises:
        InputError: no such name in the catalogue (the message lists the nearest), or a config without a backbone.
    """
    from repvit_dense.backbones import catalogue

    try:
        entry = catalogue.find(name)
    except ValueError as error:
        raise InputError(str(error)) from error
    old = cfg.get('model', {}).get('backbone')
    if old is None:
        raise InputError(f"{cfg.filename}: this config has no model.backbone to replace by '{name}'")
    kept = {key: old[key] for key in KEPT if key in old}
    if 'tap' in old and entry.type == 'RepViT':
        kept['tap'] = old.tap
    if not entry.default_weights:
        kept |= {key: value for key, value in FROM_NOTHING.items() if key in kept}
    pretrained = {'init_cfg': {'type': 'Pretrained', 'checkpoint': entry.default_weights}}
    weights = pretrained if old.get('init_cfg') and entry.default_weights else {}
    cfg.model.backbone = {'type': entry.type, **entry.args, **kept, **weights}
    _set_channels(cfg.model, [entry.channels[i] for i in kept.get('out_indices', range(len(entry.channels)))])
    if 'data_preprocessor' in cfg.model:
        cfg.model.data_preprocessor.update(mean=list(entry.mean), std=list(entry.std))
    if entry.type != 'RepViT' and 'optim_wrapper' in cfg:
        cfg.optim_wrapper.constructor = 'DenseNoDecayOptimWrapperConstructor'
        cfg.merge_from_dict({'optim_wrapper.paramwise_cfg.no_decay': list(entry.no_decay)})


def _set_channels(model: dict, channels: list[int]) -> None:
    for _, part in _takers(model):
        part.in_channels = _in_channels(part, channels)
    neck = model.get('neck') or {}
    if neck.get('type') == 'SSDNeck':  # hands the backbone's features on, and adds smaller ones
        neck.out_channels = [*channels, *neck.out_channels[len(channels) :]]  # a list, as in_channels
        model.bbox_head.in_channels = neck.out_channels


def _takers(model: dict) -> Iterator[tuple[str, dict]]:
    """The parts that take the backbone's features, with their path: the neck, else every head."""
    neck = model.get('neck')
    if neck:
        yield ('model.neck.0', neck[0]) if isinstance(neck, list) else ('model.neck', neck)
        return
    for key in ('bbox_head', 'mask_head', 'panoptic_head', 'decode_head', 'auxiliary_head'):
        parts = model.get(key) or ()
        for i, part in enumerate(parts if isinstance(parts, list) else [parts] if parts else ()):
            if 'in_channels' in part:
                yield (f'model.{key}.{i}' if isinstance(parts, list) else f'model.{key}'), part


def _in_channels(part: dict, channels: Sequence[int]) -> int | list[int]:
    """What `in_channels` of a part must be: of one feature, or of several; `in_index` says of which."""
    if isinstance(part.in_channels, int):
        return channels[part.get('in_index', -1)]
    return [channels[i] for i in part.get('in_index', range(len(channels)))]


# What says which data to read; all else of a data set, such as its pipeline, belongs to the recipe.
IDENTITY = (
    *('type', 'data_root', 'ann_file', 'data_prefix', 'metainfo'),
    *('img_suffix', 'seg_map_suffix', 'reduce_zero_label'),
)
COUNTS = ('num_classes', 'num_things_classes', 'num_stuff_classes')


def task(cfg: 'Config') -> str:
    """Which labels a config reads: 'detection' (boxes alone), 'instance', 'panoptic' or 'semantic'."""
    if _scope(cfg) == 'mmseg':
        return 'semantic'
    steps = list(_steps(cfg))
    if any('Panoptic' in str(step.get('type')) for step in steps):
        return 'panoptic'
    return 'instance' if any(step.get('with_mask') for step in steps) else 'detection'


def _steps(cfg: 'Config') -> Iterator[dict]:
    """The transforms of all pipelines, nested ones and those of wrappers too."""

    def within(value):
        if isinstance(value, dict):
            yield value
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
            yield from within(part)

    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'tta_pipeline', 'custom_hooks'):
        yield from within(cfg.get(key))


def set_dataset(cfg: 'Config', data: str) -> None:
    """Train and evaluate on other data: the name of a data set, or a folder (`repvit_dense.data.sources` says which).

    What to read, the classes and the widths of the heads follow; pipelines, image sizes and wrappers such as
    RepeatDataset are the recipe's and stay. Of concatenated data sets one takes the place of all. Annotations that have
    to be converted go to the work dir, or to `work_dirs/CONFIG--DATA` where the config names none.

    Raises:
        InputError: no such data set, or one without the labels that this config trains.
    """
    from repvit_dense.data import checks, sources

    work_dir = cfg.get('work_dir') or Path('work_dirs', f'{Path(cfg.filename or "config").stem}--{Path(data).stem}')
    source = sources.find(data, task(cfg), work_dir)
    for note in source.notes:
        checks.warn(note)
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            _point(loader.dataset, source, source.train if split == 'train' else source.val)
        cfg_key, kept = f'{split}_evaluator', [part for part in _metrics(cfg, split) if _point_metric(part, source)]
        if kept:
            cfg[cfg_key] = kept if isinstance(cfg[cfg_key], list) else kept[0]
    for step in _steps(cfg):
        if step.get('type') == 'LoadAnnotations':
            step.pop('reduce_zero_label', None)  # the data set says so
            step.pop('poly2mask', None)  # polygons are faster to augment, but run-length masks would be dropped
    cfg.embedded_data = cfg.get('embedded_data') or dict(source.embedded) if source.embedded else None
    _set_class_counts(cfg.model, len(source.classes), source.things)


def _point(dataset: dict, source: 'Source', arguments: dict) -> None:
    if 'datasets' in dataset:
        dataset['datasets'] = dataset['datasets'][:1]
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    for part in inner or ():
        _point(part, source, arguments)
    if inner is None:
        for key in IDENTITY:
            dataset.pop(key, None)
        dataset.update(type=source.type, **copy.deepcopy(arguments))
        if source.metainfo:
            dataset['metainfo'] = copy.deepcopy(source.metainfo)


def _point_metric(metric: dict, source: 'Source') -> bool:
    """Whether the data has what this metric compares with."""
    if 'ann_file' not in metric:
        return True
    if 'Panoptic' in metric['type']:
        metric.update(ann_file=source.ann_files['panoptic'], seg_prefix=source.ann_files['maps'])
    elif 'instances' in source.ann_files:
        metric['ann_file'] = source.ann_files['instances']
    return 'Panoptic' in metric['type'] or 'instances' in source.ann_files


def _set_class_counts(model: dict, classes: int, things: int) -> None:
    counts = dict(zip(COUNTS, (things, things, classes - things), strict=True))
    for _, part in _heads(model):
        part.update({key: counts[key] for key in COUNTS if key in part})
        for name, losses in part.items():
            for loss in losses if isinstance(losses, list) else [losses]:
                weights = loss.get('class_weight') if isinstance(loss, dict) else None
                if not isinstance(weights, list | tuple):
                    continue
                if name == 'loss_cls' and len(set(weights[:-1])) == 1:  # all classes alike, then 'no object'
                    loss['class_weight'] = [weights[0]] * classes + [weights[-1]]
                else:
                    del loss['class_weight']  # weights of other classes


def prepare_data(cfg: 'Config') -> None:
    """Draw the embedded data set, where the config asks for it and it is not there yet."""
    embedded = cfg.get('embedded_data')
    if not embedded:
        return
    from tqdm import tqdm

    from repvit_dense.data import shapes

    with tqdm(desc='drawing shapes', leave=False, disable=None) as bar:

        def show(done, total):
            bar.total = total
            bar.update(done - bar.n)

        try:
            shapes.generate(**embedded, progress=show)
        except (TypeError, ValueError) as error:
            raise InputError(f'embedded_data of the config: {_text(error)}') from error


def check(cfg: 'Config', splits: tuple[str, ...]) -> None:
    """Refuse what would fail, or silently go wrong, later on: data, class names, counts, channels.

    Args:
        cfg: a whole detector config.
        splits: which data to look at, of 'train', 'val', 'test'.

    Raises:
        InputError: says what is wrong, where, and what to do.
    """
    from mmengine.registry import init_default_scope

    from repvit_dense.data import checks

    init_default_scope(_scope(cfg))
    _check_channels(cfg)
    for where, report in data_reports(cfg, splits):
        checks.enforce(where, report)
    check_evaluators(cfg, splits)


def check_evaluators(cfg: 'Config', splits: Sequence[str]) -> None:
    """Refuse a metric whose annotation file is not there."""
    for split in splits:
        for part in _metrics(cfg, split):
            if part.get('ann_file') and not Path(part['ann_file']).is_file():
                raise InputError(f'{part["ann_file"]}: no such annotation file ({split}_evaluator). {GET_COCO}')


def data_reports(cfg: 'Config', splits: Sequence[str]) -> Iterator[tuple[Path, 'checks.Report']]:
    """Look at the data of these splits, every data set once: its annotation file or folder, and what was found.

    Raises:
        InputError: of data that is not there, or that the model is not made for.
    """
    from importlib import import_module

    import_module(f'{_scope(cfg)}.datasets')  # registers them
    registry = import_module(f'{_scope(cfg)}.registry').DATASETS
    seen = set()
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in datasets(loader.dataset) if loader else ():
            identity = str([dataset.get(key) for key in IDENTITY])
            if identity not in seen:
                seen.add(identity)
                kind = registry.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
                yield from _report(cfg, dataset, kind)


def _scope(cfg: 'Config') -> str:
    return cfg.get('default_scope') or 'mmdet'


def _metrics(cfg: 'Config', split: str) -> list[dict]:
    evaluator = cfg.get(f'{split}_evaluator')
    return [part for part in (evaluator if isinstance(evaluator, list) else [evaluator]) if part]


def trained_classes(checkpoint: dict) -> list[str] | None:
    """The classes that a checkpoint was trained on, in order; mmdet 2 and mmseg 0 wrote them under another key."""
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict):
        return None
    classes = (meta.get('dataset_meta') or {}).get('classes') or meta.get('CLASSES')
    return list(classes) if classes else None


def check_trained_classes(cfg: 'Config', checkpoint: dict) -> None:
    """Refuse a checkpoint whose classes are not those of the test data: every score and name would be a lie.

    Raises:
        InputError: says where they part.
    """
    trained = trained_classes(checkpoint)
    if trained is None or not cfg.get('test_dataloader'):
        return
    own = list(dataset_meta(cfg.test_dataloader.dataset, cfg.get('default_scope', 'mmdet'))['classes'])
    if trained != own:
        first = next(
            (i for i, (a, b) in enumerate(zip(trained, own, strict=False)) if a != b), min(len(trained), len(own))
        )
        pair = [f"'{names[first]}'" if first < len(names) else 'nothing' for names in (trained, own)]
        raise InputError(
            f'{cfg.get("load_from") or "the checkpoint"}: trained on {len(trained)} classes, the data has {len(own)}; '
            f'they part at class {first}: {pair[0]} was trained, the data has {pair[1]}. Use data with the classes '
            'that were trained, or train on these'
        )


def dataset_meta(dataset: dict, scope: str) -> dict:
    """Classes and colours of a data set of a config, as its type and its `metainfo` name them."""
    import mmseg.datasets  # noqa: F401  registers them
    from mmengine.registry import DATASETS

    dataset = next(datasets(dataset))
    with DATASETS.switch_scope_and_registry(scope) as registry:
        return dict(registry.get(dataset.type)._load_metainfo(dataset.get('metainfo')))


def datasets(dataset: dict) -> Iterator[dict]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    if inner is None:
        yield dataset
        return
    for part in inner:
        yield from datasets(part)


def _report(cfg: 'Config', dataset: dict, kind: type | None) -> Iterator[tuple[Path, 'checks.Report']]:
    """What there is to say of one data set; nothing of a kind not known here."""
    from repvit_dense.data import checks

    if _scope(cfg) == 'mmseg':
        from mmseg.datasets import BaseSegDataset

        if kind and issubclass(kind, BaseSegDataset):
            yield _semantic_report(cfg, dataset, kind)
        return
    from mmdet.datasets import CocoDataset, CocoPanopticDataset

    if kind is None or not issubclass(kind, CocoDataset):
        return
    root, prefix = Path(dataset.get('data_root') or ''), dataset.get('data_prefix') or {}
    file, images = root / dataset.ann_file, root / prefix.get('img', '')
    _demand(GET_COCO, file, images)
    meta = {**kind.METAINFO, **(dataset.get('metainfo') or {})}
    classes = meta['classes']
    if issubclass(kind, CocoPanopticDataset):
        maps = root / prefix.get('seg', '')
        _demand(GET_COCO, maps)
        report = checks.panoptic(file, images, maps, classes, len(meta['thing_classes']))
        _check_class_counts(cfg, file, len(classes), len(meta['thing_classes']))
    else:
        sieve = {} if dataset.get('test_mode') else dataset.get('filter_cfg') or {}
        sieve = {'filter_empty': sieve.get('filter_empty_gt', False), 'min_size': sieve.get('min_size', 0)}
        report = checks.instances(file, images, classes, masks=task(cfg) == 'instance', **sieve)
        _check_class_counts(cfg, file, len(classes), len(classes))
    yield file, report


def _semantic_report(cfg: 'Config', dataset: dict, kind: type) -> tuple[Path, 'checks.Report']:
    from repvit_dense.data import checks

    root = Path(dataset.get('data_root') or '')
    folders = [root / path for path in (dataset.get('data_prefix') or {}).values()]
    _demand(GET_MASKS, *folders, *([root / dataset.ann_file] if dataset.get('ann_file') else []))
    arguments = {key: value for key, value in dataset.items() if key != 'type'}
    try:
        data = kind(**{**arguments, 'pipeline': [], 'lazy_init': True})
        pairs = [(Path(entry['img_path']), Path(entry['seg_map_path'])) for entry in data.load_data_list()]
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(f'{root}: cannot be read as {kind.__name__} ({_text(error)})') from error
    classes = data.metainfo.get('classes') or ()
    _check_class_counts(cfg, root, len(classes), len(classes))
    return root, checks.semantic(pairs, len(data.label_map or classes), data.reduce_zero_label)


def _demand(hint: str, *paths: Path) -> None:
    for path in paths:
        if not path.exists():
            raise InputError(f'{path}: not found. {hint}')


def _check_class_counts(cfg: 'Config', data: Path, classes: int, things: int) -> None:
    """Heads must be as wide as the data has classes; for instances and boxes, as it has things."""
    expected = {'num_classes': things, 'num_things_classes': things, 'num_stuff_classes': classes - things}
    for path, part in _heads(cfg.model):
        for key, wanted in expected.items():
            if part.get(key, wanted) != wanted:
                kind = {'num_things_classes': 'things', 'num_stuff_classes': 'stuff classes'}.get(key, 'classes')
                raise InputError(
                    f'{path}.{key} = {part[key]}, but the data has {wanted} {kind} ({data}). '
                    f'Set it: --cfg-options {path}.{key}={wanted}'
                )
        weights = (part.get('loss_cls') or {}).get('class_weight')
        if isinstance(weights, list | tuple) and len(weights) != classes + 1:
            raise InputError(
                f'{path}.loss_cls.class_weight has {len(weights)} numbers, but the data has {classes} classes ({data}) '
                'and it takes one more, for no object. --data NAME or PATH sets it'
            )


def _heads(model: dict, path: str = 'model') -> Iterator[tuple[str, dict]]:
    """The parts of a model that have a number of classes, with their path; an RPN only knows object or not."""
    if any(key in model for key in COUNTS):
        yield path, model
    for key, value in model.items():
        if isinstance(value, dict) and key not in ('backbone', 'rpn_head'):
            yield from _heads(value, f'{path}.{key}')
        elif isinstance(value, list):  # the stages of a cascade
            yield from _heads({str(i): part for i, part in enumerate(value)}, f'{path}.{key}')


def _check_channels(cfg: 'Config') -> None:
    """What follows the backbone must take the channels that the backbone gives."""
    if not cfg.model.get('backbone'):
        return
    channels = getattr(_build_without_memory(cfg.model.backbone), 'out_channels', None)
    for path, part in _takers(cfg.model) if channels else ():
        given, wanted = part.in_channels, _in_channels(part, channels)
        if given != wanted if isinstance(given, int) else list(given) != wanted:
            option = ','.join(str(wanted).strip('[]').split(', '))
            raise InputError(
                f'{path}.in_channels = {given}, but the backbone gives {wanted}. '
                f'Set it: --cfg-options {path}.in_channels={option}'
            )


def _build_without_memory(backbone: dict):
    import torch
    from mmdet.registry import MODELS

    try:
        try:
            with torch.device('meta'):
                return MODELS.build(backbone)
        except (NotImplementedError, RuntimeError):  # reads a value while it is built: Swin's drop path rates
            return MODELS.build(backbone)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise InputError(f'model.backbone: {_text(error)}') from error
