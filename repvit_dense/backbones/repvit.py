"""RepViT: a MobileNetV3 rebuilt with the architecture choices of lightweight ViTs.

Source: "RepViT: Revisiting Mobile CNN From ViT Perspective", arXiv 2307.09283, whose sections the docstrings name.
"""

from collections.abc import Mapping, Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense.backbones.base import ALL_STAGES, STRIDES, DenseBackbone, run_block
from repvit_dense.backbones.convolution import channels_last
from repvit_dense.backbones.layers import ConvBN, GeluConvBN, RepDWConv, SqueezeExcite, stochastic_depth
from repvit_dense.reparam import reparameterize_model

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
# Stages (strides 4 and 8) whose activations are larger than a CPU's caches, so that recomputing GELU there is slow.
KEEP_GELU_STAGES = (0, 1)


class ChannelMixer(nn.Module):
    """Residual 1x1 expansion, by 2 or to `hidden`, GELU, 1x1 projection (section 3.2). Shape is kept."""

    def __init__(self, channels, drop_path=0.0, norm_cfg=None, hidden=None, keep_gelu=False):
        super().__init__()
        hidden = hidden or 2 * channels
        self.conv1 = ConvBN(channels, hidden, norm_cfg=norm_cfg)
        self.conv2 = GeluConvBN(hidden, channels, norm_cfg=norm_cfg, keep_gelu=keep_gelu)
        self.drop_path = stochastic_depth(drop_path)
        nn.init.zeros_(self.conv2.bn.weight)  # a new block starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.conv2(self.conv1(x)))


class Block(nn.Module):
    """Token mixer, optional squeeze-and-excite, channel mixer (section 3.2). Shape is kept."""

    def __init__(self, channels, use_se, drop_path=0.0, norm_cfg=None, kernel_size=3, hidden=None, keep_gelu=False):
        super().__init__()
        self.token_mixer = RepDWConv(channels, kernel_size, norm_cfg)
        self.se = SqueezeExcite(channels) if use_se else nn.Identity()
        self.channel_mixer = ChannelMixer(channels, drop_path, norm_cfg, hidden, keep_gelu)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel_mixer(self.se(self.token_mixer(x)))


class Stem(nn.Module):
    """Two stride-2 3x3 convolutions with GELU between them (section 3.3, early convolutions): `(B, C, H/4, W/4)`."""

    def __init__(self, in_channels, channels, norm_cfg=None, keep_gelu=False):
        super().__init__()
        self.conv1 = ConvBN(in_channels, channels // 2, 3, 2, norm_cfg=norm_cfg)
        self.conv2 = GeluConvBN(channels // 2, channels, 3, 2, norm_cfg=norm_cfg, keep_gelu=keep_gelu)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Downsample(nn.Module):
    """Depthwise stride 2, 1x1 to the new width, channel mixer (section 3.3, deeper downsampling)."""

    def __init__(
        self, in_channels, out_channels, drop_path=0.0, norm_cfg=None, kernel_size=3, use_se=False, keep_gelu=False
    ):
        super().__init__()
        self.spatial = ConvBN(in_channels, in_channels, kernel_size, 2, groups=in_channels, norm_cfg=norm_cfg)
        self.se = SqueezeExcite(in_channels) if use_se else nn.Identity()
        self.channel = ConvBN(in_channels, out_channels, norm_cfg=norm_cfg)
        self.channel_mixer = ChannelMixer(out_channels, drop_path, norm_cfg, keep_gelu=keep_gelu)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel_mixer(self.channel(self.se(self.spatial(x))))


class Stage(nn.Module):
    """All blocks of one stride: the downsampling to it, the body, and the block that precedes the next downsampling.

    `forward` returns the two features that can be tapped: the end of the body and the end of the stage. They are the
    same tensor if the stage has no `pre_downsample` block.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], pre_downsample: nn.Module):
        super().__init__()
        self.downsample, self.blocks, self.pre_downsample = downsample, nn.Sequential(*blocks), pre_downsample

    def forward(self, x: Tensor, with_cp: bool = False) -> tuple[Tensor, Tensor]:
        x = run_block(self.downsample, with_cp, x)
        for block in self.blocks:
            x = run_block(block, with_cp, x)
        return x, run_block(self.pre_downsample, with_cp, x)


@MODELS.register_module()
class RepViT(DenseBackbone):
    """RepViT at any image size.

    Args:
        arch: a name in `ARCHS`, or `dict(embed_dims=(...), depths=(...))` with four numbers each.
        out_indices, frozen_stages, norm_eval, with_cp, init_cfg: see `DenseBackbone`.
        tap: 'stage_body' returns the feature before the block that precedes the downsampling (the published COCO
            detectors, timm), 'stage_end' the last feature of that stride (the published ADE20K segmentors). Weights
            trained with one tap lose accuracy silently with the other.
        norm_cfg: a batch norm (`BN`, `SyncBN`); other norms cannot be folded into a convolution.
        drop_path_rate: largest stochastic-depth rate; the rates grow linearly over the blocks.
        deploy: build the fused form, which loads a fused state dict.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = 'm1_1',
        out_indices: Sequence[int] = ALL_STAGES,
        tap: str = 'stage_body',
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: Mapping | None = None,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        deploy: bool = False,
        init_cfg: Mapping | None = None,
    ):
        super().__init__(out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        embed_dims, depths = _resolve_arch(arch)
        norm_cfg = dict(norm_cfg or {'type': 'BN', 'requires_grad': True})
        _check(tap, norm_cfg)
        self.arch, self.tap = arch, tap
        self.stem = Stem(3, embed_dims[0], norm_cfg, keep_gelu=True)
        self.stages = _build_stages(embed_dims, depths, self.out_indices[-1], tap, drop_path_rate, norm_cfg)
        self.set_stages(embed_dims, {'stem': 0} | {f'stages.{i}': i + 1 for i in range(len(self.stages))})
        if deploy:
            self.eval().switch_to_deploy()
            self.train()

    @property
    def deploy(self) -> bool:
        """Return whether every re-parameterisable part is fused."""
        return not any(isinstance(module, ConvBN | RepDWConv) for module in self.modules())

    def switch_to_deploy(self) -> None:
        """Fuse in place; a second call does nothing. Raises RuntimeError in training mode."""
        reparameterize_model(self, inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(channels_last(x))
        outs = []
        for i, stage in enumerate(self.stages):
            body, x = stage(x, self.with_cp)
            if i in self.out_indices:
                outs.append(body if self.tap == 'stage_body' else x)
        return tuple(outs)


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
        raise ValueError(
            f"norm_cfg must name a batch norm (BN, SyncBN), got '{norm_cfg['type']}', which cannot be folded"
        )


def _build_stages(embed_dims, depths, last, tap, drop_path_rate, norm_cfg) -> nn.ModuleList:
    """Build stages 0 to `last`."""
    # One rate per channel mixer, in order, including those of the downsampling and pre-downsample blocks.
    total = sum(depths) + 2 * (len(depths) - 1)
    rates = [drop_path_rate * i / (total - 1) for i in range(total)]
    stages = nn.ModuleList()
    for i, (width, depth) in enumerate(zip(embed_dims, depths, strict=True)):
        options = {'norm_cfg': norm_cfg, 'keep_gelu': i in KEEP_GELU_STAGES}
        down = nn.Identity() if i == 0 else Downsample(embed_dims[i - 1], width, rates.pop(0), **options)
        is_last = i == len(depths) - 1
        block_rates = [rates.pop(0) for _ in range(depth if is_last else depth + 1)]
        if i <= last:
            # Squeeze-and-excite in every other block, starting with the first (section 3.4).
            blocks = [Block(width, j % 2 == 0, block_rates[j], **options) for j in range(depth)]
            has_pre = not is_last and (i < last or tap == 'stage_end')
            pre = Block(width, False, block_rates[-1], **options) if has_pre else nn.Identity()
            stages.append(Stage(down, blocks, pre))
    return stages
