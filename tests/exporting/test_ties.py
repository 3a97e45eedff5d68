"""Artifacts of models with tied scores: passed if index order decides, kept if chance does, refused if wrong."""

import numpy as np
import pytest
import torch
from torch import nn

from repvit_dense.errors import InputError
from repvit_dense.exporting import certify, graphs, ties
from repvit_dense.exporting.graphs.base import Graph

COUNT, BEST = 40, 10


class Candidates(nn.Module):
    """A detector of 40 boxes on a grid; the image adds 0 to their scores."""

    with_neck = False

    def __init__(self, scores):
        super().__init__()
        corner = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(5.0), indexing='ij'), -1).view(-1, 2) * 50
        self.boxes, self.scores = torch.cat((corner, corner + 30), 1), nn.Parameter(scores)

    def backbone(self, images):
        return (images,)


class Detections(Graph):
    """The ten boxes of highest score."""

    task = 'detection'

    def forward(self, images, img_hw):
        scores, index = (self.model.scores + 0 * images.mean()).expand(len(images), -1).topk(BEST)
        labels = torch.zeros(len(images), BEST, dtype=torch.int32)
        return self.model.boxes[index], scores, labels, torch.full((len(images),), BEST, dtype=torch.int32)


@pytest.fixture
def certified(monkeypatch):
    """Return `certified(scores, run)`, the certificate of an artifact whose outputs are `run(graph, batch)`."""
    monkeypatch.setattr(graphs, 'build', lambda model, plain=False: Detections(model, plain))

    def certified(scores, run, **options):
        model = Candidates(scores).eval()
        graph = Detections(model)
        batches = [(np.zeros((1, 3, 8, 8), np.float32), np.array([[8, 8]], np.float32))] * 3
        return certify.certify(model, graph, lambda *batch: run(graph, batch), 'fp32', batches, **options)

    return certified


def by_index(graph, batch):
    return ties.run_graph(graph, batch, ties.BreakTies())


def by_chance(graph, batch):
    return ties.run_graph(graph, batch, ties.BreakTies(noise=1e-4, seed=99))


def moved(graph, batch):
    outputs = by_chance(graph, batch)
    return {**outputs, 'boxes': outputs['boxes'] + 10}


def of_another_score(graph, batch):
    outputs = by_chance(graph, batch)
    return {**outputs, 'scores': outputs['scores'] + 0.01}


CONSTANT = torch.full((COUNT,), 0.3)
CLOSE = CONSTANT + 1e-6 * torch.linspace(0, 1, COUNT)
APART = torch.linspace(0.9, 0.1, COUNT)


@pytest.mark.parametrize('scores', [CONSTANT, CLOSE, APART], ids=['constant', 'close', 'apart'])
def test_the_order_of_the_runtimes_passes(certified, scores):
    certificate = certified(scores, by_index)
    assert certificate['failures'] == [] and 'tied' not in certificate
    assert certificate['agreement'] == {'detections': 3 * BEST, 'matched': 1}


@pytest.mark.parametrize('scores', [CONSTANT, CLOSE], ids=['constant', 'close'])
def test_another_choice_among_tied_scores_is_tied(certified, scores):
    certificate = certified(scores, by_chance)
    assert certificate['failures'] and 0.4 < certificate['tied'] < 1
    assert certificate['agreement']['matched'] < 0.9


@pytest.mark.parametrize('run', [moved, of_another_score])
@pytest.mark.parametrize('scores', [CONSTANT, CLOSE, APART], ids=['constant', 'close', 'apart'])
def test_a_wrong_artifact_is_refused_whatever_the_scores(certified, scores, run):
    with pytest.raises(InputError, match=r'detections: matched 0.0000, .*\(--no-verify writes it\)'):
        certified(scores, run)
    assert 'tied' not in certified(scores, run, verify=False)


def test_another_choice_among_scores_apart_is_refused(certified):
    def run(graph, batch):
        graph.model.scores.data, before = graph.model.scores.data.flip(0), graph.model.scores.data
        outputs = by_index(graph, batch)
        graph.model.scores.data = before
        return outputs

    with pytest.raises(InputError, match='differs from the model'):
        certified(APART, run)


@pytest.mark.parametrize('noise', [0, 1e-6])
def test_breaking_ties_changes_no_other_order(noise):
    values = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    with ties.BreakTies(noise):
        best, index = values.topk(7)
        largest = values.argmax(1)
    assert torch.equal(best, values.topk(7)[0]) and torch.equal(index, values.topk(7)[1])
    assert torch.equal(largest, values.argmax(1))


def test_equal_values_are_taken_by_index_or_by_chance():
    values = torch.ones(1, 100)
    with ties.BreakTies():
        assert values.topk(3)[1].tolist() == [[0, 1, 2]]
    choices = set()
    for seed in range(5):
        with ties.BreakTies(1e-6, seed):
            choices.add((*values.topk(3)[1][0].tolist(), values.argmax(1).item()))
    assert len(choices) == 5


class Classes(Graph):
    """A class map of logits that are tied in half of the pixels."""

    task = 'semantic'

    def forward(self, images, img_hw):
        return ((self.model(images) * 0 + 1 + torch.eye(3)[0][:, None, None] * (images[:, :1] > 0)).argmax(1).int(),)


def test_tied_pixels(monkeypatch):
    graph = Classes(nn.Identity())
    batch = (np.random.default_rng(0).standard_normal((1, 3, 8, 8), np.float32), np.array([[8, 8]], np.float32))
    reference, other = ties.run_graph(graph, batch), ties.run_graph(graph, batch, ties.BreakTies(1e-4, 9))
    arguments = graph, [batch], [reference]
    tolerance = certify.TOLERANCES['fp32']
    assert 0.8 < ties.repeated_share(*arguments, [other], tolerance, 0.5) <= 1
    wrong = {'seg': (other['seg'] + 3) % 7}
    assert ties.repeated_share(*arguments, [wrong], tolerance, 0.5) is None
