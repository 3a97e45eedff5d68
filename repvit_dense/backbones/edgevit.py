"""EdgeViT: convolutions for the neighbourhood, attention between a few positions for distant ones.

Source: "EdgeViTs: Competing Light-weight CNNs on Mobile Devices with Vision Transformers", arXiv 2205.03436, section 3
and figures 2 and 3. The paper does not state the depths, the size of the local window and the positions of the norms;
they follow the authors' release, github.com/saic-fi/edgevit, so that weights trained with it fit.

Classifiers of these sizes have 4.07, 6.77 and 13.11 million parameters and 0.55, 1.13 and 1.91 billion multiply-adds.
The paper states 4.1, 6.7, 11.1 and 0.6, 1.1, 1.9. Others count 13.1 million for S as well (arXiv 2403.19963, table 1),
and no published depths give 11.1: depths 1, 2, 3, 2, as in unofficial ports, give 8.76 million and 1.37 billion; 1, 1,
5, 2 would give 11.12 million, but 1.67 billion.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from repvit_dense.backbones.base import Peer, run_block
from repvit_dense.backbones.convolution import Conv2d, gelu
from repvit_dense.backbones.layers import LayerNorm2d, stochastic_depth
from repvit_dense.reparam import bn_affine, conv_like, merge_depthwise

# Widths and blocks per stage, channels per attention head.
ARCHS: dict[str, dict] = {
    'xxs': {'embed_dims': (36, 72, 144, 288), 'depths': (1, 1, 3, 2), 'head_dim': 36},
    'xs': {'embed_dims': (48, 96, 240, 384), 'depths': (1, 1, 3, 1), 'head_dim': 48},
    's': {'embed_dims': (48, 96, 240, 384), 'depths': (1, 2, 5, 3), 'head_dim': 48},
}
PATCHES = (4, 2, 2, 2)  # side of the patches at the start of each stage, in positions of the previous stage
RATES = (4, 2, 2, 1)  # side of the windows, in positions; each window has one delegate
EXPANSION = 4  # of the feed-forward networks
EPS = 1e-6  # of the layer norms before attention and before the feed-forward network


class Position(nn.Module):
    """Conditional position encoding (arXiv 2102.10882): a depthwise 3x3 convolution added to its input."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)

    def fuse(self) -> nn.Conv2d:
        pointwise = torch.zeros_like(self.conv.weight[..., :1, :1])
        return conv_like(self.conv, merge_depthwise(self.conv.weight, pointwise), self.conv.bias)


class NormConv(nn.Module):
    """Batch norm, then a 1x1 convolution; the norm can be folded because the convolution has no padding."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))

    def fuse(self) -> nn.Conv2d:
        scale, shift = bn_affine(self.norm)
        weight = self.conv.weight
        return conv_like(self.conv, weight * scale.reshape(1, -1, 1, 1), self.conv.bias + weight.flatten(1) @ shift)


class LocalAggregation(nn.Module):
    """Local aggregation (section 3, figure 3a): 1x1, depthwise 5x5, 1x1, then feed-forward. `(B, C, H, W)` is kept."""

    def __init__(self, channels: int, drop_path: float):
        super().__init__()
        self.position = Position(channels)
        depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.gather = nn.Sequential(NormConv(channels, channels), depthwise, Conv2d(channels, channels, 1))
        self.expand = NormConv(channels, EXPANSION * channels)
        self.shrink = Conv2d(EXPANSION * channels, channels, 1)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.position(x)
        x = x + self.drop_path(self.gather(x))
        return x + self.drop_path(self.shrink(gelu(self.expand(x))))


class DelegateAttention(nn.Module):
    """Global sparse attention and local propagation (section 3, figures 3b and 3c). `(B, H, W, C)` is kept.

    The upper left position of every window of `rate x rate`, its delegate, attends to the delegates of the other
    windows; a depthwise transposed convolution spreads the result over the window. H and W are multiples of `rate`.
    """

    def __init__(self, channels: int, heads: int, rate: int):
        super().__init__()
        self.heads, self.rate = heads, rate
        self.qkv = nn.Linear(channels, 3 * channels)
        if rate > 1:
            self.spread = nn.ConvTranspose2d(channels, channels, rate, rate, groups=channels)
            self.norm = nn.LayerNorm(channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        height, width = height // self.rate, width // self.rate
        # Indexed by windows: an export for any size cannot tell the length of `::rate`.
        delegates = x.reshape(batch, height, self.rate, width, self.rate, channels)[:, :, 0, :, 0]
        # Transposed one by one: OpenVINO 2026 computes the joint transpose wrongly if there are as many delegates as
        # heads.
        split = (batch, height * width, self.heads, channels // self.heads)
        q, k, v = (part.reshape(split).transpose(1, 2) for part in self.qkv(delegates).chunk(3, -1))
        x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(batch, height, width, channels)
        if self.rate > 1:
            x = self.norm(self.spread(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.proj(x)


class SparseTransformer(nn.Module):
    """A transformer block around the attention of delegates. `(B, C, H, W)` is kept."""

    def __init__(self, channels: int, heads: int, rate: int, drop_path: float):
        super().__init__()
        self.position = Position(channels)
        self.norm1 = nn.LayerNorm(channels, EPS)
        self.attention = DelegateAttention(channels, heads, rate)
        self.norm2 = nn.LayerNorm(channels, EPS)
        hidden = EXPANSION * channels
        self.ffn = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.position(x).permute(0, 2, 3, 1)
        x = x + self.drop_path(self.attention(self.norm1(x)))
        x = x + self.drop_path(self.ffn(self.norm2(x)))
        return x.permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Patches, then local-global-local bottlenecks (section 3, figure 2): `(B, C, H, W)` to `(B, C', H / p, W / p)`.

    With rate 1 every position is its own delegate, and a block is a plain transformer block.
    """

    def __init__(self, in_channels: int, channels: int, patch: int, heads: int, rate: int, drop_path: Sequence[float]):
        super().__init__()
        self.patch_embed = nn.Sequential(nn.Conv2d(in_channels, channels, patch, patch), LayerNorm2d(channels))
        self.blocks = nn.ModuleList()
        for drop in drop_path:
            parts = {'local': LocalAggregation(channels, drop)} if rate > 1 else {}
            parts['sparse'] = SparseTransformer(channels, heads, rate, drop)
            self.blocks.append(nn.Sequential(OrderedDict(parts)))

    def forward(self, x: Tensor, with_cp: bool) -> Tensor:
        x = self.patch_embed(x)
        for block in self.blocks:
            x = run_block(block, with_cp, x)
        return x


@MODELS.register_module()
class DenseEdgeViT(Peer):
    """EdgeViT (arXiv 2205.03436) at any image size from 64 pixels on.

    Args:
        arch: a name in `ARCHS`.
        drop_path_rate: largest stochastic-depth rate; the rates grow over the blocks.
        options: arguments of `DenseBackbone`.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    multiple = 32  # patches are cut without padding, and the windows of stage 3 have two positions of stride 16

    def __init__(self, arch: str = 'xs', drop_path_rate: float = 0.0, **options):
        super().__init__(f'EdgeViT-{arch.upper()}', **options)
        if arch not in ARCHS:
            raise ValueError(f"unknown arch '{arch}'; known: {', '.join(ARCHS)}")
        stages = _build_stages(**ARCHS[arch], last=self.out_indices[-1], drop_path_rate=drop_path_rate)
        parts = {'stages.0.patch_embed': 0} | {f'stages.{i}': i + 1 for i in range(len(stages))}
        self.set_net(nn.ModuleDict({'stages': stages}), ARCHS[arch]['embed_dims'], parts)

    def _features(self, x: Tensor) -> list[Tensor]:
        outs = []
        for stage in self.net['stages']:
            x = stage(x, self.with_cp)
            outs.append(x)
        return [outs[i] for i in self.out_indices]

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        converted, unused = {}, []
        for key, value in state.items():
            stage, name = _rename(key)
            if stage >= len(self.net['stages']) or re.match(r'(backbone\.)?(norm|head)\.', key):
                unused.append(key)
            else:
                converted[name] = value
        return converted, unused


def _build_stages(embed_dims, depths, head_dim, last: int, drop_path_rate: float) -> nn.ModuleList:
    """Build stages 0 to `last`, with the stochastic-depth rates of the whole network."""
    rates = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').split(depths)
    stages = nn.ModuleList()
    for i in range(last + 1):
        before, width = (3, *embed_dims)[i], embed_dims[i]
        stages.append(Stage(before, width, PATCHES[i], width // head_dim, RATES[i], rates[i].tolist()))
    for module in stages.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return stages


# --- published weights ---

# The authors' names of modules, within `patch_embed{1..4}` and within `blocks{1..4}.{0..}`, and the names here.
_PATCHES = {'proj': '0', 'norm': '1'}
_BLOCKS = {
    'LocalAgg.pos_embed': 'local.position.conv',
    'LocalAgg.norm1': 'local.gather.0.norm',
    'LocalAgg.conv1': 'local.gather.0.conv',
    'LocalAgg.attn': 'local.gather.1',
    'LocalAgg.conv2': 'local.gather.2',
    'LocalAgg.norm2': 'local.expand.norm',
    'LocalAgg.mlp.fc1': 'local.expand.conv',
    'LocalAgg.mlp.fc2': 'local.shrink',
    'SelfAttn.pos_embed': 'sparse.position.conv',
    'SelfAttn.norm1': 'sparse.norm1',
    'SelfAttn.attn.qkv': 'sparse.attention.qkv',
    'SelfAttn.attn.LocalProp': 'sparse.attention.spread',
    'SelfAttn.attn.norm': 'sparse.attention.norm',
    'SelfAttn.attn.proj': 'sparse.attention.proj',
    'SelfAttn.norm2': 'sparse.norm2',
    'SelfAttn.mlp.fc1': 'sparse.ffn.0',
    'SelfAttn.mlp.fc2': 'sparse.ffn.2',
}


def _rename(key: str) -> tuple[int, str]:
    """Return the stage of a published tensor (0 if unknown) and its name here, or `key` itself if it has none."""
    patch = re.fullmatch(r'(?:.*\.)?patch_embed([1-4])\.(\w+)\.(\w+)', key)
    if patch and patch[2] in _PATCHES:
        stage = int(patch[1]) - 1
        return stage, f'stages.{stage}.patch_embed.{_PATCHES[patch[2]]}.{patch[3]}'
    block = re.fullmatch(r'(?:.*\.)?blocks([1-4])\.(\d+)\.(.+)\.(\w+)', key)
    if block and block[3] in _BLOCKS:
        stage = int(block[1]) - 1
        return stage, f'stages.{stage}.blocks.{block[2]}.{_BLOCKS[block[3]]}.{block[4]}'
    return 0, key
