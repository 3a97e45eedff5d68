"""Test that randomly initialised models have outputs that vary with the input."""

import pytest
import torch

from repvit_dense import config
from repvit_dense.benchmark import random_models
from repvit_dense.exporting.samples import drawn_images
from repvit_dense.model import predictor


def test_a_random_segmentor_predicts_several_classes():
    cfg = config.load('repvit_segformer_shapes', backbone='repvit_m0_6')
    model = random_models.build(cfg)
    prediction = predictor(model, cfg)(drawn_images(1)[0])
    assert len(prediction.pred_sem_seg.data.unique()) >= 6  # of 12 classes; a fresh network predicts one or two


@pytest.fixture
def scaled():
    """Yield a convolution whose outputs are scaled to a standard deviation of 2."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 1)
    handle = random_models._scale_outputs(layer, 2.0)
    yield layer
    handle.remove()


def test_every_channel_gets_mean_0_and_the_requested_deviation(scaled):
    output = scaled(torch.rand(1, 3, 8, 8))
    deviation, mean = torch.std_mean(output, (0, 2, 3), correction=0)
    torch.testing.assert_close(deviation, torch.full((4,), 2.0))
    torch.testing.assert_close(mean, torch.zeros(4), rtol=0, atol=1e-5)


def test_no_pyramid_level_exceeds_the_requested_deviation(scaled):
    small, large = torch.rand(1, 3, 8, 8), 50 * torch.rand(1, 3, 4, 4)
    scaled(small)
    scaled(large)
    assert scaled(large).std(correction=0).item() == pytest.approx(2.0, rel=1e-4)


def test_a_level_of_one_pixel_has_finite_outputs(scaled):
    assert scaled(torch.rand(1, 3, 1, 1)).isfinite().all()


def test_rounding_errors_are_not_amplified(scaled):
    output = scaled(1 + 1e-6 * torch.rand(1, 3, 8, 8))
    assert output.isfinite().all() and output.std((0, 2, 3)).max() < 0.1
