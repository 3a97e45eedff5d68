"""Layers that several backbones share.

A batch norm is frozen if it normalises by its running statistics (eval mode, `norm_eval`, frozen stages). `ConvBN` and
`RepDWConv` then compute the fused kernel from their parameters and run one convolution instead of their branches.
Autograd differentiates that computation, so every parameter still gets its exact gradient, while fewer and smaller
activations are stored. On a GPU this is done for large activations only: starting the kernels that compute a fused
kernel takes longer than a pass over a small activation.
"""

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import StochasticDepth

from repvit_dense.backbones.convolution import Conv2d, GeluConv2d, conv2d, gelu_conv2d, global_mean, is_large
from repvit_dense.reparam import conv_like, fold_bn, merge_depthwise


def is_frozen(bn: nn.Module) -> bool:
    """Return whether `bn` is a batch norm that uses its running statistics in the next forward pass."""
    return isinstance(bn, _BatchNorm) and not bn.training and bn.track_running_stats


class ConvBN(nn.Module):
    """Convolution without bias, then batch norm. `(B, C_in, H, W)` to `(B, C_out, H', W')`."""

    conv_type = Conv2d

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, groups=1, norm_cfg=None):
        super().__init__()
        padding = kernel_size // 2
        self.conv = self.conv_type(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = build_norm_layer(norm_cfg or {'type': 'BN'}, out_channels)[1]

    def fused_kernel(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the one convolution that equals this layer with a frozen norm."""
        return fold_bn(self.conv.weight, None, self.bn)

    def forward(self, x: Tensor) -> Tensor:
        if is_frozen(self.bn) and is_large(x):
            return conv2d(x, self.conv, *self.fused_kernel())
        return self.bn(self.conv(x))

    def fuse(self) -> nn.Conv2d:
        return conv_like(self.conv, *self.fused_kernel())


class GeluConvBN(ConvBN):
    """GELU, then convolution and batch norm.

    With a frozen norm the output of GELU is recomputed in the backward pass, unless `keep_gelu` is set and the layer
    runs on a CPU. With a live norm it is stored: recomputing it would save too little memory for its time.
    """

    conv_type = GeluConv2d

    def __init__(self, *args, keep_gelu: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.keep_gelu = keep_gelu

    def forward(self, x: Tensor) -> Tensor:
        if is_frozen(self.bn) and is_large(x):
            return gelu_conv2d(x, self.conv, *self.fused_kernel(), recompute=not (self.keep_gelu and x.is_cpu))
        return self.bn(self.conv(x, recompute=False))


class RepDWConv(nn.Module):
    """Re-parameterisable depthwise convolution, `BN(BN(3x3) + 1x1 + identity)` (RepViT, section 3.2). Shape is kept."""

    def __init__(self, channels, kernel_size=3, norm_cfg=None):
        super().__init__()
        self.conv_bn = ConvBN(channels, channels, kernel_size, groups=channels, norm_cfg=norm_cfg)
        # Registered before conv1x1 because mmcv.cnn.fuse_conv_bn folds a norm into the convolution registered just
        # before it, and this norm follows the sum.
        self.bn = build_norm_layer(norm_cfg or {'type': 'BN'}, channels)[1]
        self.conv1x1 = nn.Conv2d(channels, channels, 1, groups=channels)

    def fused_kernel(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the one convolution that equals this layer with frozen norms."""
        weight, bias = self.conv_bn.fused_kernel()
        return fold_bn(merge_depthwise(weight, self.conv1x1.weight), bias + self.conv1x1.bias, self.bn)

    def forward(self, x: Tensor) -> Tensor:
        if is_frozen(self.bn) and is_frozen(self.conv_bn.bn) and is_large(x):
            return conv2d(x, self.conv_bn.conv, *self.fused_kernel())
        # Before a live norm, the 1x1 depthwise branch and the identity still make one affine map per channel.
        scale = (self.conv1x1.weight + 1).reshape(1, -1, 1, 1).to(x.dtype)
        shift = self.conv1x1.bias.reshape(1, -1, 1, 1).to(x.dtype)
        return self.bn(self.conv_bn(x) + torch.addcmul(shift, x, scale))

    def fuse(self) -> nn.Conv2d:
        return conv_like(self.conv_bn.conv, *self.fused_kernel())


class SqueezeExcite(nn.Module):
    """Channel gate computed from the global mean: fc, ReLU, fc, sigmoid (arXiv 1709.01507). Shape is kept.

    The hidden width is a quarter of the channels, rounded to a multiple of 8 as in the published weights.
    """

    def __init__(self, channels, hidden=None, gate=torch.sigmoid):
        super().__init__()
        hidden = hidden or max(8, (channels // 4 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(F.relu(self.fc1(global_mean(x)), inplace=True)))


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of `(B, C, H, W)`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def stochastic_depth(rate: float) -> nn.Module:
    """Return a layer that drops the residual branch of each sample at this rate (arXiv 1603.09382)."""
    return StochasticDepth(rate, 'row') if rate else nn.Identity()
