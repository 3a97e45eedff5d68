"""Convert the data samples of mmdet and mmseg to the fields of `repvit_dense.artifact.result.Result`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mmengine.structures import BaseDataElement


def arrays(sample: 'BaseDataElement', num_classes: int) -> dict[str, Any]:
    """Return the prediction in a data sample."""
    if sample.get('pred_panoptic_seg') is not None:
        return _panoptic_arrays(sample.pred_panoptic_seg.sem_seg[0].numpy(), num_classes)
    if sample.get('pred_sem_seg') is not None:
        return {'seg': _class_map(sample.pred_sem_seg)}
    return _instance_arrays(sample.get('pred_instances'))


def ground_truth(sample: 'BaseDataElement', num_classes: int) -> dict[str, Any]:
    """Return the annotations in a data sample; objects have no `scores`."""
    seg = None if sample.get('gt_sem_seg') is None else _class_map(sample.gt_sem_seg)
    objects = _instance_arrays(sample.get('gt_instances'))
    if seg is None or not objects:
        return {'seg': seg} if seg is not None else objects
    labels = [int(label) for label in np.unique(seg) if label < num_classes]
    stuff = [(seg == label, label) for label in labels]
    return _merge(seg.shape, [*stuff, *zip(objects.get('masks', ()), objects['labels'], strict=False)])


def _class_map(seg: 'BaseDataElement') -> np.ndarray:
    return next(iter(seg.values()))[0].numpy()  # mmdet and mmseg name it differently


def _instance_arrays(instances: 'BaseDataElement | None') -> dict[str, Any]:
    if instances is None:
        return {}
    names = {'boxes': 'bboxes', 'scores': 'scores', 'labels': 'labels', 'masks': 'masks'}
    return {name: _to_numpy(instances[key]) for name, key in names.items() if key in instances}


def _to_numpy(values: Any) -> np.ndarray:
    """Convert a tensor, boxes or masks of mmdet."""
    if hasattr(values, 'to_ndarray'):
        return values.to_ndarray().astype(bool)
    return getattr(values, 'tensor', values).numpy()


def _merge(shape: tuple, parts: Sequence[tuple[np.ndarray, int]]) -> dict[str, Any]:
    """Return panoptic segments from masks and labels; later masks cover earlier ones."""
    segments = np.zeros(shape, np.int32)
    for number, (mask, _) in enumerate(parts, start=1):
        segments[mask] = number
    info = [{'number': number, 'label': int(label)} for number, (_, label) in enumerate(parts, start=1)]
    return {'segments': segments, 'segment_info': info}


def _panoptic_arrays(ids: np.ndarray, num_classes: int) -> dict[str, Any]:
    """Convert mmdet's panoptic map, which holds class + 1000 * object, or `num_classes` for no segment."""
    from mmdet.evaluation import INSTANCE_OFFSET

    present, indices = np.unique(ids, return_inverse=True)
    labels = present % INSTANCE_OFFSET
    numbers = np.where(labels < num_classes, np.cumsum(labels < num_classes), 0)
    info = [
        {'number': int(number), 'label': int(label), 'is_thing': bool(segment >= INSTANCE_OFFSET)}
        for number, label, segment in zip(numbers, labels, present, strict=True)
        if number
    ]
    return {'segments': numbers[indices].reshape(ids.shape), 'segment_info': info}
