"""The certificate: agreement, tolerances, tied scores."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from repvit_dense.errors import InputError
from repvit_dense.exporting import certify, graphs
from repvit_dense.exporting.graphs.base import Graph


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
