"""The certificate: matching of detections, agreement, tolerances."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from repvit_dense.errors import InputError
from repvit_dense.exporting import certify, graphs
from repvit_dense.exporting.graphs.base import Graph

FP32 = certify.TOLERANCES['fp32']


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
    return certify.compare_outputs(task, [(reference, other)], tolerance)


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
    assert certify.box_iou(one, two) == pytest.approx(np.array([[1 / 3, 0], [0, 1]]))


class TwoConvs(nn.Module):
    """A model of two convolutions; the first is the backbone."""

    with_neck = False

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1)

    def backbone(self, images):
        return (self.first(images),)


class SegGraph(Graph):
    task = 'semantic'

    def forward(self, images, img_hw):
        return (self.model.head(self.model.backbone(images)[0]).argmax(1).int(),)


@pytest.fixture
def subject(monkeypatch):
    """Return the unfused model, its graph, a run function that calls the graph, and a batch."""
    monkeypatch.setattr(graphs, 'build', lambda model, plain=False: SegGraph(model, plain))
    model = TwoConvs().eval()
    graph = SegGraph(copy.deepcopy(model))

    def run(images, img_hw):
        return {'seg': graph(torch.from_numpy(images), torch.from_numpy(img_hw))[0].numpy()}

    images = np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)
    return model, graph, run, [(images, np.array([[32, 32]], np.float32))]


def test_an_equal_artifact_is_certified(subject):
    model, graph, run, inputs = subject
    certificate = certify.certify(model, graph, run, 'fp32', inputs)
    assert certificate['failures'] == []
    assert certificate['agreement'] == {'pixels': 1.0}
    assert certificate['stages'] == {'backbone 0': 0.0}
    assert certificate['parameters'] == {'before': 137, 'after': 137}
    # 3 * 3 * 3 * 4 + 4 * 5 multiply-accumulates at each of 1024 pixels, in billions
    assert certificate['macs']['after'] == pytest.approx(128 * 1024 / 1e9, abs=1e-3)
    assert set(certificate['milliseconds']) == {'pytorch_unfused', 'pytorch_fused', 'artifact'}


def test_a_wrong_artifact_is_refused_with_the_name_of_the_output(subject):
    model, graph, run, inputs = subject
    wrong = lambda images, img_hw: {'seg': (run(images, img_hw)['seg'] + 1) % 5}  # noqa: E731
    with pytest.raises(InputError, match='seg: pixels 0.0000, the minimum is 0.999'):
        certify.certify(model, graph, wrong, 'fp32', inputs)
    assert certify.certify(model, graph, wrong, 'fp32', inputs, verify=False)['failures']


def test_a_difference_after_fusing_is_reported_by_stage(subject):
    model, graph, run, inputs = subject
    with torch.no_grad():
        graph.model.first.weight.mul_(1.5)
    stages = certify.certify(model, graph, run, 'fp32', inputs)['stages']
    assert stages['backbone 0'] > 0.1


@pytest.mark.parametrize('thresholds', [False, True])
def test_the_tolerance_is_larger_for_networks_with_thresholds(subject, thresholds):
    model, graph, run, inputs = subject
    graph.thresholds = thresholds
    raw = certify.certify(model, graph, run, 'fp32', inputs)['tolerance']['raw']
    assert raw == pytest.approx(1e-2 if thresholds else 1e-3)
