"""Mobile-Former: a MobileNet and a transformer of a few learnt tokens in parallel, with a bridge in every block.

Source: "Mobile-Former: Bridging MobileNet and Transformer", arXiv 2108.05895. Details that its tables leave open follow
the authors' model (github.com/AAboys/MobileFormer): the gate of `MobileToFormer`, tokens as their own keys and values
in `Former` (which the published parameter counts require), the positions of the channel shuffles, and the scale of the
initial weights.
"""

from typing import NamedTuple

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from repvit_dense.backbones.base import Peer, run_block
from repvit_dense.backbones.layers import ConvBN, stochastic_depth

BRIDGE_HEADS, FORMER_HEADS = 2, 4


class Arch(NamedTuple):
    """One variant (table 1 and the appendix's specifications)."""

    tokens: tuple[int, int]  # number, width
    stem: int  # channels
    lite: tuple[int, int, int]  # expansion, channels and stride of the lite bottleneck
    stages: str  # expansion x channels of the blocks of strides 4, 8, 16 and 32
    groups: int = 1  # of all 1x1 convolutions

    def blocks(self) -> list[list[tuple[int, int]]]:
        """Return expansion and channels of each block, stage by stage."""
        stages = [[block.split('x') for block in stage.split()] for stage in self.stages.split(',')]
        return [[(int(expansion), int(channels)) for expansion, channels in stage] for stage in stages]


_TINY = '3x12, 6x24 3x24, 6x48 4x48 6x64, 6x96 6x96'
ARCHS = {
    '26m': Arch((3, 128), 8, (3, 12, 2), _TINY, groups=4),
    '52m': Arch((3, 128), 8, (3, 12, 2), _TINY),
    '96m': Arch((4, 128), 12, (2, 12, 1), '6x16, 6x32 3x32, 6x64 4x64 6x88, 6x128 6x128'),
    '151m': Arch((6, 192), 12, (2, 12, 1), '6x16 3x16, 6x32 3x32, 6x64 4x64 6x88 6x88, 6x128 6x128 6x128'),
    '214m': Arch((6, 192), 12, (2, 12, 1), '6x20 3x20, 6x40 4x40, 6x80 4x80 6x112 6x112, 6x160 6x160 6x160'),
    '294m': Arch((6, 192), 16, (2, 16, 1), '6x24 4x24, 6x48 4x48, 6x96 4x96 6x128 6x128, 6x192 6x192 6x192'),
    '508m': Arch((6, 192), 24, (2, 24, 1), '6x40 3x40, 6x72 3x72, 6x128 4x128 6x176 6x176, 6x240 6x240 6x240'),
}


# --- Mobile: maps `(B, C, H, W)` ---


class Shuffle(nn.Module):
    """Channel shuffle over `shuffled` groups (arXiv 1707.01083, section 3.1), if 1x1 convolutions have groups."""

    def __init__(self, shuffled: int, groups: int):
        super().__init__()
        self.groups = shuffled if groups > 1 else 1

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1:
            return x
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class DynamicReLU(nn.Module):
    """`max(a x, b x)`, a in [0, 2] and b in [-1, 1] per channel, from the first token (section 3, Mobile sub-block).

    Source of the formula: arXiv 2003.10027, section 3.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        squeeze = nn.Linear(width, width // 4), nn.ReLU()
        self.slopes = nn.Sequential(*squeeze, nn.Linear(width // 4, 2 * channels), nn.Hardsigmoid())

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        a, b = (2 * self.slopes(tokens[:, 0]))[..., None, None].chunk(2, dim=1)
        return torch.maximum(a * x, (b - 1) * x)


class LiteBottleneck(nn.Module):
    """Depthwise expansion, ReLU6, 1x1 (arXiv 2108.05894, section 3): the only block without a Former."""

    def __init__(self, channels: int, out_channels: int, expansion: int, stride: int, groups: int):
        super().__init__()
        hidden = channels * expansion
        self.conv1 = ConvBN(channels, hidden, 3, stride, groups=channels)
        self.shuffle = Shuffle(channels, groups)
        self.conv2 = ConvBN(hidden, out_channels, groups=groups)
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.shuffle(F.relu6(self.conv1(x))))
        return x + out if self.residual else out


class Bottleneck(nn.Module):
    """1x1, depthwise, 1x1 with stride 1 (section 3, Mobile sub-block)."""

    def __init__(self, channels: int, out_channels: int, expansion: int, groups: int, width: int, drop_path: float):
        super().__init__()
        hidden = channels * expansion
        self.conv1 = ConvBN(channels, hidden, groups=groups)
        self.act1 = DynamicReLU(hidden, width)
        self.conv2 = ConvBN(hidden, hidden, 3, groups=hidden)
        self.act2 = DynamicReLU(hidden, width)
        self.conv3 = ConvBN(hidden, out_channels, groups=groups)
        self.shuffle, self.drop_path = Shuffle(groups, groups), stochastic_depth(drop_path)
        self.residual = channels == out_channels

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        out = self.act1(self.shuffle(self.conv1(x)), tokens)
        out = self.act2(self.conv2(out), tokens)
        out = self.shuffle(self.conv3(out))
        return x + self.drop_path(out) if self.residual else out


class DownBottleneck(nn.Module):
    """Depthwise expansion and 1x1, twice: first with stride 2, then residual (section 3, downsample block)."""

    def __init__(self, channels: int, out_channels: int, expansion: int, groups: int, width: int, drop_path: float):
        super().__init__()
        hidden1, hidden2 = channels * expansion, out_channels * 4
        self.conv1 = ConvBN(channels, hidden1, 3, 2, groups=channels)
        self.act1 = DynamicReLU(hidden1, width)
        self.conv2 = ConvBN(hidden1, out_channels, groups=groups)
        self.conv3 = ConvBN(out_channels, hidden2, 3, groups=out_channels)
        self.act3 = DynamicReLU(hidden2, width)
        self.conv4 = ConvBN(hidden2, out_channels, groups=groups)
        self.shuffle1, self.shuffle3 = Shuffle(channels, groups), Shuffle(out_channels, groups)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = self.conv2(self.act1(self.shuffle1(self.conv1(x)), tokens))
        out = self.conv4(self.act3(self.shuffle3(self.conv3(x)), tokens))
        return x + self.drop_path(out)


# --- Former and the bridge: tokens `(B, M, D)` ---


def _heads(x: Tensor, heads: int = BRIDGE_HEADS) -> Tensor:
    """Split the heads of a map, `(B, heads, C / heads, H * W)`, or of tokens, `(B, heads, M, C / heads)`."""
    return x.flatten(2).unflatten(1, (heads, -1)) if x.ndim == 4 else x.unflatten(2, (heads, -1)).transpose(1, 2)


class MobileToFormer(nn.Module):
    """Attention of tokens to the map, which is key and value without projection (section 3, equation 1); layer norm."""

    def __init__(self, channels: int, width: int, drop_path: float = 0.0):
        super().__init__()
        self.scale = (channels // BRIDGE_HEADS) ** -0.5
        self.query, self.gate = nn.Linear(width, channels), nn.Linear(width, channels)
        self.proj, self.norm = nn.Linear(channels, width), nn.LayerNorm(width)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = _heads(x)
        scores = _heads(self.query(tokens)) @ x * self.scale
        out = (scores.softmax(-1) @ x.transpose(2, 3)).transpose(1, 2).flatten(2)
        out = out * (2 * F.hardsigmoid(self.gate(tokens)))
        return self.norm(tokens + self.drop_path(self.proj(out)))


class Former(nn.Module):
    """Self-attention and a feed-forward network of expansion 2, a layer norm after each (section 3, Former)."""

    def __init__(self, width: int, drop_path: float = 0.0):
        super().__init__()
        self.scale = (width // FORMER_HEADS) ** -0.5
        self.query, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.ffn_norm = nn.LayerNorm(width)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        keys = _heads(tokens, FORMER_HEADS)
        scores = _heads(self.query(tokens), FORMER_HEADS) @ keys.transpose(2, 3) * self.scale
        out = (scores.softmax(-1) @ keys).transpose(1, 2).flatten(2)
        tokens = self.norm(tokens + self.drop_path(self.proj(out)))
        return self.ffn_norm(tokens + self.drop_path(self.ffn(tokens)))


class FormerToMobile(nn.Module):
    """Attention of the map, which is the query without projection, to the tokens (section 3, equation 2)."""

    def __init__(self, channels: int, width: int, drop_path: float = 0.0):
        super().__init__()
        self.scale = (channels // BRIDGE_HEADS) ** -0.5
        self.key, self.value = nn.Linear(width, channels), nn.Linear(width, channels)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        key, value = (_heads(part(tokens)) for part in (self.key, self.value))
        scores = key @ _heads(x) * self.scale  # (B, heads, M, H * W)
        out = value.transpose(2, 3) @ scores.softmax(2)
        return x + self.drop_path(out.reshape(x.shape))


class Block(nn.Module):
    """Mobile to Former, Former, Mobile, Former to Mobile (section 3): a map and tokens to a map and tokens."""

    def __init__(self, mobile: nn.Module, channels: int, out_channels: int, width: int, drop_path: float):
        super().__init__()
        self.to_former = MobileToFormer(channels, width, drop_path)
        self.former = Former(width, drop_path)
        self.mobile = mobile
        self.to_mobile = FormerToMobile(out_channels, width, drop_path)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.former(self.to_former(x, tokens))
        return self.to_mobile(self.mobile(x, tokens), tokens), tokens


class Net(nn.Module):
    """Stem, tokens and the blocks of the first `stages` stages, without the parts that only the classifier reads."""

    def __init__(self, arch: Arch, stages: int, drop_path_rate: float):
        super().__init__()
        count, width = arch.tokens
        expansion, channels, stride = arch.lite
        depth = 1 + sum(map(len, arch.blocks()))
        rates = iter(torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()[1:])
        self.tokens = nn.Parameter(torch.randn(count, width))
        self.stem = ConvBN(3, arch.stem, 3, 2)
        self.blocks = nn.ModuleList([LiteBottleneck(arch.stem, channels, expansion, stride, arch.groups)])
        for stage in arch.blocks()[:stages]:
            for i, (expansion, out_channels) in enumerate(stage):
                rate = next(rates)
                kind = DownBottleneck if i == 0 and stride == 1 else Bottleneck
                mobile = kind(channels, out_channels, expansion, arch.groups, width, rate)
                self.blocks.append(Block(mobile, channels, out_channels, width, rate))
                channels = out_channels
            stride = 1  # from the second stage on, every stage begins with a downsampling
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01), nn.init.zeros_(module.bias)


@MODELS.register_module()
class DenseMobileFormer(Peer):
    """Mobile-Former at any image size from 64 pixels on; a feature is the map after the last block of its stride.

    Args:
        arch: a key of `ARCHS`, named after the multiply-adds of the classifier at 224 pixels.
        drop_path_rate: largest stochastic-depth rate; the rates grow over the blocks.
        options: arguments of `DenseBackbone`. The tokens are frozen with the stem; the lite bottleneck belongs to the
            first stage.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    multiple = 1  # every downsampling rounds up: nothing has to be padded

    def __init__(self, arch: str = '294m', drop_path_rate: float = 0.0, **options):
        super().__init__(f'Mobile-Former-{arch.upper()}', **options)
        if arch not in ARCHS:
            raise ValueError(f"arch must be one of {', '.join(ARCHS)}, got '{arch}'")
        stages = ARCHS[arch].blocks()
        net = Net(ARCHS[arch], self.out_indices[-1] + 1, drop_path_rate)
        stage_of = [0, *(i for i, stage in enumerate(stages) for _ in stage)]  # the stage of each block
        parts = {'tokens': 0, 'stem': 0} | {f'blocks.{i}': stage_of[i] + 1 for i in range(len(net.blocks))}
        self.set_net(net, [stage[-1][1] for stage in stages], parts)
        self.ends = [max(i for i, other in enumerate(stage_of) if other == stage) for stage in self.out_indices]

    def _features(self, x: Tensor) -> list[Tensor]:
        x, outs = self.net.blocks[0](F.relu6(self.net.stem(x))), []
        tokens = self.net.tokens.expand(x.shape[0], -1, -1)
        for i, block in enumerate(self.net.blocks[1:], 1):
            x, tokens = run_block(block, self.with_cp, x, tokens)
            if i in self.ends:
                outs.append(x)
        return outs
