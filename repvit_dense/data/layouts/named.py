"""Data sets that are found by their name."""

import ast
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from repvit_dense.data.layouts.masks import folder_arguments
from repvit_dense.data.reading import read_text
from repvit_dense.data.source import SPLITS, Source, metainfo, panoptic_metainfo
from repvit_dense.errors import InputError

EMBEDDED = {'root': 'data/shapes', 'seed': 0, 'num_train': 500, 'num_val': 100, 'size': (256, 256)}
COCO_SPLITS = ('train2017', 'val2017')


def read(name: str, task: str) -> Source:
    """Return the data set with this name, which must be in `NAMES`.

    Raises:
        InputError: the data set lacks the labels of this task.
    """
    if task not in NAMES[name]:
        suitable = [other for other in NAMES if task in NAMES[other]]
        raise InputError(
            f'--data {name} suits {" and ".join(NAMES[name])} configs; for this {task} config: {", ".join(suitable)}, '
            'or a path'
        )
    return NAMES[name][task]()


def _coco() -> Source:
    return _coco_instances('data/coco/', _metainfo('mmdet', 'coco', 'CocoDataset')['classes'])


def _coco_panoptic() -> Source:
    meta = _metainfo('mmdet', 'coco_panoptic', 'CocoPanopticDataset')
    return _coco_panoptic_maps('data/coco/', meta['classes'], len(meta['thing_classes']))


def _shapes() -> Source:
    from repvit_dense.data.shapes import THING_CLASSES

    root = f'{EMBEDDED["root"]}/'
    return _coco_instances(root, THING_CLASSES, metainfo=metainfo(THING_CLASSES), embedded=EMBEDDED)


def _shapes_panoptic() -> Source:
    from repvit_dense.data.shapes import STUFF_CLASSES, THING_CLASSES

    root, meta = f'{EMBEDDED["root"]}/', panoptic_metainfo(THING_CLASSES, STUFF_CLASSES)
    return _coco_panoptic_maps(root, meta['classes'], len(THING_CLASSES), metainfo=meta, embedded=EMBEDDED)


def _shapes_semantic() -> Source:
    from repvit_dense.data.shapes import STUFF_CLASSES, THING_CLASSES

    classes = THING_CLASSES + STUFF_CLASSES
    train, val = (
        folder_arguments(
            f'{EMBEDDED["root"]}/', split, f'annotations/semantic_{split}', img_suffix='.png', seg_map_suffix='.png'
        )
        for split in COCO_SPLITS
    )
    return Source('BaseSegDataset', classes, len(classes), train, val, metainfo(classes), embedded=EMBEDDED)


def _ade20k() -> Source:
    root = 'data/ADEChallengeData2016/'
    splits = (folder_arguments(root, f'images/{split}', f'annotations/{split}') for split in ('training', 'validation'))
    return _mmseg('ade', 'ADE20KDataset', splits)


def _cityscapes() -> Source:
    splits = (folder_arguments('data/cityscapes/', f'leftImg8bit/{split}', f'gtFine/{split}') for split in SPLITS)
    return _mmseg('cityscapes', 'CityscapesDataset', splits)


def _voc() -> Source:
    """Return Pascal VOC 2012 with the additional training masks of SBD, which published results use."""
    splits = (
        folder_arguments('data/VOCdevkit/VOC2012/', 'JPEGImages', masks, ann_file=f'ImageSets/Segmentation/{split}.txt')
        for split, masks in (('trainaug', 'SegmentationClassAug'), ('val', 'SegmentationClass'))
    )
    return _mmseg('voc', 'PascalVOCDataset', splits)


def _coco_instances(root: str, classes: tuple[str, ...], **fields: Any) -> Source:
    train, val = (
        {'data_root': root, 'ann_file': f'annotations/instances_{split}.json', 'data_prefix': {'img': f'{split}/'}}
        for split in COCO_SPLITS
    )
    files = {'instances': f'{root}annotations/instances_{COCO_SPLITS[1]}.json'}
    return Source('CocoDataset', classes, len(classes), train, val, ann_files=files, **fields)


def _coco_panoptic_maps(root: str, classes: tuple[str, ...], things: int, **fields: Any) -> Source:
    train, val = (
        {
            'data_root': root,
            'ann_file': f'annotations/panoptic_{split}.json',
            'data_prefix': {'img': f'{split}/', 'seg': f'annotations/panoptic_{split}/'},
        }
        for split in COCO_SPLITS
    )
    files = {
        'panoptic': f'{root}annotations/panoptic_{COCO_SPLITS[1]}.json',
        'maps': f'{root}annotations/panoptic_{COCO_SPLITS[1]}/',
        'instances': f'{root}annotations/instances_{COCO_SPLITS[1]}.json',
    }
    return Source('CocoPanopticDataset', classes, things, train, val, ann_files=files, **fields)


def _mmseg(module: str, dataset: str, splits: Iterable[dict]) -> Source:
    classes = tuple(_metainfo('mmseg', module, dataset)['classes'])
    train, val = splits
    return Source(dataset, classes, len(classes), train, val)


def _metainfo(library: str, module: str, dataset: str) -> dict[str, Any]:
    """Return the constant METAINFO of a data set from its source code, because importing the library takes seconds."""
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        raise InputError(f'{library} is not installed')
    for node in ast.walk(ast.parse(read_text(Path(spec.origin).with_name('datasets') / f'{module}.py'))):
        if isinstance(node, ast.ClassDef) and node.name == dataset:
            value = next(
                part.value for part in node.body if isinstance(part, ast.Assign) and 'METAINFO' in ast.dump(part)
            )
            if isinstance(value, ast.Call):  # dict(classes=...)
                return {str(item.arg): ast.literal_eval(item.value) for item in value.keywords}
            return dict(ast.literal_eval(value))
    raise InputError(f'{library} has no data set {dataset}')


# Name -> task -> function that returns the data set.
NAMES: dict[str, dict[str, Callable[[], Source]]] = {
    'coco': {'detection': _coco, 'instance': _coco},
    'coco-panoptic': {'panoptic': _coco_panoptic},
    'ade20k': {'semantic': _ade20k},
    'cityscapes': {'semantic': _cityscapes},
    'voc': {'semantic': _voc},
    'shapes': {
        'detection': _shapes,
        'instance': _shapes,
        'panoptic': _shapes_panoptic,
        'semantic': _shapes_semantic,
    },
}
