"""The layers that backbones share: how GELU is stored, and how they are fused."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from repvit_dense.backbones.convolution import Conv2d, GeluConv2d
from repvit_dense.backbones.layers import ConvBN, GeluConvBN, RepDWConv
from repvit_dense.backbones.repvit import RepViT


@pytest.mark.parametrize('frozen', [False, True])
def test_gelu_conv_bn_is_conv_bn_of_gelu(frozen, randomize_bn):
    layer, x = randomize_bn(GeluConvBN(4, 8, 3)).train(not frozen), torch.randn(2, 4, 6, 5)
    plain = ConvBN(4, 8, 3).train(not frozen)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), plain(F.gelu(x)))


@pytest.mark.parametrize(
    ('layer', 'fused_type'),
    [(ConvBN(4, 8, 3), Conv2d), (GeluConvBN(4, 8, 3), GeluConv2d), (RepDWConv(4), Conv2d)],
    ids=['ConvBN', 'GeluConvBN', 'RepDWConv'],
)
def test_a_fused_layer_keeps_its_activation(layer, fused_type, randomize_bn):
    layer, x = randomize_bn(layer).eval(), torch.randn(2, 4, 6, 5)
    fused = layer.fuse()
    assert type(fused) is fused_type
    torch.testing.assert_close(fused(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('keep_gelu', 'live', 'stored'), [(True, False, 1), (False, False, 0), (False, True, 1)])
def test_gelu_is_stored_if_asked_for_or_before_a_live_norm(keep_gelu, live, stored):
    layer, x = GeluConvBN(4, 4, keep_gelu=keep_gelu).train(live), torch.randn(2, 4, 6, 5, requires_grad=True)
    sizes = {}  # of the saved activations, by address
    pack = lambda tensor: sizes.update({tensor.data_ptr(): tensor.numel()}) or tensor  # noqa: E731
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    activations = [address for address, size in sizes.items() if size == x.numel() and address != x.data_ptr()]
    assert len(activations) == stored + live  # a live norm stores its input too


def test_repvit_keeps_the_largest_gelus(tiny_arch):
    model = RepViT(tiny_arch)
    kept = {name for name, module in model.named_modules() if getattr(module, 'keep_gelu', False)}
    every = {name for name, module in model.named_modules() if isinstance(module, GeluConvBN)}
    assert kept == {name for name in every if name.startswith(('stem.', 'stages.0.', 'stages.1.'))}
    assert kept != every
