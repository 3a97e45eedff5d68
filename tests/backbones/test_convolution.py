"""Convolutions and GELU against numerical differentiation, torch's results, and the memory they keep."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from repvit_dense.backbones.convolution import (
    Conv2d,
    GeluConv2d,
    conv2d,
    gelu,
    gelu_conv2d,
    global_mean,
    is_large,
)

GEOMETRIES = [
    {'kernel_size': 1},
    {'kernel_size': 3, 'stride': 2, 'padding': 1},
    {'kernel_size': 3, 'padding': 1, 'groups': 4},
    {'kernel_size': (1, 3), 'dilation': 2},
]
every_layout = pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
every_geometry = pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
every_type = pytest.mark.parametrize('conv_type', [Conv2d, GeluConv2d])


def image(layout=torch.contiguous_format, dtype=torch.float64):
    return torch.randn(2, 4, 5, 6, dtype=dtype).contiguous(memory_format=layout).requires_grad_()


def expected_output(conv, x):
    return nn.Conv2d.forward(conv, F.gelu(x) if isinstance(conv, GeluConv2d) else x)


@every_layout
def test_gelu_equals_torchs_and_keeps_the_layout(layout):
    x = image(layout, torch.float32)
    copied = x.detach().clone().requires_grad_()
    activated, expected = gelu(x), F.gelu(copied)
    assert activated.is_contiguous(memory_format=layout)
    activated.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close([activated, x.grad], [expected, copied.grad])


@every_layout
@every_geometry
@pytest.mark.parametrize('recompute', [None, True, False], ids=['no GELU', 'recomputed', 'stored'])
@pytest.mark.parametrize('bias', [True, False])
def test_the_output_is_torchs_and_the_gradients_are_the_numerical_ones(layout, geometry, recompute, bias):
    conv = (Conv2d if recompute is None else GeluConv2d)(4, 8, bias=bias, **geometry).double()
    x = image(layout)

    def convolve(x, weight, bias=None):
        if recompute is None:
            return conv2d(x, conv, weight, bias)
        return gelu_conv2d(x, conv, weight, bias, recompute)

    torch.testing.assert_close(convolve(x, *conv.parameters()), expected_output(conv, x))
    assert torch.autograd.gradcheck(convolve, (x, *conv.parameters()))


@every_type
@every_layout
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_gradients_in_lower_precision_are_torchs(conv_type, layout, dtype):
    conv, x = conv_type(4, 8, 1).to(dtype), image(layout, dtype)
    inputs = (x, *conv.parameters())
    expected = torch.autograd.grad(expected_output(conv, x).square().sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(conv(x).square().sum(), inputs), expected)


@every_type
@pytest.mark.parametrize('trained', ['x', 'weight', 'bias'])
def test_a_single_gradient_is_torchs(conv_type, trained):
    conv, x = conv_type(4, 8, 1).double().requires_grad_(False), image(torch.channels_last).detach()
    tensor = {'x': x, 'weight': conv.weight, 'bias': conv.bias}[trained].requires_grad_()
    expected = torch.autograd.grad(expected_output(conv, x).square().sum(), tensor)
    torch.testing.assert_close(torch.autograd.grad(conv(x).square().sum(), tensor), expected)


def test_the_gradient_of_a_depthwise_weight_is_twice_as_exact_as_torchs():
    torch.manual_seed(0)
    conv = Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
    x = torch.rand(8, 16, 64, 64).contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = copy.deepcopy(conv).double()

    def gradient(layer, convolved):
        return torch.autograd.grad(convolved.sum(), layer.weight)[0].double()

    expected = gradient(exact, nn.Conv2d.forward(exact, x.double()))
    errors = [(gradient(conv, convolved) - expected).abs().max() for convolved in (conv(x), nn.Conv2d.forward(conv, x))]
    assert errors[0] < errors[1] / 2


@pytest.mark.parametrize(('recompute', 'more'), [(True, 0), (False, 1)])
def test_the_output_of_gelu_is_stored_only_without_recompute(recompute, more):
    conv, x = GeluConv2d(4, 8, 1), image(dtype=torch.float32)
    saved = set()
    with saved_tensors_hooks(lambda tensor: saved.add(tensor.data_ptr()) or tensor, lambda tensor: tensor):
        conv(x, recompute)
    assert saved >= {x.data_ptr(), conv.weight.data_ptr()}
    assert len(saved) == 2 + more


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
@every_layout
def test_the_global_mean_equals_torchs(layout, dtype):
    x, constant = image(layout, dtype), torch.full((1, 1, 512, 512), 2.0, dtype=dtype)
    weight = torch.randn(2, 4, 1, 1, dtype=dtype)
    expected = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(global_mean(x), expected)
    gradients = [torch.autograd.grad(mean, x, weight)[0] for mean in (global_mean(x), expected)]
    torch.testing.assert_close(*gradients)
    assert global_mean(constant).item() == 2  # the sum would be infinite in float16


@pytest.mark.parametrize(('device', 'width', 'expected'), [('cpu', 1, True), ('meta', 1, False), ('meta', 512, True)])
def test_on_a_gpu_an_activation_is_large_from_8_mi_elements_on(device, width, expected):
    assert is_large(torch.empty(1, 64, 256, width, device=device)) is expected


def test_a_second_derivative_is_refused():
    conv, x = Conv2d(4, 8, 1).double(), image()
    (gradient,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        gradient.sum().backward()


@every_type
def test_autocast_computes_in_its_precision_and_returns_gradients_in_the_parameters(conv_type):
    conv, x = conv_type(4, 8, 1), image(dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        y = conv(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert {tensor.grad.dtype for tensor in (x, *conv.parameters())} == {torch.float32}


@every_type
def test_a_captured_graph_holds_a_plain_convolution(conv_type):
    program = torch.export.export(conv_type(4, 8, 1), (image(dtype=torch.float32),))
    nodes = [node for node in program.graph.nodes if node.op == 'call_function']
    (convolution,) = (node for node in nodes if node.target is torch.ops.aten.conv2d.default)
    assert 2 not in [number for argument in convolution.args[3:] for number in argument], 'dilated'
    assert sum('gelu' in str(node.target) for node in nodes) == (conv_type is GeluConv2d)
