"""Structural re-parameterisation: merge parallel branches, fold batch norms, fuse whole models.

To merge is to add branches up to one kernel, to fold is to put a norm into a convolution, to fuse is to do both. The
first functions are tensor algebra that autograd differentiates, so that a network with frozen batch norms can train
through its fused kernels. `reparameterize_model` replaces modules for good. Nothing here knows an architecture.

Source: RepVGG (arXiv 2101.03697), section 3.3; RepViT (arXiv 2307.09283), section 3.2.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


def bn_affine(bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return scale and shift, `(C,)` each, of a batch norm on its running statistics: `x * scale + shift`.

    Both are differentiable with respect to the affine parameters.
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
        bn: the batch norm over `C_out` channels. Its running statistics are used, whatever its mode.

    Returns:
        weight and bias of the one convolution that equals both layers.
    """
    scale, shift = bn_affine(bn)
    weight = weight * scale.reshape(-1, 1, 1, 1)
    return weight, shift if bias is None else torch.addcmul(shift, bias, scale)


def merge_depthwise(kernel: Tensor, pointwise: Tensor, identity: bool = True) -> Tensor:
    """Merge parallel depthwise branches, `k x k` + `1 x 1` (+ identity), into the `k x k` one.

    Args:
        kernel: `(C, 1, k, k)`, k odd.
        pointwise: `(C, 1, 1, 1)`.
        identity: whether the input itself is added as well.

    Returns:
        `(C, 1, k, k)`.
    """
    pad = kernel.shape[-1] // 2
    return kernel + F.pad(pointwise + 1 if identity else pointwise, [pad] * 4)


def conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return a new convolution with the class and the geometry of `conv`, and detached copies of `weight`, `bias`."""
    new = type(conv)(
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
    new.weight = nn.Parameter(weight.detach().clone(), requires_grad=conv.weight.requires_grad)
    new.bias = nn.Parameter(bias.detach().clone(), requires_grad=conv.weight.requires_grad)
    return new.train(conv.training)


def reparameterize_model(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Fuse every module of `model` that offers `fuse()`; leave everything else, other batch norms included, as it is.

    Args:
        model: in eval mode and with its final weights loaded; in training mode, statistics that still change would be
            folded.
        inplace: fuse `model` itself. By default a deep copy is fused.

    Returns:
        the fused model; a new module even with `inplace`, if `model` itself offers `fuse()`.

    Raises:
        RuntimeError: a module that offers `fuse()` is in training mode.
        TypeError: a module's `fuse()` did not return a new module.
    """
    for name, module in model.named_modules():
        if _is_fusable(module) and module.training:
            label = f"'{name}' ({type(module).__name__})" if name else type(module).__name__
            raise RuntimeError(f'{label} is in training mode; load the weights, call .eval(), then fuse')
    model = model if inplace else copy.deepcopy(model)
    return _fuse(model, type(model).__name__) if _is_fusable(model) else _fuse_children(model)


def _is_fusable(module: nn.Module) -> bool:
    return callable(getattr(module, 'fuse', None))


def _fuse_children(module: nn.Module, prefix: str = '') -> nn.Module:
    for name, child in module.named_children():
        path = f'{prefix}{name}'
        if _is_fusable(child):
            setattr(module, name, _fuse(child, path))
        else:
            _fuse_children(child, f'{path}.')
    return module


def _fuse(module: nn.Module, path: str) -> nn.Module:
    fused = module.fuse()
    if not isinstance(fused, nn.Module) or fused is module:
        raise TypeError(f"fuse() of '{path}' ({type(module).__name__}) must return a new module, got {type(fused)}")
    return fused
