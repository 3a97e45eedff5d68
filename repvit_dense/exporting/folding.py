"""Fuse a whole model: merge the branches of the backbone and fold batch norms into convolutions."""

from mmcv.cnn import ConvModule
from mmcv.cnn.bricks.wrappers import Conv2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense.reparam import conv_like, fold_bn, reparameterize_model


def fuse(model: nn.Module) -> nn.Module:
    """Return a copy of a model in eval mode with merged branches and folded norms."""
    return fold_norms(reparameterize_model(model))


def fold_norms(module: nn.Module) -> nn.Module:
    """Fold every batch norm that follows a convolution into it, in place; return the module.

    A convolution shared by several batch norms (the head of RTMDet) becomes one convolution for each.
    """
    for part in list(module.modules()):
        if isinstance(part, ConvModule) and part.order[:2] == ('conv', 'norm') and part.with_norm:
            conv, norm = _fold(part.conv, part.norm)
            part.conv = conv
            setattr(part, part.norm_name, norm)
        elif type(part) is nn.Sequential:
            for i in range(len(part) - 1):
                part[i], part[i + 1] = _fold(part[i], part[i + 1])
    return module


def _fold(conv: nn.Module, norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the folded convolution and an identity, or both modules as they are if they cannot be folded."""
    plain = type(conv) in (nn.Conv2d, Conv2d) and isinstance(norm, _BatchNorm) and norm.running_mean is not None
    return (conv_like(conv, *fold_bn(conv.weight, conv.bias, norm)), nn.Identity()) if plain else (conv, norm)
