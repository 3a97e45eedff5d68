"""A convolution, the GELU before it, and a global mean, with the numbers of torch's own in less time and memory.

All are for eager mode. Where a graph is captured they are torch's plain operations, which the graph's user optimises;
so they are on a GPU for activations too small to keep it busy, where only the number of operations counts.
"""

from functools import cache, reduce

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Channels, of input and output together, from which a 1x1 convolution's gradients take less time as matrix products.
MANY = 768
FEW = 128  # output channels, if the input has more: with fewer, oneDNN finds the weight's gradient faster transposed
LARGE = 1 << 23  # elements of an activation from which passes over it cost a GPU more than the start of a few kernels


def _captured() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def large(x: Tensor) -> bool:
    """Whether less memory to read and write is worth more operations; on a CPU it always is."""
    return x.is_cpu or x.numel() >= LARGE or torch.compiler.is_compiling()


def gelu(x: Tensor) -> Tensor:
    """GELU (arXiv 1606.08415) that stays fast on channels_last, where torch takes a kernel 30 times slower on a CPU.

    To the permuted view, which is contiguous, it applies oneDNN's.
    """
    if _fast_permuted(x):
        return F.gelu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return F.gelu(x)


def _fast_permuted(x: Tensor) -> bool:
    return x.is_cpu and x.is_contiguous(memory_format=torch.channels_last)


def global_mean(x: Tensor) -> Tensor:
    """`x.mean((2, 3), keepdim=True)`, whose gradient is one number per channel, as broadcast as it is.

    torch's own writes it out for every pixel, in the wrong layout for what is added to it next.
    """
    if _captured() or x.dtype == torch.float16:  # where a sum overflows
        return x.mean((2, 3), keepdim=True)
    return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])


def conv2d(
    x: Tensor,
    like: nn.Conv2d,
    weight: Tensor,
    bias: Tensor | None = None,
    after_gelu: bool = False,
    recomputed: bool = True,
) -> Tensor:
    """Convolution of `x`, or of `gelu(x)`.

    Args:
        x: `(B, C_in, H, W)`.
        like: gives stride, padding, dilation and groups.
        weight, bias: as for `F.conv2d`.
        after_gelu: convolve `gelu(x)`.
        recomputed: compute it again in the backward pass instead of keeping it.

    Returns:
        `(B, C_out, H', W')`; it can be differentiated once.
    """
    stride, padding, dilation, groups = like.stride, like.padding, like.dilation, like.groups
    if _captured() or not (x.is_cpu or (after_gelu and large(x))):
        return F.conv2d(gelu(x) if after_gelu else x, weight, bias, stride, padding, dilation, groups)
    if x.is_cpu and weight.shape[2:] == (1, 1):
        # No dilation changes a 1x1 kernel, but lets torch take oneDNN on one thread too, for half the time.
        dilation = (2, 2)
    device = x.device.type
    # Here, since a backward pass of our own is not autocast.
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = (None if tensor is None else tensor.to(dtype) for tensor in (x, weight, bias))
    return _Conv2d.apply(x, weight, bias, (stride, padding, dilation), groups, after_gelu, recomputed)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` by way of `conv2d`."""

    def forward(self, x: Tensor, after_gelu: bool = False, recomputed: bool = True) -> Tensor:
        return conv2d(x, self, self.weight, self.bias, after_gelu, recomputed)


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, geometry, groups, after_gelu, recomputed):
        convolved = gelu(x) if after_gelu else x
        ctx.save_for_backward(x, weight, None if after_gelu and recomputed else convolved)
        ctx.geometry, ctx.groups, ctx.after_gelu = geometry, groups, after_gelu
        return F.conv2d(convolved, weight, bias, *geometry, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, kept = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        convolved = kept
        if kept is None:
            convolved = gelu(x) if of_weight else x
        given = grad, convolved, weight, ctx.geometry, ctx.groups
        grad_x = _input_gradient(*given) if of_x else None
        grad_weight = _weight_gradient(*given) if of_weight else None
        if ctx.after_gelu and of_x:
            grad_x = _gelu_backward(grad_x, x, out=convolved if kept is None and of_weight else grad_x)
        # oneDNN's own gradient of the bias takes as long as that of the weight.
        grad_bias = grad.sum((0, 2, 3)) if of_bias else None
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple, groups: int) -> Tensor:
    if _is_pointwise(grad, x, weight, geometry) and _is_product(weight):
        batch, _, height, width = x.shape
        return (_pixels(grad) @ weight.flatten(1)).reshape(batch, height, width, -1).permute(0, 3, 1, 2)
    return _convolution_backward(grad, x, weight, geometry, groups, (True, False, False))[0]


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple, groups: int) -> Tensor:
    """A sum over pixels, of which oneDNN is neither the most exact nor the fastest in every shape."""

    def summed(grad, x, weight=weight):
        return _convolution_backward(grad, x, weight, geometry, groups, (False, True, False))[1]

    if groups > 1:  # the longer such a sum, the more of it is lost
        return reduce(torch.add, map(summed, grad.split(1), x.split(1)))
    if not _is_pointwise(grad, x, weight, geometry):
        return summed(grad, x)
    if _is_product(weight):
        return (_pixels(grad).t() @ _pixels(x)).reshape(weight.shape)
    if weight.shape[0] < min(weight.shape[1], FEW):
        return summed(_row(x), _row(grad), weight.transpose(0, 1)).transpose(0, 1)
    return summed(_row(grad), _row(x))


def _convolution_backward(grad, x, weight, geometry, groups, asked) -> tuple[Tensor | None, ...]:
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry, False, (0, 0), groups, asked)


def _is_pointwise(grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple) -> bool:
    """Whether this is a convolution pixel by pixel, on a CPU."""
    pointwise = weight.shape[1:] == (x.shape[1], 1, 1) and geometry[:2] == ((1, 1), (0, 0))
    return pointwise and _fast_permuted(grad) and _fast_permuted(x)


def _is_product(weight: Tensor) -> bool:
    """Whether the gradients of a pointwise convolution take less time as matrix products."""
    return sum(weight.shape[:2]) >= MANY and _multiplies_fast()


@cache
def _multiplies_fast() -> bool:
    """MKL takes twice as long as oneDNN on a processor that is not Intel's; one without a name counts as such."""
    about = getattr(torch.cpu, 'get_capabilities', dict)()
    return torch.backends.mkl.is_available() and about.get('cpu_name', '').startswith('Intel')


def _pixels(x: Tensor) -> Tensor:
    """`(B, C, H, W)` in channels_last, seen as `(B * H * W, C)`."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _row(x: Tensor) -> Tensor:
    """`(B, C, H, W)` in channels_last, seen as `(1, C, 1, B * H * W)` in channels_last."""
    return _pixels(x)[None, None].permute(0, 3, 1, 2)


def _gelu_backward(grad: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """The gradient of `gelu(x)` becomes that of `x`, in memory that is no longer needed, of `x`'s layout."""
    views = [tensor.permute(0, 2, 3, 1) if _fast_permuted(x) else tensor for tensor in (grad, x, out)]
    torch.ops.aten.gelu_backward.grad_input(views[0], views[1], grad_input=views[2])
    return out
