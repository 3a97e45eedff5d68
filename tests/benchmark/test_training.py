"""Test memory and gradient errors of a training step on networks with known values."""

import copy

import pytest
import torch
from torch import nn

from repvit_dense.benchmark import training
from repvit_dense.benchmark.training import (
    gradient_error,
    merged_and_plain,
    peak_bytes,
    saved_bytes,
    statistics_error,
)


class Counted(nn.Module):
    """Saves its input twice (once as a view), one intermediate result of the same size, and its parameter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        y = x * self.weight
        return [y.exp() * x.flatten().reshape(x.shape)]


def test_saved_bytes_count_each_storage_once_and_no_parameter():
    x = torch.randn(10, 10)
    network = Counted()
    assert saved_bytes(network, lambda: network(x)) == 2 * x.nbytes  # x, exp(y)


def test_saved_bytes_are_0_without_gradients():
    with torch.no_grad():
        network, x = Counted(), torch.randn(10, 10)
        assert saved_bytes(network, lambda: network(x)) == 0


@pytest.fixture(scope='module')
def pair():
    """Return merged and plain RepViT-M0.6 after a training step, and the images of that step."""
    torch.manual_seed(0)
    merged, plain = merged_and_plain('m0_6')
    images = torch.randn(1, 3, 64, 64)
    for network in (merged, plain):
        training.training_step(network, images)
    return merged, plain, images


@pytest.fixture(scope='module')
def exact(pair):
    """Return the plain form after the same training step in float64."""
    _, plain, images = pair
    exact = copy.deepcopy(plain).double()
    training.training_step(exact, images.double())
    return exact


def test_merged_and_plain_features_are_equal(pair):
    merged, plain, images = pair
    torch.testing.assert_close(list(merged(images)), plain(images), rtol=1e-4, atol=1e-4)


def test_merged_and_plain_gradients_are_close_to_float64(pair, exact):
    assert max(gradient_error(network, exact) for network in pair[:2]) < 1e-4


def test_gradients_of_merged_kernels_are_exact_in_float64(pair, exact):
    merged, _, images = pair
    merged = copy.deepcopy(merged).double()
    training.training_step(merged, images.double())
    assert gradient_error(merged, exact) < 1e-10


def test_the_gradient_error_is_relative_to_the_gradient_of_the_parameter(pair, exact):
    merged = copy.deepcopy(pair[0])
    for parameter, original in zip(merged.parameters(), pair[0].parameters(), strict=True):
        parameter.grad = original.grad.clone()
    merged.stages[2].blocks[0].se.fc2.bias.grad *= 1.5
    assert gradient_error(merged, exact) == pytest.approx(0.5, rel=1e-3)


def test_merged_kernels_save_a_third_less_activation_memory(pair):
    merged, plain, _ = pair
    images = torch.randn(1, 3, 512, 512)  # large, so that the saved merged kernels hardly count
    assert saved_bytes(merged, lambda: merged(images)) < 0.65 * saved_bytes(plain, lambda: plain(images))


def test_peak_bytes_count_tensors_that_exist_at_the_same_time():
    def call():
        for _ in range(3):
            torch.empty(250_000)  # 1 MB, freed before the next one
        first, second = torch.empty(250_000), torch.empty(500_000)
        return first, second

    assert peak_bytes(call, torch.device('cpu')) == 3_000_000


def test_statistics_error_is_the_largest_relative_difference():
    torch.manual_seed(0)
    merged, plain = merged_and_plain('m0_6', frozen=False)
    images = torch.randn(2, 3, 64, 64)
    assert statistics_error(merged, plain) == 0
    for network in (merged, plain):
        training.training_step(network, images)
    assert statistics_error(merged, plain) < 1e-4
    with torch.no_grad():
        merged.stages[0].blocks[0].token_mixer.bn.running_var.mul_(1.5)
    assert statistics_error(merged, plain) == pytest.approx(0.5, rel=0.01)
