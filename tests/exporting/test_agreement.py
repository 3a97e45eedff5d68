"""The comparison of outputs: matching of detections, agreement, repeated detections."""

import copy

import numpy as np
import pytest

from repvit_dense.exporting import agreement

FP32 = agreement.TOLERANCES['fp32']


def detections(n=6, k=8, seed=0):
    """Return a batch of one image with n detections far apart, padded to k."""
    rng = np.random.default_rng(seed)
    corner = 50.0 * np.arange(k)[:, None] + np.zeros((1, 2))
    boxes = np.concatenate([corner, corner + 20], 1).astype(np.float32)
    scores = np.linspace(0.9, 0.3, k, dtype=np.float32)
    outputs = {
        'boxes': boxes[None],
        'scores': scores[None],
        'labels': (np.arange(k, dtype=np.int32) % 3)[None],
        'masks': rng.random((1, k, 28, 28), np.float32),
        'count': np.array([n], np.int32),
    }
    for name in ('boxes', 'scores', 'labels', 'masks'):
        outputs[name][:, n:] = 0
    return outputs


def compare(reference, other, task='instance', tolerance=FP32):
    return agreement.compare_outputs(task, [(reference, other)], tolerance)


def test_equal_detections_match_in_any_order():
    reference = detections()
    order = [3, 1, 0, 2, 5, 4, 6, 7]
    other = {name: value[:, order] if name != 'count' else value for name, value in reference.items()}
    outputs, agreement = compare(reference, other)
    assert agreement == {'detections': 6, 'matched': 1.0, 'mask_iou': 1.0}
    assert all(difference['absolute'] == 0 for difference in outputs.values())


@pytest.mark.parametrize(
    ('name', 'change'),
    [('labels', 1), ('scores', 0.01), ('boxes', np.array([5, 0, 5, 0], np.float32))],
)
def test_a_changed_detection_has_no_partner(name, change):
    reference, other = detections(), detections()
    other[name][0, 2] += change
    assert compare(reference, other)[1]['matched'] == pytest.approx(5 / 6)


@pytest.mark.parametrize('counts', [(5, 6), (6, 5)])
def test_missing_and_surplus_detections_count(counts):
    reference, other = map(detections, counts)
    assert compare(reference, other)[1]['matched'] == pytest.approx(5 / 6)


def test_two_equal_detections_need_two_partners():
    reference, other = detections(2), detections(2)
    for name in ('boxes', 'scores', 'labels'):
        reference[name][0, 1] = reference[name][0, 0]
    assert compare(reference, other)[1]['matched'] == 0.5


def test_no_detections_on_both_sides_agree():
    assert compare(detections(0), detections(0))[1] == {'detections': 0, 'matched': 1.0}


def test_differences_are_measured_between_partners():
    reference, other = detections(), detections()
    other['boxes'][0, 1] += 0.05
    outputs, _ = compare(reference, other)
    assert outputs['boxes']['absolute'] == pytest.approx(0.05, rel=1e-3)
    assert outputs['boxes']['relative'] == pytest.approx(0.05 / 270, rel=1e-3)  # 270 is the end of the sixth box


def test_panoptic_segments_are_matched_by_their_masks():
    reference = {name: value for name, value in detections().items() if name != 'boxes'}
    other = copy.deepcopy(reference)
    other['masks'][0, 4] = 1 - other['masks'][0, 4]
    assert compare(reference, reference, 'panoptic')[1]['matched'] == 1
    assert compare(reference, other, 'panoptic')[1]['matched'] == pytest.approx(5 / 6)


def test_class_maps_are_compared_by_pixel():
    seg = np.zeros((1, 10, 10), np.int32)
    other = seg.copy()
    other[0, 0, :3] = 1
    assert compare({'seg': seg}, {'seg': other}, 'semantic') == ({}, {'pixels': 0.97})


def test_box_iou():
    one = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    two = np.array([[0, 5, 10, 15], [5, 5, 5, 5]], np.float32)
    assert agreement.box_iou(one, two) == pytest.approx(np.array([[1 / 3, 0], [0, 1]]))


def test_tied_detections_are_matched_by_their_overlap():
    """The first reference overlaps both enough; only the other order gives both a partner."""
    reference, other = detections(2), detections(2)
    for outputs in (reference, other):
        outputs['labels'][:], outputs['scores'][:, :2], outputs['masks'][:] = 0, 0.5, 0
    boxes = np.array([[0, 0, 1000, 100], [0, 0, 1008, 100], [0, 0, 1004, 100]], np.float32)
    reference['boxes'][0, :2], other['boxes'][0, :2] = boxes[[2, 0]], boxes[[0, 1]]
    assert compare(reference, other)[1]['matched'] == 1


@pytest.mark.parametrize('references, found', [([[0, 1]], 2), ([[0, 1], [1, 4]], 3), ([[6, 7]], 0)])
def test_repeated_detections_are_counted(references, found):
    full = detections(8)
    chosen = [
        {**{name: full[name][:, order] for name in full if name != 'count'}, 'count': np.array([2])}
        for order in references
    ]
    outputs = {**full, 'count': np.array([5])}
    assert agreement.count_repeated('detection', outputs, chosen, FP32, 0.5) == (found, 5)


def test_repeated_pixels_are_counted():
    seg = np.array([[[0, 1], [2, 3]]])
    assert agreement.count_repeated('semantic', {'seg': seg}, [{'seg': seg * 0}, {'seg': seg * 0 + 2}], FP32, 0) == (
        2,
        4,
    )
