"""Comparison of features and gradients of two networks, for the tests of backbones."""

import torch

from repvit_dense.checkpoints.layouts import convert


def images(size=64, batch=2, dtype=torch.float32):
    """Return the same random images at every call; `size` is a side or (height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


def backward(features):
    """Backpropagate a fixed random linear function of the features; no symmetry makes its gradients vanish."""
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(feature.shape, dtype=torch.float64, generator=generator).to(feature) for feature in features]
    total = sum((feature * weight).mean() for feature, weight in zip(features, weights, strict=True))
    total.backward()


def gradients_of(model):
    return [parameter.grad for parameter in model.parameters()]


def assert_close(actual, expected, tolerance):
    """Compare tensor by tensor the largest difference relative to the largest expected value.

    A tensor that ought to be zero (the gradient of a bias before a live batch norm) is measured against the others.
    """
    largest = [tensor.abs().max().item() for tensor in expected]
    floor = 1e-6 * max(largest)
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == b.shape
        error = (a - b).abs().max().item() / max(largest[i], floor)
        assert error < tolerance, f'tensor {i}: relative error {error:.1e}'


def assert_same_gradients(model, plain, tolerance):
    """Compare gradients of a RepViT with those of timm's, `plain`."""
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    expected = convert(plain.state_dict() | gradients, to='repvit_dense')
    names = [name for name, _ in model.named_parameters()]
    assert_close(gradients_of(model), [expected[name] for name in names], tolerance)
