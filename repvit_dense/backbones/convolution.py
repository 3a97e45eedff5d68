"""Convolution, GELU and global mean with torch's results, in less time and memory on a CPU.

They apply in eager mode. While a graph is captured they are torch's plain operations, which the compiler or exporter
optimises. They are also plain on a GPU for small activations, where a step takes as long as its kernels take to start.
"""

from functools import reduce

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LARGE = 1 << 23  # elements of an activation above which a GPU needs longer to pass over it than to start a few kernels


def _is_captured() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_large(x: Tensor) -> bool:
    """Return whether reading and writing less memory is worth more operations; on a CPU it always is."""
    return x.is_cpu or x.numel() >= LARGE or torch.compiler.is_compiling()


def channels_last(x: Tensor) -> Tensor:
    """Return an image in the layout that oneDNN computes fastest; the layers of this package keep it."""
    if x.is_cpu and not torch.compiler.is_compiling():
        x = x.contiguous(memory_format=torch.channels_last)
    return x


def gelu(x: Tensor) -> Tensor:
    """Apply GELU (arXiv 1606.08415).

    On a CPU torch's kernel for channels_last is 30 times slower than oneDNN's, which torch selects for contiguous
    tensors only. The permuted view is contiguous.
    """
    if _is_channels_last_on_cpu(x):
        return F.gelu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return F.gelu(x)


def _is_channels_last_on_cpu(x: Tensor) -> bool:
    return x.is_cpu and x.is_contiguous(memory_format=torch.channels_last)


def global_mean(x: Tensor) -> Tensor:
    """Return `x.mean((2, 3), keepdim=True)`, `(B, C, 1, 1)`.

    The gradient of this form is a broadcast view. `mean` writes its gradient for every pixel, and in a layout that the
    next addition has to convert.
    """
    if _is_captured() or x.dtype == torch.float16:  # the sum would overflow in float16
        return x.mean((2, 3), keepdim=True)
    return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])


def conv2d(x: Tensor, like: nn.Conv2d, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve `x`, `(B, C_in, H, W)`, with the stride, padding, dilation and groups of `like`.

    The result, `(B, C_out, H', W')`, can be differentiated once.
    """
    if _is_captured() or not x.is_cpu:
        return F.conv2d(x, weight, bias, *_geometry(like), like.groups)
    return _convolve(x, like, weight, bias)


def gelu_conv2d(
    x: Tensor, like: nn.Conv2d, weight: Tensor, bias: Tensor | None = None, recompute: bool = True
) -> Tensor:
    """Convolve `gelu(x)`; see `conv2d`.

    With `recompute`, `gelu(x)` is not stored for the backward pass but computed there again from `x`.
    """
    if _is_captured() or not is_large(x):
        return F.conv2d(gelu(x), weight, bias, *_geometry(like), like.groups)
    return _convolve(x, like, weight, bias, after_gelu=True, recompute=recompute)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` computed by `conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self, self.weight, self.bias)


class GeluConv2d(nn.Conv2d):
    """GELU, then a convolution, computed by `gelu_conv2d`."""

    def forward(self, x: Tensor, recompute: bool = True) -> Tensor:
        return gelu_conv2d(x, self, self.weight, self.bias, recompute)


def _geometry(conv: nn.Conv2d) -> tuple:
    return conv.stride, conv.padding, conv.dilation


def _convolve(x, like, weight, bias, after_gelu: bool = False, recompute: bool = False) -> Tensor:
    stride, padding, dilation = _geometry(like)
    if x.is_cpu and weight.shape[2:] == (1, 1):
        # A dilation has no effect on a 1x1 kernel, but makes torch use oneDNN on a single thread too, in half the time.
        dilation = (2, 2)
    device = x.device.type
    # Cast here: autocast does not reach the backward pass of a custom function.
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = (None if tensor is None else tensor.to(dtype) for tensor in (x, weight, bias))
    return _Convolution.apply(x, weight, bias, (stride, padding, dilation), like.groups, after_gelu, recompute)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, geometry, groups, after_gelu, recompute):
        convolved = gelu(x) if after_gelu else x
        ctx.save_for_backward(x, weight, None if recompute else convolved)
        ctx.geometry, ctx.groups, ctx.after_gelu = geometry, groups, after_gelu
        return F.conv2d(convolved, weight, bias, *geometry, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, stored = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        convolved = stored
        if stored is None:
            convolved = gelu(x) if needs_weight else x  # the gradient of the input depends on its shape only
        arguments = grad, convolved, weight, ctx.geometry, ctx.groups
        grad_x = _input_gradient(*arguments) if needs_x else None
        grad_weight = _weight_gradient(*arguments) if needs_weight else None
        if ctx.after_gelu and needs_x:
            free = convolved if stored is None and needs_weight else grad_x
            grad_x = _gelu_backward(grad_x, x, out=free)
        # oneDNN takes as long for the gradient of the bias as for that of the weight; a sum is faster.
        grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple, groups: int) -> Tensor:
    return _convolution_backward(grad, x, weight, geometry, groups, (True, False, False))[0]


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple, groups: int) -> Tensor:
    """Return the gradient of the weight; with groups, add it up image by image.

    oneDNN loses precision in long sums over pixels, most of it in depthwise convolutions.
    """
    images = zip(grad.split(1), x.split(1), strict=True) if groups > 1 else [(grad, x)]
    gradients = [_convolution_backward(*pair, weight, geometry, groups, (False, True, False))[1] for pair in images]
    return reduce(torch.add, gradients)


def _convolution_backward(grad, x, weight, geometry, groups, needed) -> tuple[Tensor | None, ...]:
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry, False, (0, 0), groups, needed)


def _gelu_backward(grad: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """Write the gradient of `x` into `out`, which has the layout of `x`, given `grad`, the gradient of `gelu(x)`."""
    views = [tensor.permute(0, 2, 3, 1) if _is_channels_last_on_cpu(x) else tensor for tensor in (grad, x, out)]
    torch.ops.aten.gelu_backward.grad_input(views[0], views[1], grad_input=views[2])
    return out
