"""Check a config before anything heavy starts: data, class names and counts, channels."""

import itertools
import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense import plugin
from repvit_dense.config.arguments import check_arguments
from repvit_dense.config.building import check_model
from repvit_dense.config.keys import check_keys
from repvit_dense.config.scores import check_scores
from repvit_dense.config.structure import (
    CLASS_COUNTS,
    SOURCE_KEYS,
    class_heads,
    datasets,
    metrics,
    one_line,
    scope,
    task,
)
from repvit_dense.config.values import check_sections, check_values
from repvit_dense.errors import InputError
from repvit_dense.files import is_file

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict

    from repvit_dense.data import checks

COCO = ('CocoDataset', 'CocoPanopticDataset')
MASKS = ('BaseSegDataset', 'ADE20KDataset', 'CityscapesDataset', 'PascalVOCDataset')
GET_COCO = (
    'COCO 2017 (cocodataset.org/#download) unpacks to train2017/, val2017/ and annotations/; put or link it there, or '
    'change data_root in the config. '
    'To train without any download: python tools/train.py configs/repvit_maskrcnn_shapes.py'
)
GET_OWN = 'Name the folder of the data again: --data PATH'
GET_MASKS = (
    'Put or link the data there, change data_root in the config, or name a folder: --data PATH. '
    'To train without any download: python tools/train.py configs/repvit_segformer_shapes.py'
)


def check(cfg: 'Config', splits: tuple[str, ...]) -> None:
    """Refuse settings and data that would fail, or silently go wrong, later.

    Args:
        cfg: the config of a whole detector or segmentor.
        splits: the data to check, of 'train', 'val', 'test'.

    Raises:
        InputError: says what is wrong, where, and how to correct it.
    """
    check_settings(cfg, splits)
    check_data(cfg, splits)


def check_settings(cfg: 'Config', splits: tuple[str, ...]) -> None:
    """Refuse types, arguments, values and channels that do not fit; see `check`. No data is read."""
    check_sections(cfg, splits)
    check_keys(cfg)
    check_arguments(cfg)
    check_values(cfg)
    check_scores(cfg)
    check_model(cfg, 'train' in splits)


def check_data(cfg: 'Config', splits: tuple[str, ...]) -> None:
    """Refuse data, class names and class counts that do not fit; see `check`."""
    from repvit_dense.data import checks

    images: dict[str, list[checks.ImageEntry]] = {}
    for split, path, report in data_reports(cfg, splits):
        checks.enforce(path, report)
        images.setdefault(split, []).extend(report.images)
    for first, second in itertools.combinations(images, 2):
        for finding in checks.finding_of(checks.same_paths(images[first], images[second]), first, second):
            checks.warn(str(finding))
    check_evaluators(cfg, splits)


def check_data_early(cfg: 'Config', splits: tuple[str, ...]) -> bool:
    """Check as much of the data as is possible without importing OpenMMLab, which takes seconds.

    Returns:
        True if this was all of it, so that `check_data` would find nothing else.

    Raises:
        InputError: see `check`.
    """
    if cfg.get('embedded_data'):  # drawn later
        return False
    for split in splits:
        for dataset in _datasets(cfg, split):
            if dataset.get('type') in (*COCO, *MASKS):
                _check_places(dataset, f'{split}_dataloader.dataset')
                root, prefixes = Path(dataset.get('data_root') or ''), dataset.get('data_prefix') or {}
                files = [dataset.get('ann_file'), *prefixes.values()]
                hint = GET_COCO if dataset['type'] in COCO else GET_MASKS
                _require_exists(hint, *(root / file for file in files if file))
    check_evaluators(cfg, splits)
    if not all(_is_plain_coco(dataset) for split in splits for dataset in _datasets(cfg, split)):
        return False
    check_data(cfg, splits)
    return True


def check_evaluators(cfg: 'Config', splits: Sequence[str]) -> None:
    """Raise InputError if the annotation file of a metric does not exist."""
    for split in splits:
        for part in metrics(cfg, split):
            if part.get('ann_file') and not is_file(part['ann_file']):
                raise InputError(f'{part["ann_file"]}: no such annotation file ({split}_evaluator). {GET_COCO}')


def data_reports(cfg: 'Config', splits: Sequence[str]) -> Iterator[tuple[str, Path, 'checks.Report']]:
    """Examine every data set of these splits once; yield the split, its annotation file or folder, and the report.

    Raises:
        InputError: data is missing or does not suit the model.
    """
    seen = set()
    for split in splits:
        for dataset in _datasets(cfg, split):
            source = str([split == 'train', *(dataset.get(key) for key in SOURCE_KEYS)])
            if source not in seen:
                seen.add(source)
                _check_places(dataset, f'{split}_dataloader.dataset')
                for path, report in _reports(cfg, dataset, split == 'train'):
                    yield split, path, _examine_images(report, dataset)


def _datasets(cfg: 'Config', split: str) -> 'Iterator[ConfigDict]':
    loader = cfg.get(f'{split}_dataloader')
    return datasets(loader['dataset']) if isinstance(loader, dict) and loader.get('dataset') else iter(())


def _check_places(dataset: dict, path: str) -> None:
    prefixes = dataset.get('data_prefix') or {}
    if not isinstance(prefixes, dict):
        raise InputError(f'{path}.data_prefix = {prefixes!r}: must be a dictionary')
    places = {key: dataset.get(key) or '' for key in ('data_root', 'ann_file')}
    for key, value in {**places, **{f'data_prefix.{name}': value for name, value in prefixes.items()}}.items():
        if not isinstance(value, str | Path):
            raise InputError(f'{path}.{key} = {value!r}: must be text, a file or folder')


def _reports(cfg: 'Config', dataset: 'ConfigDict', training: bool) -> Iterator[tuple[Path, 'checks.Report']]:
    """Yield the report of one data set, or nothing for other types than COCO's and mmseg's."""
    if _is_plain_coco(dataset):
        yield _coco_report(cfg, dataset, dataset['metainfo'], dataset['type'] == COCO[1])
        return
    plugin.load()
    import_module(f'{scope(cfg)}.datasets')  # registers them
    registry = import_module(f'{scope(cfg)}.registry').DATASETS
    kind = registry.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    if scope(cfg) == 'mmseg':
        from mmseg.datasets import BaseSegDataset

        if kind and issubclass(kind, BaseSegDataset):
            yield _semantic_report(cfg, dataset, kind, training)
        return
    from mmdet.datasets import CocoDataset, CocoPanopticDataset

    if kind and issubclass(kind, CocoDataset):
        meta = {**kind.METAINFO, **(dataset.get('metainfo') or {})}
        yield _coco_report(cfg, dataset, meta, issubclass(kind, CocoPanopticDataset))


def _is_plain_coco(dataset: 'ConfigDict') -> bool:
    """Return whether a data set is one of mmdet's that names its classes, so that nothing of mmdet is needed for it."""
    return dataset.get('type') in COCO and bool((dataset.get('metainfo') or {}).get('classes'))


def _examine_images(report: 'checks.Report', dataset: dict) -> 'checks.Report':
    """Return the report with the findings about the images, unless a loader other than mmcv's reads them.

    mmcv's loader applies the EXIF orientation unless told otherwise.
    """
    from repvit_dense.data import checks

    for step in dataset.get('pipeline') or ():
        kind = step.get('type') if isinstance(step, dict) else ''
        name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
        if 'Load' in name and 'Image' in name:
            backend, colour = step.get('imdecode_backend') or 'cv2', str(step.get('color_type'))
            if not name.endswith('LoadImageFromFile') or backend == 'tifffile':
                return report
            turned = backend != 'turbojpeg' and not colour.endswith(('unchanged', 'ignore_orientation'))
            return checks.examine(report, turned)
    return checks.examine(report)


def _coco_report(cfg: 'Config', dataset: 'ConfigDict', meta: dict, is_panoptic: bool) -> tuple[Path, 'checks.Report']:
    from repvit_dense.data import checks

    root, prefix = Path(dataset.get('data_root') or ''), dataset.get('data_prefix') or {}
    file, images = root / dataset.ann_file, root / prefix.get('img', '')
    _require_exists(GET_COCO, file, images)
    classes = meta['classes']
    training = not dataset.get('test_mode')
    filters = (dataset.get('filter_cfg') or {}) if training else {}
    settings = {'filter_empty': filters.get('filter_empty_gt', False), 'min_size': filters.get('min_size', 0)}
    if is_panoptic:
        maps = root / prefix.get('seg', '')
        _require_exists(GET_COCO, maps)
        report = checks.panoptic(file, images, maps, classes, len(meta['thing_classes']), training=training, **settings)
        _check_class_counts(cfg, file, len(classes), len(meta['thing_classes']))
    else:
        masks = task(cfg) == 'instance'
        steps = [step for step in dataset.get('pipeline') or () if isinstance(step, dict)]
        polygons = training and any(step.get('poly2mask') is False for step in steps)
        report = checks.instances(file, images, classes, masks, training=training, polygons_only=polygons, **settings)
        _check_class_counts(cfg, file, len(classes), len(classes))
    return file, report


def _semantic_report(cfg: 'Config', dataset: 'ConfigDict', kind: Any, training: bool) -> tuple[Path, 'checks.Report']:
    from repvit_dense.data import checks

    root = Path(dataset.get('data_root') or '')
    folders = [root / path for path in (dataset.get('data_prefix') or {}).values()]
    _require_exists(GET_MASKS, *folders, *([root / dataset.ann_file] if dataset.get('ann_file') else []))
    arguments = {key: value for key, value in dataset.items() if key != 'type'}
    try:
        data = kind(**{**arguments, 'pipeline': [], 'lazy_init': True})
        pairs = [(Path(entry['img_path']), Path(entry['seg_map_path'])) for entry in data.load_data_list()]
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(f'{root}: cannot be read as {kind.__name__} ({one_line(error)})') from error
    classes = data.metainfo.get('classes') or ()
    _check_class_counts(cfg, root, len(classes), len(classes))
    steps = (step for step in dataset.get('pipeline') or () if isinstance(step, dict))
    label_map = [(value + data.reduce_zero_label, label) for value, label in (data.label_map or {}).items()]
    label_map += [pair for step in steps for pair in step.get('label_map') or ()]
    return root, checks.semantic(pairs, classes, data.reduce_zero_label, label_map, training)


def _require_exists(hint: str, *paths: Path) -> None:
    for path in paths:
        if hint == GET_COCO and '2017' not in str(path):
            hint = GET_OWN
        if not os.path.exists(path):  # noqa: PTH110  unlike Path.exists it raises no error
            raise InputError(f'{path}: not found. {hint}')


def _check_class_counts(cfg: 'Config', data: Path, classes: int, things: int) -> None:
    """Refuse a head whose number of classes differs from the data's; boxes and instances count only things."""
    expected = dict(zip(CLASS_COUNTS, (things, things, classes - things), strict=True))
    for path, part in class_heads(cfg.model):
        for key, count in expected.items():
            if part.get(key, count) != count:
                kind = {'num_things_classes': 'things', 'num_stuff_classes': 'stuff classes'}.get(key, 'classes')
                raise InputError(
                    f'{path}.{key} = {part[key]}, but the data has {count} {kind} ({data}). '
                    f'Set it: --cfg-options {path}.{key}={count}'
                )
        weights = (part.get('loss_cls') or {}).get('class_weight')
        if isinstance(weights, list | tuple) and len(weights) != classes + 1:
            raise InputError(
                f'{path}.loss_cls.class_weight has {len(weights)} numbers, but {classes + 1} are needed: the data has '
                f"{classes} classes ({data}), and the last is for 'no object'. --data NAME or PATH sets it"
            )
