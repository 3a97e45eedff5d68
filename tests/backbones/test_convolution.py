"""The convolution of the backbones against numerical differentiation, torch's own, and what it keeps in memory."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from repvit_dense.backbones import convolution
from repvit_dense.backbones.convolution import Conv2d, conv2d, gelu, global_mean, large

LAYOUTS = [torch.contiguous_format, torch.channels_last]
GEOMETRIES = [
    {'kernel_size': 1},
    {'kernel_size': 3, 'stride': 2, 'padding': 1},
    {'kernel_size': 3, 'padding': 1, 'groups': 4},
    {'kernel_size': (1, 3), 'dilation': 2},
]
every_layout = pytest.mark.parametrize('layout', LAYOUTS, ids=str)
more_or_fewer = pytest.mark.parametrize('outputs', [8, 2])  # than inputs
every_geometry = pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
after_gelu_or_not = pytest.mark.parametrize('after_gelu', [False, True])


def image(layout=torch.contiguous_format, dtype=torch.float64):
    return torch.randn(2, 4, 5, 6, dtype=dtype).contiguous(memory_format=layout).requires_grad_()


def saved_by(call):
    """The tensors that `call` keeps for its backward pass."""
    saved = []
    pack = lambda tensor: saved.append(tensor) or tensor  # noqa: E731
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return saved


@every_layout
def test_gelu_is_that_of_torch_and_keeps_the_layout(layout):
    x = image(layout, torch.float32)
    same = x.detach().clone().requires_grad_()
    activated, expected = gelu(x), F.gelu(same)
    assert activated.is_contiguous(memory_format=layout)
    activated.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close([activated, x.grad], [expected, same.grad])


@pytest.fixture(params=['products', 'convolutions'])
def gradients_as(request, monkeypatch):
    """How the gradients of a 1x1 convolution are computed."""
    monkeypatch.setattr(convolution, 'MANY', 1)
    monkeypatch.setattr(convolution, '_multiplies_fast', lambda: request.param == 'products')


@pytest.mark.usefixtures('gradients_as')
@every_layout
@every_geometry
@pytest.mark.parametrize('options', [(False,), (True, True), (True, False)], ids=['plain', 'recomputed', 'kept'])
@pytest.mark.parametrize('bias', [True, False])
def test_the_result_is_that_of_torch_and_its_gradients_are_the_numerical_ones(layout, geometry, options, bias):
    conv, x = Conv2d(4, 8, bias=bias, **geometry).double(), image(layout)
    expected = nn.Conv2d.forward(conv, F.gelu(x) if options[0] else x)
    torch.testing.assert_close(conv(x, *options), expected)
    own = lambda x, weight, bias=None: conv2d(x, conv, weight, bias, *options)  # noqa: E731
    assert torch.autograd.gradcheck(own, (x, *conv.parameters()))


@pytest.mark.usefixtures('gradients_as')
@every_layout
@more_or_fewer
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_gradients_in_less_precision_are_those_of_torch(layout, outputs, dtype):
    conv, x = Conv2d(4, outputs, 1).to(dtype), image(layout, dtype)
    inputs = (x, *conv.parameters())
    expected = torch.autograd.grad(nn.Conv2d.forward(conv, F.gelu(x)).square().sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(conv(x, after_gelu=True).square().sum(), inputs), expected)


@pytest.mark.usefixtures('gradients_as')
@after_gelu_or_not
@more_or_fewer
@pytest.mark.parametrize('trained', ['x', 'weight', 'bias'])
def test_one_gradient_alone_is_that_of_torch(after_gelu, outputs, trained):
    conv, x = Conv2d(4, outputs, 1).double().requires_grad_(False), image(torch.channels_last).detach()
    one = {'x': x, 'weight': conv.weight, 'bias': conv.bias}[trained].requires_grad_()
    expected = torch.autograd.grad(nn.Conv2d.forward(conv, F.gelu(x) if after_gelu else x).square().sum(), one)
    torch.testing.assert_close(torch.autograd.grad(conv(x, after_gelu).square().sum(), one), expected)


@pytest.mark.parametrize(('channels', 'fast', 'products'), [(384, True, 2), (383, True, 0), (384, False, 0)])
def test_only_of_many_channels_gradients_are_matrix_products_if_those_are_fast(channels, fast, products, monkeypatch):
    monkeypatch.setattr(convolution, '_multiplies_fast', lambda: fast)
    conv = Conv2d(channels, channels, 1)
    x = torch.randn(1, channels, 2, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    loss = conv(x).square().sum()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loss.backward()
    assert sum(event.name == 'aten::mm' for event in profile.events()) == products


@pytest.mark.parametrize(('name', 'fast'), [('Intel Xeon', True), ('AMD EPYC', False), (None, False)])
def test_products_are_fast_where_mkl_is_at_home(name, fast, monkeypatch):
    about = {'cpu_name': name} if name else {}
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: about, raising=False)
    monkeypatch.setattr(torch.backends.mkl, 'is_available', lambda: True)
    assert convolution._multiplies_fast.__wrapped__() is fast


def test_a_depthwise_weight_gets_a_gradient_twice_as_exact_as_torch_s():
    torch.manual_seed(0)
    conv = Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
    x = torch.rand(8, 16, 64, 64).contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = copy.deepcopy(conv).double()

    def gradient(layer, convolved):
        return torch.autograd.grad(convolved.sum(), layer.weight)[0].double()

    expected = gradient(exact, nn.Conv2d.forward(exact, x.double()))
    own, plain = gradient(conv, conv(x)), gradient(conv, nn.Conv2d.forward(conv, x))
    assert (own - expected).abs().max() < (plain - expected).abs().max() / 2


@pytest.mark.parametrize(('recomputed', 'more'), [(True, 0), (False, 1)])
def test_of_a_gelu_only_the_input_is_kept_unless_asked(recomputed, more):
    conv, x = Conv2d(4, 8, 1), image(dtype=torch.float32)
    kept = {tensor.data_ptr() for tensor in saved_by(lambda: conv(x, True, recomputed))}
    assert kept >= {x.data_ptr(), conv.weight.data_ptr()}
    assert len(kept) == 2 + more


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
@every_layout
def test_a_global_mean_is_that_of_torch(layout, dtype):
    x, same = image(layout, dtype), torch.full((1, 1, 512, 512), 2.0, dtype=dtype)
    weight = torch.randn(2, 4, 1, 1, dtype=dtype)
    expected = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(global_mean(x), expected)
    gradients = [torch.autograd.grad(mean, x, weight)[0] for mean in (global_mean(x), expected)]
    torch.testing.assert_close(*gradients)
    assert global_mean(same).item() == 2  # the sum of float16 would be infinite


@pytest.mark.parametrize(('device', 'width', 'expected'), [('cpu', 1, True), ('meta', 1, False), ('meta', 512, True)])
def test_large_is_what_keeps_a_gpu_busy(device, width, expected):
    assert large(torch.empty(1, 64, 256, width, device=device)) is expected


def test_a_second_derivative_is_refused():
    conv, x = Conv2d(4, 8, 1).double(), image()
    (gradient,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        gradient.sum().backward()


@after_gelu_or_not
def test_autocast_computes_in_its_precision_and_returns_gradients_in_the_parameters(after_gelu):
    conv, x = Conv2d(4, 8, 1), image(dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        y = conv(x, after_gelu)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert {tensor.grad.dtype for tensor in (x, *conv.parameters())} == {torch.float32}


@after_gelu_or_not
def test_a_captured_graph_holds_a_plain_convolution(after_gelu):
    program = torch.export.export(Conv2d(4, 8, 1), (image(dtype=torch.float32), after_gelu))
    nodes = [node for node in program.graph.nodes if node.op == 'call_function']
    (convolution,) = (node for node in nodes if node.target is torch.ops.aten.conv2d.default)
    assert 2 not in [number for argument in convolution.args[3:] for number in argument], 'dilated'
    assert sum('gelu' in str(node.target) for node in nodes) == after_gelu
