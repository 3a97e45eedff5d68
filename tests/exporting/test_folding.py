"""Folding of batch norms into convolutions."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense import config
from repvit_dense.exporting import folding


def count_norms(module):
    return sum(isinstance(part, _BatchNorm) for part in module.modules())


def conv_modules(kind):
    from mmcv.cnn import ConvModule

    norm = {'type': kind}
    if kind == 'shared':
        first, second = (ConvModule(4, 4, 3, padding=1, norm_cfg={'type': 'BN'}) for _ in range(2))
        second.conv = first.conv
        return nn.Sequential(first, second)
    if kind == 'sequential':
        return nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))
    return nn.Sequential(ConvModule(4, 6, 3, norm_cfg=norm, groups=2), ConvModule(6, 5, 1, bias=True, norm_cfg=norm))


@pytest.mark.parametrize('kind', ['BN', 'SyncBN', 'shared', 'sequential'])
@torch.no_grad()
def test_folding_removes_norms_and_keeps_outputs(kind, randomize_bn):
    model = randomize_bn(conv_modules(kind)).double().eval()
    images = torch.randn(2, 4, 8, 8, dtype=torch.double)
    fused = folding.fuse(model)
    assert (count_norms(model), count_norms(fused)) == ((1 if kind == 'sequential' else 2), 0)
    torch.testing.assert_close(fused(images), model(images))


@torch.no_grad()
def test_a_norm_before_its_convolution_is_not_folded(randomize_bn):
    from mmcv.cnn import ConvModule

    model = randomize_bn(ConvModule(4, 4, 1, norm_cfg={'type': 'BN'}, order=('norm', 'conv', 'act'))).eval()
    images = torch.randn(1, 4, 4, 4)
    fused = folding.fuse(model)
    assert count_norms(fused) == 1
    torch.testing.assert_close(fused(images), model(images))


@pytest.mark.parametrize('name', ['repvit_rtmdet-ins_coco', 'repvit_ssdlite_coco', 'repvit_upernet_ade20k'])
@torch.no_grad()
def test_all_norms_of_a_whole_model_are_folded(name, randomize_bn):
    from repvit_dense.model import build_model

    model = randomize_bn(build_model(config.load(name, backbone='repvit_m0_6')))
    fused = folding.fuse(model)
    assert count_norms(fused) == 0
    head = 'decode_head' if 'ade20k' in name else 'bbox_head'
    images = torch.randn(1, 3, 128, 128)
    outs = [getattr(part, head)(part.extract_feat(images)) for part in (model, fused)]
    for before, after in zip(*map(torch.utils._pytree.tree_leaves, outs), strict=True):
        torch.testing.assert_close(after, before, atol=2e-4, rtol=2e-3)
