"""A network without the batch norms that a convolution can take over."""

from mmcv.cnn import ConvModule
from mmcv.cnn.bricks.wrappers import Conv2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense.reparam import conv_like, fold_bn, reparameterize_model


def fuse(model: nn.Module) -> nn.Module:
    """A copy with the backbone merged and norms folded; the model is in eval mode."""
    return fold_norms(reparameterize_model(model))


def fold_norms(module: nn.Module) -> nn.Module:
    """Fold every batch norm that follows a convolution into it, in place. Returns the module.

    Convolutions that several batch norms share (RTMDet's head) become one for each.
    """
    for part in list(module.modules()):
        if isinstance(part, ConvModule) and part.order[:2] == ('conv', 'norm') and part.with_norm:
            conv, norm = _folded(part.conv, part.norm)
            part.conv = conv
            setattr(part, part.norm_name, norm)
        elif type(part) is nn.Sequential:
            for i in range(len(part) - 1):
                part[i], part[i + 1] = _folded(part[i], part[i + 1])
    return module


def _folded(conv: nn.Module, norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """One convolution and nothing in the place of these two, where they are a plain one and a batch norm."""
    plain = type(conv) in (nn.Conv2d, Conv2d) and isinstance(norm, _BatchNorm) and norm.running_mean is not None
    return (conv_like(conv, *fold_bn(conv.weight, conv.bias, norm)), nn.Identity()) if plain else (conv, norm)
