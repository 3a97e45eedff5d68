"""A batch to train on without any data: rectangles on noise, as mmdet's and mmseg's pipelines pack them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config

    from repvit_dense.benchmark.subjects import Setting

OBJECTS = 8  # in every picture, each of another class


def batch(cfg: 'Config', setting: 'Setting') -> dict:
    """`inputs` and `data_samples` of `setting.pictures()` for `model.data_preprocessor`, with all labels that any head
    of this config learns from."""
    import torch

    boxes = rectangles(setting.size)
    sample = _segmented if cfg.default_scope == 'mmseg' else _detected
    pictures = [torch.from_numpy(picture).permute(2, 0, 1) for picture in setting.pictures()]
    return {'inputs': pictures, 'data_samples': [sample(cfg, boxes, setting.size) for _ in pictures]}


def rectangles(size: tuple[int, int]) -> 'np.ndarray':
    """`(OBJECTS, 4)` float32, x1 y1 x2 y2 in whole pixels, from an eighth to half of a side long, always the same."""
    import numpy as np

    random, sides = np.random.default_rng(0), np.array(size[::-1])
    lengths = random.uniform(1 / 8, 1 / 2, (OBJECTS, 2)) * sides
    corners = random.uniform(0, 1, (OBJECTS, 2)) * (sides - lengths)
    return np.concatenate([corners, corners + lengths], 1).round().astype(np.float32)


def _detected(cfg: 'Config', boxes: 'np.ndarray', size: tuple[int, int]):
    import numpy as np
    import torch
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    masks = np.stack([_filled(box, size) for box in boxes])
    labels = torch.arange(OBJECTS)
    sample = DetDataSample(metainfo=_meta(size))
    sample.gt_instances = InstanceData(bboxes=torch.from_numpy(boxes), labels=labels, masks=BitmapMasks(masks, *size))
    sample.ignored_instances = InstanceData(bboxes=torch.empty(0, 4), labels=labels[:0])
    stuff = cfg.model.get('panoptic_head', {}).get('num_things_classes', 0)  # the label of the first one
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(_class_map(masks, stuff)))
    return sample


def _segmented(cfg: 'Config', boxes: 'np.ndarray', size: tuple[int, int]):
    import numpy as np
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    masks = np.stack([_filled(box, size) for box in boxes])
    sample = SegDataSample(metainfo=_meta(size))
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(_class_map(masks, OBJECTS)))
    return sample


def _meta(size: tuple[int, int]) -> dict:
    return {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'scale_factor': (1.0, 1.0)}


def _filled(box: 'np.ndarray', size: tuple[int, int]) -> 'np.ndarray':
    import numpy as np

    mask = np.zeros(size, np.uint8)
    left, top, right, bottom = box.astype(int)
    mask[top:bottom, left:right] = 1
    return mask


def _class_map(masks: 'np.ndarray', background: int) -> 'np.ndarray':
    """`(1, H, W)` int64: of each pixel the last mask's number, else the background's."""
    import numpy as np

    labels = np.full((1, *masks.shape[1:]), background, np.int64)
    for label, mask in enumerate(masks):
        labels[0][mask > 0] = label
    return labels
