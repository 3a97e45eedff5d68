"""The steps from MobileNetV3-L to RepViT-M0.9, one decision at a time: nine networks from one table.

Source: "RepViT: Revisiting Mobile CNN From ViT Perspective", arXiv 2307.09283 (version 8), section 3; the first network
is from "Searching for MobileNetV3", arXiv 1905.02244, table 1. The paper states each decision, but not every number of
the networks in between. Those follow from two rules: a decision changes the switches that its row of `STEPS` names and
no others, and a block that MobileNetV3-L does not have copies kernel and squeeze-and-excite of the last one in its
stage.

A dense backbone ends before the classifier, and the paper counts the 1x1 convolution to 960 channels as a part of
MobileNetV3-L's classifier (section 3.3): the last feature of rungs 0 and 1 has 160 channels, and rung 5 equals rung 4.
"""

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from repvit_dense.backbones.base import Peer
from repvit_dense.backbones.convolution import channels_last, gelu
from repvit_dense.backbones.layers import ConvBN, GeluConvBN, RepDWConv, SqueezeExcite, stochastic_depth
from repvit_dense.backbones.repvit import Block, Downsample, Stage, Stem


class Spec(NamedTuple):
    """One block: `(B, channels, H, W)` to `(B, out, H / stride, W / stride)`."""

    kernel: int  # of the depthwise convolution
    hidden: int  # channels between the two 1x1 convolutions
    out: int
    se: bool  # with squeeze-and-excite
    channels: int = 0
    stride: int = 1


# MobileNetV3-L's blocks of strides 4, 8, 16 and 32; the first of each downsamples. They follow a convolution and a
# separable convolution, `SEPARABLE`.
SEPARABLE = Spec(3, 16, 16, False)
MOBILENETV3_L = (
    (Spec(3, 64, 24, False), Spec(3, 72, 24, False)),
    (Spec(5, 72, 40, True), *[Spec(5, 120, 40, True)] * 2),
    (
        *(Spec(3, 240, 80, False), Spec(3, 200, 80, False), *[Spec(3, 184, 80, False)] * 2),
        *(Spec(3, 480, 112, True), Spec(3, 672, 112, True)),
    ),
    (Spec(5, 672, 160, True), *[Spec(5, 960, 160, True)] * 2),
)


class Switches(NamedTuple):
    """The properties in which the rungs differ. The defaults are MobileNetV3-L.

    Attributes:
        separate: blocks mix positions first and channels second; otherwise they are inverted bottlenecks.
        expansion: ratio of hidden to input channels of every channel mixer; None keeps MobileNetV3-L's.
        widths: channels of the four stages; None keeps MobileNetV3-L's.
        stem: filters of the one convolution before the separable one, or of the two stride-2 convolutions that form
            the whole stem.
        deep_downsampling: downsampling is a module of its own, preceded by one more block.
        depths: blocks of the stages, without the downsampling block and the block before the next downsampling.
        kernel: side of every depthwise kernel; None keeps MobileNetV3-L's.
        alternate_se: squeeze-and-excite in every other block; otherwise in the same blocks as MobileNetV3-L.
    """

    separate: bool = False
    expansion: int | None = None
    widths: tuple[int, ...] | None = None
    stem: tuple[int, ...] = (16,)
    deep_downsampling: bool = False
    depths: tuple[int, ...] = (1, 2, 5, 2)
    kernel: int | None = None
    alternate_se: bool = False


class Step(NamedTuple):
    """One decision of the paper.

    Attributes:
        decision: its name.
        section: of the paper.
        top1: accuracy of the classifier on ImageNet in per cent, after 300 epochs without distillation.
        ms: latency of the classifier on an iPhone 12.
        change: the switches it sets; empty if no dense feature changes.
    """

    decision: str
    section: str
    top1: float
    ms: float
    change: Mapping


STEPS = (
    # GELU replaces hard-swish and ReLU; trained with the recipe of lightweight ViTs.
    Step('MobileNetV3-L with GELU', '3.1', 71.5, 1.01, {}),
    # First a re-parameterisable depthwise convolution and squeeze-and-excite mix positions, then two 1x1 convolutions
    # mix channels.
    Step('token mixer apart from channel mixer', '3.2', 68.3, 0.81, {'separate': True}),
    # The ratios were 2.3 to 6. Expansion 2 alone gives 0.65 ms; the time saved pays for the width. Both on the blocks
    # of MobileNetV3-L give 73.0% in 0.91 ms.
    Step('expansion 2, and more width', '3.2', 73.5, 0.89, {'expansion': 2, 'widths': (48, 96, 192, 384)}),
    # Two convolutions of stride 2 replace a convolution, a separable convolution and an inverted bottleneck.
    Step('early convolutions as stem', '3.3', 73.9, 0.86, {'stem': (24, 48)}),
    # One more block, a depthwise convolution of stride 2, a 1x1 and a channel mixer replace a block with stride 2.
    Step('deeper downsampling', '3.3', 75.4, 0.96, {'deep_downsampling': True}),
    # Global pooling and one linear layer, without the 1x1 convolution and the linear layer that added channels.
    Step('simple classifier', '3.3', 74.8, 0.77, {}),
    # The ratio was 1:2:5:2. Accounts of an earlier version of the paper have 1.02 ms here.
    Step('stage ratio 1:1:7:1', '3.3', 76.9, 0.91, {'depths': (2, 2, 14, 2)}),
    # In MobileNetV3-L, some kernels of strides 8 and 32 are 5x5.
    Step('3x3 kernels everywhere', '3.4', 76.9, 0.89, {'kernel': 3}),
    # In the first, third, fifth ... block of each stage, and in no other. This is RepViT-M0.9.
    Step('squeeze-and-excite in every other block', '3.4', 77.4, 0.87, {'alternate_se': True}),
)
RUNGS = tuple(accumulate(STEPS, lambda below, step: below._replace(**step.change), initial=Switches()))[1:]
LAST = len(RUNGS) - 1


class StagePlan(NamedTuple):
    """The blocks of one stage in the order in which they run; None stands for no block."""

    down: Spec | None
    blocks: list[Spec]
    pre: Spec | None  # before the next downsampling


def plan(switches: Switches) -> list[StagePlan]:
    """Return the blocks of all four stages: MobileNetV3-L's, changed by the switches."""
    channels, stages = switches.stem[-1], []
    for i, (down, *rows) in enumerate(MOBILENETV3_L):
        has_down = i > 0 or len(switches.stem) == 1  # the stem of two convolutions is at stride 4 already
        has_pre = switches.deep_downsampling and i < len(MOBILENETV3_L) - 1
        depth = switches.depths[i]
        body = [rows[min(j, len(rows) - 1)] for j in range(depth + has_pre)]
        if switches.alternate_se:
            down = down._replace(se=False)
            body = [row._replace(se=j % 2 == 0 and j < depth) for j, row in enumerate(body)]
        specs: list[Spec] = []
        for row in [down, *body] if has_down else body:
            stride = 2 if has_down and not specs else 1
            specs.append(_switched(row, switches, i, channels, stride))
            channels = specs[-1].out
        first = specs.pop(0) if has_down else None
        stages.append(StagePlan(first, specs[:depth], specs[depth] if has_pre else None))
    return stages


def _switched(row: Spec, switches: Switches, stage: int, channels: int, stride: int) -> Spec:
    hidden = switches.expansion * channels if switches.expansion else row.hidden
    out = switches.widths[stage] if switches.widths else row.out
    return Spec(switches.kernel or row.kernel, hidden, out, row.se, channels, stride)


# --- blocks that RepViT does not have ---


class InvertedResidual(nn.Module):
    """MobileNetV3's block (arXiv 1905.02244, figure 4): 1x1 expansion, depthwise, squeeze-and-excite, 1x1 projection.

    The gate is a hard sigmoid; its hidden width is a quarter of the expanded one, rounded up to a multiple of 8.
    """

    def __init__(self, spec: Spec, drop_path: float = 0.0):
        super().__init__()
        expands, self.residual = spec.hidden != spec.channels, spec.stride == 1 and spec.channels == spec.out
        self.expand = ConvBN(spec.channels, spec.hidden) if expands else nn.Identity()
        depthwise = GeluConvBN if expands else ConvBN
        self.depthwise = depthwise(spec.hidden, spec.hidden, spec.kernel, spec.stride, groups=spec.hidden)
        self.se = SqueezeExcite(spec.hidden, -(-spec.hidden // 32) * 8, F.hardsigmoid) if spec.se else None
        self.project = (ConvBN if spec.se else GeluConvBN)(spec.hidden, spec.out)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        out = self.depthwise(self.expand(x))
        out = self.project(self.se(gelu(out)) if self.se else out)
        return x + self.drop_path(out) if self.residual else out


class Transition(nn.Module):
    """A block of separate mixers that changes stride or width, which leaves no shape for a residual connection."""

    def __init__(self, spec: Spec):
        super().__init__()
        channels, kernel = spec.channels, spec.kernel
        # With a stride there is no identity branch, and nothing to re-parameterise.
        shrinks = spec.stride == 2
        self.token_mixer = ConvBN(channels, channels, kernel, 2, channels) if shrinks else RepDWConv(channels, kernel)
        self.se = SqueezeExcite(channels) if spec.se else nn.Identity()
        self.conv1 = ConvBN(channels, spec.hidden)
        self.conv2 = GeluConvBN(spec.hidden, spec.out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(self.se(self.token_mixer(x))))


class SeparableStem(nn.Module):
    """MobileNetV3's first two layers, a convolution of stride 2 and a block: `(B, C, H/2, W/2)`."""

    def __init__(self, channels: int, block: nn.Module):
        super().__init__()
        self.conv = ConvBN(3, channels, 3, 2)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(gelu(self.conv(x)))


# --- the networks ---


def build(switches: Switches, stages: int = len(MOBILENETV3_L), drop_path_rate: float = 0.0) -> nn.ModuleDict:
    """Build `stem` and the first `stages` stages; the last of these has no block before the next downsampling."""
    plans = plan(switches)
    has_separable = len(switches.stem) == 1
    # One stochastic-depth rate per block of the whole network, in order.
    total = has_separable + sum((p.down is not None) + len(p.blocks) + (p.pre is not None) for p in plans)
    rates = iter([drop_path_rate * i / (total - 1) for i in range(total)])
    if has_separable:
        (channels,) = switches.stem
        spec = _switched(SEPARABLE, switches._replace(widths=(channels,)), 0, channels, 1)
        stem = SeparableStem(channels, _block(spec, switches, next(rates)))
    else:
        stem = Stem(3, switches.stem[-1])
    built = nn.ModuleList()
    for i, stage in enumerate(plans[:stages]):
        down = _downsample(stage.down, switches, next(rates)) if stage.down else nn.Identity()
        blocks = [_block(spec, switches, next(rates)) for spec in stage.blocks]
        rate = next(rates) if stage.pre else 0.0
        pre = _block(stage.pre, switches, rate) if stage.pre and i < stages - 1 else nn.Identity()
        built.append(Stage(down, blocks, pre))
    return nn.ModuleDict({'stem': stem, 'stages': built})


def _block(spec: Spec, switches: Switches, drop_path: float) -> nn.Module:
    if not switches.separate:
        return InvertedResidual(spec, drop_path)
    if spec.stride == 2 or spec.channels != spec.out:
        return Transition(spec)
    return Block(spec.channels, spec.se, drop_path, kernel_size=spec.kernel, hidden=spec.hidden)


def _downsample(spec: Spec, switches: Switches, drop_path: float) -> nn.Module:
    if not switches.deep_downsampling:
        return _block(spec, switches, drop_path)
    return Downsample(spec.channels, spec.out, drop_path, kernel_size=spec.kernel, use_se=spec.se)


@MODELS.register_module()
class RepViTLadder(Peer):
    """A rung between MobileNetV3-L and RepViT-M0.9, at any image size.

    A feature is the output of its stage's last block; from rung 4 on, that of the block before the downsampling begins
    (`tap='stage_body'` of `RepViT`).

    Args:
        rung: 0 (MobileNetV3-L) to 8 (RepViT-M0.9). The last has the modules of `RepViT('m0_9')` under the same names,
            below `net`, and loads its published weights. The first loads timm's of `mobilenetv3_large_100`: every
            tensor fits, but they were trained with hard-swish and ReLU instead of GELU, so they are a starting point
            for training and not for use as they are.
        drop_path_rate: largest stochastic-depth rate; the rates grow linearly over the blocks.
        options: arguments of `DenseBackbone`.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    multiple = 1  # every downsampling rounds up: nothing has to be padded

    def __init__(self, rung: int = LAST, drop_path_rate: float = 0.0, **options):
        super().__init__(f'Ladder-{rung}', **options)
        if rung not in range(len(RUNGS)):
            raise ValueError(f'rung must be 0 (MobileNetV3-L) to {LAST} (RepViT-M0.9), got {rung}')
        self.rung = rung
        # The layout that `from_published` receives the weights of the last rung in, whoever published them.
        self.layout = 'repvit_dense' if rung == LAST else None
        net = build(RUNGS[rung], self.out_indices[-1] + 1, drop_path_rate)
        parts = {'stem': 0} | {f'stages.{i}': i + 1 for i in range(len(net['stages']))}
        self.set_net(net, [stage.blocks[-1].out for stage in plan(RUNGS[rung])], parts)

    def _features(self, x: Tensor) -> list[Tensor]:
        x, outs = self.net['stem'](channels_last(x)), []
        for i, stage in enumerate(self.net['stages']):
            body, x = stage(x, self.with_cp)
            if i in self.out_indices:
                outs.append(body)
        return outs

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        if self.rung == 0:
            state = {_rename_from_timm(key): value for key, value in state.items()}
        with torch.device('meta'):
            whole = build(RUNGS[self.rung]).state_dict()
        wanted = self.net.state_dict()
        unused = [key for key in state if key not in wanted and (key in whole or CLASSIFIER.match(key))]
        return {key: value for key, value in state.items() if key not in unused}, unused


# --- published weights ---

CLASSIFIER = re.compile(r'(head|conv_head|classifier|blocks\.6)\.')  # RepViT's, and timm's MobileNetV3
# For each of timm's stages of MobileNetV3: the stage here, and the number of its blocks that come before.
_STAGES = {'1': (0, 0), '2': (1, 0), '3': (2, 0), '4': (2, 4), '5': (3, 0)}
_PARTS = {
    **{'conv_pw': 'expand.conv', 'bn1': 'expand.bn', 'conv_dw': 'depthwise.conv', 'bn2': 'depthwise.bn'},
    **{'conv_pwl': 'project.conv', 'bn3': 'project.bn', 'se.conv_reduce': 'se.fc1', 'se.conv_expand': 'se.fc2'},
}
_STEM = {
    **{'conv_stem': 'conv.conv', 'bn1': 'conv.bn', 'blocks.0.0.conv_dw': 'block.depthwise.conv'},
    **{'blocks.0.0.bn1': 'block.depthwise.bn', 'blocks.0.0.conv_pw': 'block.project.conv'},
    'blocks.0.0.bn2': 'block.project.bn',
}


def _rename_from_timm(key: str) -> str:
    """Return this package's name of a tensor of timm's MobileNetV3-L, or `key` itself if it has none."""
    module, _, parameter = key.rpartition('.')
    if module in _STEM:
        return f'stem.{_STEM[module]}.{parameter}'
    match = re.fullmatch(r'blocks\.([1-5])\.(\d+)\.(.+)', module)
    if not match or match[3] not in _PARTS:
        return key
    stage, before = _STAGES[match[1]]
    block = before + int(match[2])
    path = f'blocks.{block - 1}' if block else 'downsample'
    return f'stages.{stage}.{path}.{_PARTS[match[3]]}.{parameter}'
