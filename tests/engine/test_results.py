"""Data samples of mmdet and mmseg as fields of a `Result`."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData

from repvit_dense.engine.results import arrays, ground_truth


def objects(**fields):
    boxes = torch.tensor([[0.0, 0, 2, 3]])
    return InstanceData(bboxes=boxes, labels=torch.tensor([1]), **fields)


def class_map(*rows):
    return PixelData(sem_seg=torch.tensor([rows]))


def test_detections():
    result = arrays(DetDataSample(pred_instances=objects(scores=torch.tensor([0.9]))), 8)
    assert result['boxes'].tolist() == [[0, 0, 2, 3]]
    assert result.keys() == {'boxes', 'scores', 'labels'}


def test_a_class_map():
    assert arrays(DetDataSample(pred_sem_seg=class_map([2, 2, 2, 0])), 8)['seg'].tolist() == [[2, 2, 2, 0]]


def test_a_panoptic_map():
    """mmdet writes class + 1000 * object, and the number of classes for pixels without a segment."""
    ids = class_map([1000, 2000, 2000, 8, 7, 7, 7, 7])
    result = arrays(DetDataSample(pred_panoptic_seg=ids), 8)
    assert result['segments'].tolist() == [[2, 3, 3, 0, 1, 1, 1, 1]]
    assert result['segment_info'] == [
        {'number': 1, 'label': 7, 'is_thing': False},
        {'number': 2, 'label': 0, 'is_thing': True},
        {'number': 3, 'label': 0, 'is_thing': True},
    ]


def test_annotated_objects_have_no_scores():
    masks = BitmapMasks(np.ones((1, 3, 4), np.uint8), 3, 4)
    annotated = InstanceData(bboxes=HorizontalBoxes([[0.0, 0, 2, 3]]), labels=torch.tensor([1]), masks=masks)
    result = ground_truth(DetDataSample(gt_instances=annotated), 8)
    assert result.keys() == {'boxes', 'labels', 'masks'}
    assert result['boxes'].tolist() == [[0, 0, 2, 3]]
    assert (result['masks'].shape, result['masks'].dtype) == ((1, 3, 4), bool)


def test_annotated_objects_cover_the_classes_of_a_panoptic_image():
    masks = BitmapMasks(np.array([[[0, 1, 1, 0]]], np.uint8), 1, 4)
    sample = DetDataSample(gt_instances=objects(masks=masks), gt_sem_seg=class_map([7, 7, 1, 255]))
    result = ground_truth(sample, 8)
    labels = {part['number']: part['label'] for part in result['segment_info']}
    assert [labels.get(number) for number in result['segments'][0].tolist()] == [7, 1, 1, None]


def test_an_annotated_class_map():
    assert ground_truth(DetDataSample(gt_sem_seg=class_map([2, 255])), 8)['seg'].tolist() == [[2, 255]]
