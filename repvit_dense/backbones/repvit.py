"""RepViT, a MobileNetV3 rebuilt with the architecture choices of lightweight ViTs, as a dense backbone.

Source: "RepViT: Revisiting Mobile CNN From ViT Perspective", arXiv 2307.09283; sections are named where a part follows.

Where a batch norm runs on frozen statistics (eval mode, `norm_eval`, frozen stages) the forward computes the merged
kernel from the parameters and runs one convolution instead of the branches. Autograd differentiates the merge, so every
parameter still gets its exact gradient, while fewer and smaller activations are stored. On a GPU that is done for large
activations alone: starting the kernels of a merge takes longer than a pass over a small one.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from repvit_dense.backbones.convolution import Conv2d, conv2d, global_mean, large
from repvit_dense.backbones.peer import STRIDES, check_options, eval_norms, read_safely, stochastic_depth
from repvit_dense.reparam import conv_like, fold_bn, merge_depthwise, reparameterize_model

# Stage widths and blocks per stage (section 3 and table 2 of the paper). The block before each downsampling is not
# counted, as in timm: every stage but the last has one block more.
ARCHS = {
    'm0_6': {'embed_dims': (40, 80, 160, 320), 'depths': (1, 1, 8, 1)},
    'm0_9': {'embed_dims': (48, 96, 192, 384), 'depths': (2, 2, 14, 2)},
    'm1_0': {'embed_dims': (56, 112, 224, 448), 'depths': (2, 2, 14, 2)},
    'm1_1': {'embed_dims': (64, 128, 256, 512), 'depths': (2, 2, 12, 2)},
    'm1_5': {'embed_dims': (64, 128, 256, 512), 'depths': (4, 4, 24, 4)},
    'm2_3': {'embed_dims': (80, 160, 320, 640), 'depths': (6, 6, 34, 2)},
}
TAPS = ('stage_body', 'stage_end')


def frozen(bn: _BatchNorm) -> bool:
    """Whether this batch norm uses its running statistics in the next forward."""
    return isinstance(bn, _BatchNorm) and not bn.training and bn.track_running_stats


class ConvBN(nn.Module):
    """Convolution without bias, then batch norm. `(B, C_in, H, W)` to `(B, C_out, H', W')`.

    With `after_gelu` it is of `gelu(x)`, which one convolution, merged or fused, does not keep for its backward pass,
    unless `gelu_kept` says so.
    """

    gelu_kept = False

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, groups=1, norm_cfg=None):
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        self.bn = build_norm_layer(norm_cfg or {'type': 'BN'}, out_channels)[1]

    def merged(self) -> tuple[Tensor, Tensor]:
        return fold_bn(self.conv.weight, None, self.bn)

    def forward(self, x: Tensor, after_gelu: bool = False) -> Tensor:
        if frozen(self.bn) and large(x):
            return conv2d(x, self.conv, *self.merged(), after_gelu, recomputed=not (self.gelu_kept and x.is_cpu))
        # Under a live norm GELU is not computed twice: the gain in time is too small to pay for it.
        return self.bn(self.conv(x, after_gelu, recomputed=False))

    def fuse(self) -> nn.Conv2d:
        return conv_like(self.conv, *self.merged())


class RepDWConv(nn.Module):
    """Re-parameterisable depthwise convolution (section 3.2): `BN(BN(3x3) + 1x1 + identity)`. Shape is kept."""

    def __init__(self, channels, kernel_size=3, norm_cfg=None):
        super().__init__()
        self.conv_bn = ConvBN(channels, channels, kernel_size, groups=channels, norm_cfg=norm_cfg)
        # The norm comes before conv1x1 because mmcv.cnn.fuse_conv_bn folds a norm into the convolution registered
        # just before it, which would be the wrong one.
        self.bn = build_norm_layer(norm_cfg or {'type': 'BN'}, channels)[1]
        self.conv1x1 = nn.Conv2d(channels, channels, 1, groups=channels)

    def merged(self) -> tuple[Tensor, Tensor]:
        weight, bias = self.conv_bn.merged()
        return fold_bn(merge_depthwise(weight, self.conv1x1.weight), bias + self.conv1x1.bias, self.bn)

    def forward(self, x: Tensor) -> Tensor:
        if frozen(self.bn) and frozen(self.conv_bn.bn) and large(x):
            return conv2d(x, self.conv_bn.conv, *self.merged())
        # Before a live norm the 1x1 depthwise branch and the identity are still one affine map per channel.
        scale = (self.conv1x1.weight + 1).reshape(1, -1, 1, 1).to(x.dtype)
        shift = self.conv1x1.bias.reshape(1, -1, 1, 1).to(x.dtype)
        return self.bn(self.conv_bn(x) + torch.addcmul(shift, x, scale))

    def fuse(self) -> nn.Conv2d:
        return conv_like(self.conv_bn.conv, *self.merged())


class SqueezeExcite(nn.Module):
    """Channel gate from the global mean: fc, ReLU, fc, sigmoid (arXiv 1709.01507). Shape is kept.

    The hidden width is a quarter of the channels rounded to a multiple of 8, as in the published weights.
    """

    def __init__(self, channels, hidden=None, gate=torch.sigmoid):
        super().__init__()
        hidden = hidden or max(8, (channels // 4 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(F.relu(self.fc1(global_mean(x)), inplace=True)))


class ChannelMixer(nn.Module):
    """Residual 1x1 expansion, by 2 or to `hidden`, GELU, 1x1 projection (section 3.2). Shape is kept."""

    def __init__(self, channels, drop_path=0.0, norm_cfg=None, hidden=None):
        super().__init__()
        hidden = hidden or 2 * channels
        self.conv1 = ConvBN(channels, hidden, norm_cfg=norm_cfg)
        self.conv2 = ConvBN(hidden, channels, norm_cfg=norm_cfg)
        self.drop_path = stochastic_depth(drop_path)
        nn.init.zeros_(self.conv2.bn.weight)  # a fresh block starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.conv2(self.conv1(x), after_gelu=True))


class Block(nn.Module):
    """Token mixer, optional squeeze-and-excite, channel mixer (section 3.2). Shape is kept."""

    def __init__(self, channels, use_se, drop_path=0.0, norm_cfg=None, kernel_size=3, hidden=None):
        super().__init__()
        self.token_mixer = RepDWConv(channels, kernel_size, norm_cfg)
        self.se = SqueezeExcite(channels) if use_se else nn.Identity()
        self.channel_mixer = ChannelMixer(channels, drop_path, norm_cfg, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel_mixer(self.se(self.token_mixer(x)))


class Stem(nn.Module):
    """Two stride-2 3x3 convolutions with a GELU between (section 3.3, early convolutions): `(B, C, H/4, W/4)`."""

    def __init__(self, in_channels, channels, norm_cfg=None):
        super().__init__()
        self.conv1 = ConvBN(in_channels, channels // 2, 3, 2, norm_cfg=norm_cfg)
        self.conv2 = ConvBN(channels // 2, channels, 3, 2, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x), after_gelu=True)


class Downsample(nn.Module):
    """Depthwise stride 2, 1x1 to the new width, channel mixer (section 3.3, deeper downsampling)."""

    def __init__(self, in_channels, out_channels, drop_path=0.0, norm_cfg=None, kernel_size=3, use_se=False):
        super().__init__()
        self.spatial = ConvBN(in_channels, in_channels, kernel_size, 2, groups=in_channels, norm_cfg=norm_cfg)
        self.se = SqueezeExcite(in_channels) if use_se else nn.Identity()
        self.channel = ConvBN(in_channels, out_channels, norm_cfg=norm_cfg)
        self.channel_mixer = ChannelMixer(out_channels, drop_path, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel_mixer(self.channel(self.se(self.spatial(x))))


class Stage(nn.Module):
    """All blocks of one stride: the way down to it, the body, and the block that prepares the next way down.

    `forward` returns the two features that can be tapped: the end of the body and the end of the stage, which are the
    same tensor where the stage has no `pre_downsample` block.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], pre_downsample: nn.Module):
        super().__init__()
        self.downsample, self.blocks, self.pre_downsample = downsample, nn.Sequential(*blocks), pre_downsample

    def forward(self, x: Tensor, with_cp: bool = False) -> tuple[Tensor, Tensor]:
        def run(block, x):
            return _checkpointed(block, x) if with_cp and x.requires_grad else block(x)

        x = run(self.downsample, x)
        for block in self.blocks:
            x = run(block, x)
        return x, run(self.pre_downsample, x)


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)`, recomputed in the backward pass without updating running statistics a second time."""
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block)))


@contextmanager
def _statistics_kept(module: nn.Module):
    norms = [(bn, bn.momentum, bn.num_batches_tracked) for bn in module.modules() if isinstance(bn, _BatchNorm)]
    for bn, _, _ in norms:
        bn.momentum, bn.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for bn, momentum, batches in norms:
            bn.momentum, bn.num_batches_tracked = momentum, batches


@MODELS.register_module()
class RepViT(BaseModule):
    """RepViT with multi-scale outputs: `(B, 3, H, W)` to one `(B, C_i, H / s_i, W / s_i)`, rounded up, per stage asked.

    Args:
        arch: a name in `ARCHS`, or `dict(embed_dims=(...), depths=(...))` with four numbers each.
        out_indices: stages to return, ascending, of 0 to 3 (strides 4, 8, 16, 32). Later stages are not built.
        tap: 'stage_body' returns the feature before the block that precedes the downsampling (the published COCO
            detectors, timm), 'stage_end' the last feature of that stride (the published ADE20K segmentors). Weights
            trained with one tap lose accuracy silently with the other.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        norm_eval: keep every batch norm on its running statistics while training.
        norm_cfg: of the batch-norm family (`BN`, `SyncBN`): anything else cannot be merged into a convolution.
        with_cp: recompute each block in the backward pass instead of storing its activations.
        drop_path_rate: largest stochastic-depth rate, growing linearly over the blocks.
        deploy: build the fused form (for a fused state dict).
        init_cfg: `dict(type='Pretrained', checkpoint=...)` takes a path, a URL or a catalogue name, in any layout that
            `repvit_dense.checkpoints.layouts` knows.

    Attributes:
        out_channels, out_strides: of each returned feature, in order.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = 'm1_1',
        out_indices: Sequence[int] = (0, 1, 2, 3),
        tap: str = 'stage_body',
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: Mapping | None = None,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        deploy: bool = False,
        init_cfg: Mapping | None = None,
    ):
        super().__init__(read_safely(init_cfg))
        embed_dims, depths = _resolve_arch(arch)
        norm_cfg = dict(norm_cfg or {'type': 'BN', 'requires_grad': True})
        check_options(out_indices, frozen_stages)
        _check(tap, norm_cfg)
        self.arch, self.tap = arch, tap
        self.out_indices = tuple(out_indices)
        self.frozen_stages, self.norm_eval, self.with_cp = frozen_stages, norm_eval, with_cp
        self.out_channels = tuple(embed_dims[i] for i in self.out_indices)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)
        self.stem = Stem(3, embed_dims[0], norm_cfg)
        self.stages = _build_stages(embed_dims, depths, self.out_indices[-1], tap, drop_path_rate, norm_cfg)
        self._keep_largest_gelus()
        if deploy:
            self.eval().switch_to_deploy()
            self.train()
        self._freeze()

    @property
    def deploy(self) -> bool:
        """Whether every re-parameterisable part is fused."""
        return not any(isinstance(module, ConvBN | RepDWConv) for module in self.modules())

    def switch_to_deploy(self) -> None:
        """Fuse in place; a second call does nothing. Raises RuntimeError in training mode."""
        reparameterize_model(self, inplace=True)

    def train(self, mode: bool = True) -> 'RepViT':
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            eval_norms(self)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if x.is_cpu and not torch.compiler.is_compiling():
            x = x.contiguous(memory_format=torch.channels_last)  # oneDNN is faster on it; every layer below keeps it
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            body, x = stage(x, self.with_cp)
            if i in self.out_indices:
                outs.append(body if self.tap == 'stage_body' else x)
        return tuple(outs)

    def _keep_largest_gelus(self) -> None:
        """On a CPU: at strides 4 and 8 they are larger than its caches, and slow to compute a second time."""
        for part in (self.stem, *self.stages[:2]):
            for module in part.modules():
                if isinstance(module, ConvBN):
                    module.gelu_kept = True

    def _freeze(self) -> None:
        parts = [self.stem, *self.stages][: self.frozen_stages + 1]
        for part in parts:
            part.eval().requires_grad_(False)


def _resolve_arch(arch) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f"unknown arch '{arch}'; known: {', '.join(ARCHS)}, or a dict of embed_dims and depths")
        arch = ARCHS[arch]
    if set(arch) != {'embed_dims', 'depths'} or any(len(arch[key]) != len(STRIDES) for key in arch):
        raise ValueError(f"arch as a dict holds 'embed_dims' and 'depths' with four numbers each, got {dict(arch)}")
    return tuple(arch['embed_dims']), tuple(arch['depths'])


def _check(tap, norm_cfg) -> None:
    if tap not in TAPS:
        raise ValueError(f"unknown tap '{tap}'; known: {', '.join(TAPS)}")
    norm = MODELS.get(norm_cfg['type'])
    if norm is None or not issubclass(norm, _BatchNorm):
        raise ValueError(f"norm_cfg must name a batch norm (BN, SyncBN), got '{norm_cfg['type']}': only those merge")


def _build_stages(embed_dims, depths, last, tap, drop_path_rate, norm_cfg) -> nn.ModuleList:
    """Stages 0 to `last`; nothing is built whose output nobody asked for (it would get no gradient)."""
    # One rate per channel mixer, in order: those of the downsampling blocks and the pre-downsample blocks included.
    total = sum(depths) + 2 * (len(depths) - 1)
    rates = [drop_path_rate * i / (total - 1) for i in range(total)]
    stages = nn.ModuleList()
    for i, (width, depth) in enumerate(zip(embed_dims, depths, strict=True)):
        down = nn.Identity() if i == 0 else Downsample(embed_dims[i - 1], width, rates.pop(0), norm_cfg)
        is_last = i == len(depths) - 1
        own = [rates.pop(0) for _ in range(depth if is_last else depth + 1)]
        if i <= last:
            # Squeeze-and-excite in every other block, starting with the first (section 3.4).
            blocks = [Block(width, j % 2 == 0, own[j], norm_cfg) for j in range(depth)]
            has_pre = not is_last and (i < last or tap == 'stage_end')
            pre = Block(width, False, own[-1], norm_cfg) if has_pre else nn.Identity()
            stages.append(Stage(down, blocks, pre))
    return stages
