"""NMS, soft NMS and overlaps, against loops over boxes."""

import mmcv.ops as ops
import numpy as np
import pytest
import torch
import torchvision


def iou(a, b, offset=0, mode='iou'):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    overlap = max(width, 0) * max(height, 0)
    area_a, area_b = ((box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b))
    return overlap / (area_a if mode == 'iof' else area_a + area_b - overlap)


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.2, 0.4, 0.6])
def test_nms_keeps_boxes_that_no_better_box_overlaps(extension, draw_boxes, draw, threshold, offset):
    boxes, scores = draw_boxes(60), draw(60, dtype=torch.float32)
    expected = []
    for i in scores.argsort(descending=True).tolist():
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in expected):
            expected.append(i)
    dets, indices = ops.nms(boxes, scores, threshold, offset=offset)
    assert indices.tolist() == expected and len(expected) < 60
    assert torch.equal(dets, torch.cat((boxes, scores[:, None]), dim=1)[expected])
    few = ops.nms(boxes, scores, threshold, offset=offset, score_threshold=0.4, max_num=5)[1]
    assert few.tolist() == [i for i in expected if scores[i] > 0.4][:5]


def test_nms_threshold_is_a_float32(extension):
    # The IoU is 3/5. As float32 it exceeds 0.6 in double precision, but not 0.6 in single precision.
    boxes = torch.tensor([[0.0, 0, 4, 1], [1, 0, 5, 1]])
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1]) == 2
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.59)[1]) == 1


def test_nms_of_no_boxes(extension):
    dets, indices = ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5) and indices.dtype == torch.long


def test_batched_nms_runs_class_by_class(extension, draw_boxes, draw):
    boxes, scores, labels = draw_boxes(50), draw(50, dtype=torch.float32), torch.randint(3, (50,))
    expected = [
        int(members[i])
        for members in ((labels == label).nonzero()[:, 0] for label in range(3))
        for i in torchvision.ops.nms(boxes[members], scores[members], 0.4)
    ]
    _, indices = ops.batched_nms(boxes, scores, labels, {'type': 'nms', 'iou_threshold': 0.4})
    assert sorted(indices.tolist()) == sorted(expected)


def soft_nms_by_definition(boxes, scores, threshold, sigma, min_score, method, offset):
    """Move the best of the waiting boxes to the front, select it, and replace each dropped box by the last one."""
    scores = scores.double().tolist()
    waiting, selected = list(range(len(scores))), []
    while waiting:
        best = max(range(len(waiting)), key=lambda i: scores[waiting[i]])
        waiting[0], waiting[best] = waiting[best], waiting[0]
        selected.append(first := waiting.pop(0))
        i = 0
        while i < len(waiting):
            overlap = iou(boxes[first], boxes[waiting[i]], offset)
            decayed = {'naive': 0, 'linear': 1 - overlap}.get(method, np.exp(-(overlap**2) / sigma))
            if method == 'gaussian' or overlap >= threshold:
                scores[waiting[i]] *= decayed
            if scores[waiting[i]] >= min_score:
                i += 1
            elif i == len(waiting) - 1:
                waiting.pop()
            else:
                waiting[i] = waiting.pop()  # which is examined next
    return selected, [scores[i] for i in selected]


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('ties', [False, True])
def test_soft_nms_matches_its_definition(extension, draw_boxes, draw, method, offset, ties):
    boxes, scores = draw_boxes(40), draw(40, dtype=torch.float32)
    if ties:
        scores = (scores * 4).ceil() / 4
    options = {'iou_threshold': 0.3, 'sigma': 0.5, 'min_score': 0.2, 'method': method, 'offset': offset}
    expected, decayed = soft_nms_by_definition(boxes, scores, 0.3, 0.5, 0.2, method, offset)
    dets, indices = ops.soft_nms(boxes, scores, **options)
    assert indices.tolist() == expected and len(expected) < 40
    assert torch.equal(dets[:, :4], boxes[expected])
    np.testing.assert_allclose(dets[:, 4], decayed, rtol=1e-5)


def test_soft_nms_of_boxes_without_area_and_of_arrays(extension):
    boxes = np.array([[4, 3, 5, 3], [4, 3, 5, 4], [3, 1, 3, 1], [3, 1, 3, 1]], dtype=np.float32)
    dets, indices = ops.soft_nms(boxes, np.array([0.9, 0.8, 0.5, 0.0], dtype=np.float32), min_score=0.1)
    assert isinstance(dets, np.ndarray) and indices.tolist() == [0, 1, 2]
    dets, indices = ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5) and indices.shape == (0,)


def test_nms_match_groups_boxes_by_the_box_that_suppresses_them(extension, draw_boxes, draw):
    dets = torch.cat((draw_boxes(40), draw(40, 1, dtype=torch.float32)), dim=1)
    waiting, expected = dets[:, 4].argsort(descending=True).tolist(), []
    while waiting:
        first, *rest = waiting
        group = [i for i in rest if iou(dets[first], dets[i]) >= 0.4]
        expected.append([first, *group])
        waiting = [i for i in rest if i not in group]
    groups = ops.nms_match(dets, 0.4)
    assert [group.tolist() for group in groups] == expected and 1 < len(expected) < 40
    assert [group.tolist() for group in ops.nms_match(dets.numpy(), 0.4)] == expected


@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('offset', [0, 1])
def test_bbox_overlaps_match_their_definition(extension, draw_boxes, mode, offset):
    a, b = draw_boxes(5), draw_boxes(5)
    expected = np.array([[iou(p, q, offset, mode) for q in b] for p in a])
    assert (expected == 0).any()
    np.testing.assert_allclose(ops.bbox_overlaps(a, b, mode, offset=offset), expected, rtol=1e-4)
    np.testing.assert_allclose(ops.bbox_overlaps(a, b, mode, True, offset), expected.diagonal(), rtol=1e-4)
    assert ops.bbox_overlaps(a[:2], b, mode, offset=offset).shape == (2, 5)
