"""Memory and gradients of a training step, on networks where both are known."""

import copy

import pytest
import torch
from torch import nn

from repvit_dense.benchmark import training
from repvit_dense.benchmark.training import gradient_error, peak_bytes, saved_bytes, statistics_error, twins


class Counted(nn.Module):
    """Saves its input twice (once as a view) and an intermediate result of the same size; the weight is its own."""

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


def test_saved_bytes_without_gradients_are_none():
    with torch.no_grad():
        network, x = Counted(), torch.randn(10, 10)
        assert saved_bytes(network, lambda: network(x)) == 0


@pytest.fixture(scope='module')
def pair():
    torch.manual_seed(0)
    merged, plain = twins('m0_6')
    images = torch.randn(1, 3, 64, 64)
    for network in (merged, plain):
        training.training_step(network, images)
    return merged, plain, images


@pytest.fixture(scope='module')
def exact(pair):
    _, plain, images = pair
    exact = copy.deepcopy(plain).double()
    training.training_step(exact, images.double())
    return exact


def test_twins_give_equal_features(pair):
    merged, plain, images = pair
    torch.testing.assert_close(list(merged(images)), plain(images), rtol=1e-4, atol=1e-4)


def test_both_twins_give_the_gradients_of_float64(pair, exact):
    assert max(gradient_error(network, exact) for network in pair[:2]) < 1e-4


def test_gradients_of_merged_kernels_are_exact_in_float64(pair, exact):
    merged, _, images = pair
    merged = copy.deepcopy(merged).double()
    training.training_step(merged, images.double())
    assert gradient_error(merged, exact) < 1e-10


def test_gradient_error_is_relative_to_the_parameters_own_gradient(pair, exact):
    merged = copy.deepcopy(pair[0])
    for parameter, own in zip(merged.parameters(), pair[0].parameters(), strict=True):
        parameter.grad = own.grad.clone()
    merged.stages[2].blocks[0].se.fc2.bias.grad *= 1.5
    assert gradient_error(merged, exact) == pytest.approx(0.5, rel=1e-3)


def test_merged_kernels_keep_a_third_less_activation_memory(pair):
    merged, plain, _ = pair
    images = torch.randn(1, 3, 512, 512)  # the merged kernels themselves, saved as well, are small against these
    assert saved_bytes(merged, lambda: merged(images)) < 0.65 * saved_bytes(plain, lambda: plain(images))


def test_peak_bytes_are_what_was_alive_at_once():
    def call():
        for _ in range(3):
            torch.empty(250_000)  # a megabyte, gone before the next
        first, second = torch.empty(250_000), torch.empty(500_000)
        return first, second

    assert peak_bytes(call, torch.device('cpu')) == 3_000_000


def test_running_statistics_of_live_twins_are_equal():
    torch.manual_seed(0)
    merged, plain = twins('m0_6', frozen=False)
    images = torch.randn(2, 3, 64, 64)
    before = statistics_error(merged, plain)
    for network in (merged, plain):
        training.training_step(network, images)
    assert before == 0 and statistics_error(merged, plain) < 1e-4
    with torch.no_grad():
        merged.stages[0].blocks[0].token_mixer.bn.running_var.mul_(1.5)
    assert statistics_error(merged, plain) == pytest.approx(0.5, rel=0.01)
