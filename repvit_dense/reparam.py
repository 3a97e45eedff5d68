"""Structural re-parameterisation: fold batch norms, merge parallel depthwise branches, fuse whole models.

The first half is tensor algebra that autograd can differentiate, so that a network whose batch norms are frozen can
train through the merged kernel; the second half replaces modules for good. Nothing here knows any architecture.

Source: RepVGG (arXiv 2101.03697), section 3.3; RepViT (arXiv 2307.09283), section 3.2.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


def bn_affine(bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """A batch norm on its running statistics is `x * scale + shift` per channel.

    Returns:
        scale `(C,)` and shift `(C,)`, differentiable with respect to the affine parameters.
    """
    scale = torch.rsqrt(bn.running_var + bn.eps)
    if bn.weight is not None:
        scale = bn.weight * scale
    shift = -bn.running_mean * scale
    if bn.bias is not None:
        shift = bn.bias + shift
    return scale, shift


def fold_bn(weight: Tensor, bias: Tensor | None, bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Fold the batch norm that follows a convolution into its kernel.

    Args:
        weight: `(C_out, C_in / groups, kH, kW)`.
        bias: `(C_out,)`, or None.
        bn: the batch norm over `C_out` channels; its running statistics are used, whatever its mode.

    Returns:
        weight and bias of the one convolution that equals both.
    """
    scale, shift = bn_affine(bn)
    weight = weight * scale.reshape(-1, 1, 1, 1)
    return weight, shift if bias is None else torch.addcmul(shift, bias, scale)


def merge_depthwise(kernel: Tensor, point: Tensor, identity: bool = True) -> Tensor:
    """Merge parallel depthwise branches, `k x k` + `1 x 1` (+ identity), into the `k x k` one.

    Args:
        kernel: `(C, 1, k, k)`, k odd.
        point: `(C, 1, 1, 1)`.
        identity: whether the input itself is added as well.

    Returns:
        `(C, 1, k, k)`.
    """
    pad = kernel.shape[-1] // 2
    return kernel + F.pad(point + 1 if identity else point, [pad] * 4)


def conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A new convolution with the class and the geometry of `conv` and these weights (detached copies)."""
    fused = type(conv)(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        bias=True,
        padding_mode=conv.padding_mode,
        device='meta',
    )
    fused.weight = nn.Parameter(weight.detach().clone(), requires_grad=conv.weight.requires_grad)
    fused.bias = nn.Parameter(bias.detach().clone(), requires_grad=conv.weight.requires_grad)
    return fused.train(conv.training)


def reparameterize_model(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Fuse every module of `model` that offers `fuse()`; leave everything else, other batch norms included, alone.

    Args:
        model: in eval mode and with its final weights loaded; training mode would fold statistics that still move.
        inplace: fuse `model` itself; by default a deep copy is fused and `model` stays as it is.

    Returns:
        the fused model (a new module where `model` itself is a leaf that offers `fuse()`).

    Raises:
        RuntimeError: a module that is to be fused is in training mode.
        TypeError: a module's `fuse()` did not return a new module.
    """
    for name, module in model.named_modules():
        if _fusable(module) and module.training:
            where = f"'{name}' ({type(module).__name__})" if name else type(module).__name__
            raise RuntimeError(f'{where} is in training mode; load the weights, call .eval(), then fuse')
    model = model if inplace else copy.deepcopy(model)
    return _fuse(model, type(model).__name__) if _fusable(model) else _fuse_children(model)


def _fusable(module: nn.Module) -> bool:
    return callable(getattr(module, 'fuse', None))


def _fuse_children(module: nn.Module, prefix: str = '') -> nn.Module:
    for name, child in module.named_children():
        path = f'{prefix}{name}'
        if _fusable(child):
            setattr(module, name, _fuse(child, path))
        else:
            _fuse_children(child, f'{path}.')
    return module


def _fuse(module: nn.Module, path: str) -> nn.Module:
    fused = module.fuse()
    if not isinstance(fused, nn.Module) or fused is module:
        raise TypeError(f"fuse() of '{path}' ({type(module).__name__}) must return a new module, got {type(fused)}")
    return fused
