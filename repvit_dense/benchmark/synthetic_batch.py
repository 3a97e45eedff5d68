"""A training batch without a data set: rectangles on noise, packed like the pipelines of mmdet and mmseg."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config

    from repvit_dense.benchmark.workload import Workload

OBJECTS = 8  # per image, each of another class


def synthetic_batch(cfg: 'Config', workload: 'Workload') -> dict:
    """Return `inputs` and `data_samples` for `model.data_preprocessor`.

    The inputs are `workload.pictures()`. The samples hold the ground truth of any head: boxes, masks, labels and a
    class map.
    """
    import torch

    boxes = rectangles(workload.size)
    make_sample = _segmentation_sample if cfg.default_scope == 'mmseg' else _detection_sample
    images = [torch.from_numpy(picture).permute(2, 0, 1) for picture in workload.pictures()]
    return {'inputs': images, 'data_samples': [make_sample(cfg, boxes, workload.size) for _ in images]}


def rectangles(size: tuple[int, int]) -> 'np.ndarray':
    """Return boxes `(OBJECTS, 4)`, float32, as x1 y1 x2 y2 in whole pixels, drawn with a fixed seed.

    Each side is between an eighth and half of the image side.
    """
    import numpy as np

    random, sides = np.random.default_rng(0), np.array(size[::-1])
    lengths = random.uniform(1 / 8, 1 / 2, (OBJECTS, 2)) * sides
    corners = random.uniform(0, 1, (OBJECTS, 2)) * (sides - lengths)
    return np.concatenate([corners, corners + lengths], 1).round().astype(np.float32)


def _detection_sample(cfg: 'Config', boxes: 'np.ndarray', size: tuple[int, int]):
    import numpy as np
    import torch
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    masks = np.stack([_box_mask(box, size) for box in boxes])
    labels = torch.arange(OBJECTS)
    sample = DetDataSample(metainfo=_meta(size))
    sample.gt_instances = InstanceData(bboxes=torch.from_numpy(boxes), labels=labels, masks=BitmapMasks(masks, *size))
    sample.ignored_instances = InstanceData(bboxes=torch.empty(0, 4), labels=labels[:0])
    background = cfg.model.get('panoptic_head', {}).get('num_things_classes', 0)  # the first stuff class
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(_class_map(masks, background)))
    return sample


def _segmentation_sample(cfg: 'Config', boxes: 'np.ndarray', size: tuple[int, int]):
    import numpy as np
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    masks = np.stack([_box_mask(box, size) for box in boxes])
    sample = SegDataSample(metainfo=_meta(size))
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(_class_map(masks, OBJECTS)))
    return sample


def _meta(size: tuple[int, int]) -> dict:
    return {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'scale_factor': (1.0, 1.0)}


def _box_mask(box: 'np.ndarray', size: tuple[int, int]) -> 'np.ndarray':
    import numpy as np

    mask = np.zeros(size, np.uint8)
    left, top, right, bottom = box.astype(int)
    mask[top:bottom, left:right] = 1
    return mask


def _class_map(masks: 'np.ndarray', background: int) -> 'np.ndarray':
    """Return `(1, H, W)`, int64: the index of the last mask that covers a pixel, or `background`."""
    import numpy as np

    labels = np.full((1, *masks.shape[1:]), background, np.int64)
    for label, mask in enumerate(masks):
        labels[0][mask > 0] = label
    return labels
