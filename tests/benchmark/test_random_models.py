"""Random networks that answer."""

import pytest
import torch

from repvit_dense import config
from repvit_dense.benchmark import random_models
from repvit_dense.exporting.export import drawn_images
from repvit_dense.model import predictor


def test_answers_of_a_random_network_differ():
    cfg = config.load('repvit_segformer_shapes', backbone='repvit_m0_6')
    model = random_models.build(cfg)
    found = predictor(model, cfg)(drawn_images(1)[0])
    assert len(found.pred_sem_seg.data.unique()) >= 6  # of 12 classes; a fresh network knows one or two


@pytest.fixture
def scaled():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 1)
    handle = random_models._scale(layer, 2.0)
    yield layer
    handle.remove()


def test_every_channel_has_the_deviation_asked_for(scaled):
    answers = scaled(torch.rand(1, 3, 8, 8))
    deviation, mean = torch.std_mean(answers, (0, 2, 3), correction=0)
    torch.testing.assert_close(deviation, torch.full((4,), 2.0))
    torch.testing.assert_close(mean, torch.zeros(4), rtol=0, atol=1e-5)


def test_no_level_of_a_pyramid_has_larger_answers(scaled):
    small, large = torch.rand(1, 3, 8, 8), 50 * torch.rand(1, 3, 4, 4)
    scaled(small)
    scaled(large)
    assert scaled(large).std(correction=0).item() == pytest.approx(2.0, rel=1e-4)


def test_a_level_of_one_pixel_has_finite_answers(scaled):
    assert scaled(torch.rand(1, 3, 1, 1)).isfinite().all()


def test_what_hardly_differs_is_not_blown_up(scaled):
    answers = scaled(1 + 1e-6 * torch.rand(1, 3, 8, 8))
    assert answers.isfinite().all() and answers.std((0, 2, 3)).max() < 0.1
