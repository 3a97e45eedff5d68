"""Folding and merging against the layers they replace, in float64; `reparameterize_model` against its docstring."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repvit_dense.reparam import bn_affine, conv_like, fold_bn, merge_depthwise, reparameterize_model

pytestmark = pytest.mark.usefixtures('float64')


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Affine(nn.Module):
    """The smallest module that can be fused: a convolution and its batch norm."""

    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.bn(self.conv(x))

    def fuse(self):
        return conv_like(self.conv, *fold_bn(self.conv.weight, self.conv.bias, self.bn))


class Detector(nn.Module):
    """A fusable part and a neck with a batch norm that must not change."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(Affine(), nn.ReLU(), nn.Sequential(Affine()))
        self.neck = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.neck(self.backbone(x))


class BadFuse(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def fuse(self):
        return self if self.result == 'self' else self.result


@pytest.fixture
def detector(randomize_bn):
    return randomize_bn(Detector()).eval()


@pytest.fixture
def x():
    return torch.randn(2, 4, 7, 9)


@pytest.mark.parametrize('affine', [True, False])
def test_bn_affine_equals_batch_norm(x, affine, randomize_bn):
    bn = randomize_bn(nn.BatchNorm2d(4, affine=affine, eps=1e-3)).eval()
    scale, shift = bn_affine(bn)
    torch.testing.assert_close(x * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1), bn(x))


def test_bn_affine_uses_running_statistics_in_training_mode(randomize_bn):
    bn = randomize_bn(nn.BatchNorm2d(4))
    expected = bn_affine(bn.eval())
    torch.testing.assert_close(bn_affine(bn.train()), expected)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize(
    'geometry',
    [
        {'kernel_size': 1},
        {'kernel_size': 3, 'padding': 1, 'stride': 2},
        {'kernel_size': (1, 5), 'padding': (0, 2), 'groups': 4},
        {'kernel_size': 3, 'padding': 2, 'dilation': 2, 'groups': 2},
    ],
    ids=str,
)
def test_fold_bn_equals_convolution_and_batch_norm(x, geometry, affine, bias, randomize_bn):
    conv = nn.Conv2d(4, 8, bias=bias, **geometry)
    bn = randomize_bn(nn.BatchNorm2d(8, affine=affine)).eval()
    fused = conv_like(conv, *fold_bn(conv.weight, conv.bias, bn))
    torch.testing.assert_close(fused(x), bn(conv(x)))


def test_fold_bn_accepts_sync_batch_norm(x, randomize_bn):
    conv, bn = nn.Conv2d(4, 8, 3), randomize_bn(nn.SyncBatchNorm(8)).eval()
    torch.testing.assert_close(F.conv2d(x, *fold_bn(conv.weight, conv.bias, bn)), bn(conv(x)))


def test_fold_bn_has_the_gradients_of_the_layers(x, randomize_bn):
    conv, bn = nn.Conv2d(4, 8, 3), randomize_bn(nn.BatchNorm2d(8)).eval()
    parameters = [*conv.parameters(), *bn.parameters()]
    expected = torch.autograd.grad(bn(conv(x)).square().sum(), parameters)
    actual = torch.autograd.grad(F.conv2d(x, *fold_bn(conv.weight, conv.bias, bn)).square().sum(), parameters)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7])
@pytest.mark.parametrize('identity', [True, False])
def test_merge_depthwise_equals_the_sum_of_branches(x, kernel_size, identity):
    kernel, point = torch.randn(4, 1, kernel_size, kernel_size), torch.randn(4, 1, 1, 1)
    merged = F.conv2d(x, merge_depthwise(kernel, point, identity), padding=kernel_size // 2, groups=4)
    branches = F.conv2d(x, kernel, padding=kernel_size // 2, groups=4) + F.conv2d(x, point, groups=4)
    torch.testing.assert_close(merged, branches + x if identity else branches)


def test_conv_like_keeps_geometry_and_mode():
    conv = nn.Conv2d(4, 8, (3, 5), (2, 1), (1, 2), (1, 2), 2, bias=False, padding_mode='reflect').eval()
    like = conv_like(conv, conv.weight, torch.zeros(8))
    names = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups', 'padding_mode')
    assert [getattr(like, name) for name in names] == [getattr(conv, name) for name in names]
    assert not like.training
    x = torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(like(x), conv(x))


def test_conv_like_keeps_the_class():
    class Derived(nn.Conv2d):
        pass

    assert type(conv_like(Derived(4, 8, 1), torch.zeros(8, 4, 1, 1), torch.zeros(8))) is Derived


def test_conv_like_shares_no_memory():
    conv = nn.Conv2d(4, 8, 1)
    like = conv_like(conv, conv.weight, conv.bias)
    before = like.weight.clone()
    nn.init.zeros_(conv.weight)
    torch.testing.assert_close(like.weight, before)


@pytest.mark.parametrize('requires_grad', [True, False])
def test_conv_like_keeps_requires_grad(requires_grad):
    conv = nn.Conv2d(4, 8, 1).requires_grad_(requires_grad)
    like = conv_like(conv, conv.weight, conv.bias)
    assert all(parameter.is_leaf and parameter.requires_grad == requires_grad for parameter in like.parameters())


def test_reparameterize_model_keeps_the_outputs(detector, x):
    torch.testing.assert_close(reparameterize_model(detector)(x), detector(x))


def test_reparameterize_model_fuses_nested_modules_and_nothing_else(detector):
    fused = reparameterize_model(detector)
    assert [type(module) for module in fused.backbone] == [nn.Conv2d, nn.ReLU, nn.Sequential]
    assert type(fused.backbone[2][0]) is nn.Conv2d
    assert [type(module) for module in fused.neck] == [nn.Conv2d, nn.BatchNorm2d]


def test_reparameterize_model_does_not_change_other_batch_norms(detector):
    fused = reparameterize_model(detector)
    torch.testing.assert_close(fused.neck[1].state_dict(), detector.neck[1].state_dict())


def test_reparameterize_model_copies_by_default(detector, x):
    before = copy_of_state(detector)
    fused = reparameterize_model(detector)
    for parameter in fused.parameters():
        nn.init.zeros_(parameter)
    assert fused is not detector
    torch.testing.assert_close(copy_of_state(detector), before)


def copy_of_state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_reparameterize_model_in_place(detector, x):
    before = detector(x)
    assert reparameterize_model(detector, inplace=True) is detector
    assert type(detector.backbone[0]) is nn.Conv2d
    torch.testing.assert_close(detector(x), before)


def test_reparameterize_model_accepts_a_leaf(randomize_bn, x):
    leaf = randomize_bn(Affine()).eval()
    fused = reparameterize_model(leaf)
    assert type(fused) is nn.Conv2d
    torch.testing.assert_close(fused(x), leaf(x))


def test_reparameterize_model_twice_changes_nothing(detector, x):
    once = reparameterize_model(detector)
    twice = reparameterize_model(once)
    torch.testing.assert_close(twice.state_dict(), once.state_dict())


def test_training_mode_is_refused_by_name_and_nothing_is_fused(detector):
    detector.backbone[2].train()
    with pytest.raises(RuntimeError, match=r"'backbone.2.0' \(Affine\) is in training mode"):
        reparameterize_model(detector, inplace=True)
    assert type(detector.backbone[0]) is Affine


def test_training_mode_of_other_modules_does_not_matter(detector):
    detector.neck.train()
    assert type(reparameterize_model(detector).backbone[0]) is nn.Conv2d


@pytest.mark.parametrize('result', [None, 'self', 7])
def test_fuse_must_return_a_new_module(result):
    model = nn.Sequential(nn.ReLU(), nn.Sequential(BadFuse(result))).eval()
    with pytest.raises(TypeError, match=r"fuse\(\) of '1.0' \(BadFuse\) must return a new module"):
        reparameterize_model(model)


def test_fuse_of_the_model_itself_must_return_a_new_module():
    with pytest.raises(TypeError, match='BadFuse'):
        reparameterize_model(BadFuse(None).eval())
