"""The way from MobileNetV3-L to RepViT-M0.9, one decision after another: nine networks out of one table.

Source: "RepViT: Revisiting Mobile CNN From ViT Perspective", arXiv 2307.09283 (version 8), section 3; where it starts,
"Searching for MobileNetV3", arXiv 1905.02244, table 1. The paper says what each decision is, not every number of the
networks in between. Those follow from two rules: a decision changes what its row of `STEPS` names and nothing else, and
a block that MobileNetV3-L does not have takes kernel and squeeze-and-excite after the last one of its stage.

A dense backbone ends where a classifier begins, and the paper counts the 1x1 convolution to 960 channels as a part of
MobileNetV3-L's classifier (section 3.3): the last feature of rungs 0 and 1 has 160 channels, and rung 5 is rung 4.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from repvit_dense.backbones.convolution import gelu
from repvit_dense.backbones.peer import Peer, check_options, stochastic_depth
from repvit_dense.backbones.repvit import Block, ConvBN, Downsample, RepDWConv, SqueezeExcite, Stage, Stem


class Spec(NamedTuple):
    """One block: `(B, channels, H, W)` to `(B, out, H / stride, W / stride)`."""

    kernel: int  # of the depthwise convolution
    hidden: int  # channels between the two 1x1 convolutions
    out: int
    se: bool  # with squeeze-and-excite
    channels: int = 0
    stride: int = 1


# MobileNetV3-L's blocks of strides 4, 8, 16 and 32; the first of each is the way down. Before them come a convolution
# and a separable one, `SEPARABLE`.
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
    """What distinguishes the rungs; at first MobileNetV3-L.

    Attributes:
        separate: blocks mix positions first and channels then, else they are inverted bottlenecks.
        expansion: of every channel mixer, times the channels it takes; None: MobileNetV3-L's own.
        widths: of the four stages; None: MobileNetV3-L's own.
        stem: filters of the one convolution before the separable one, or of two of stride 2 that are the whole stem.
        deep_downsampling: the way down is a module of its own, with a block before it.
        depths: blocks of the stages, the way down and the block before the next one not counted.
        kernel: side of every depthwise kernel; None: MobileNetV3-L's own.
        alternate_se: squeeze-and-excite in every other block, else where MobileNetV3-L has it.
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
    """One decision.

    Attributes:
        decision: what is done.
        section: of the paper.
        top1: accuracy of the classifier on ImageNet in per cent, after 300 epochs without distillation.
        ms: its latency on an iPhone 12.
        change: the switches it sets; none where no dense feature changes.
    """

    decision: str
    section: str
    top1: float
    ms: float
    change: Mapping


STEPS = (
    # GELU takes the place of hard-swish and ReLU; trained as lightweight ViTs are.
    Step('MobileNetV3-L with GELU', '3.1', 71.5, 1.01, {}),
    # First positions, by a depthwise convolution that can be re-parameterised and then squeeze-and-excite; afterwards
    # channels, by two 1x1 convolutions.
    Step('token mixer apart from channel mixer', '3.2', 68.3, 0.81, {'separate': True}),
    # It was 2.3 to 6. Alone this gives 0.65 ms, which is then spent on width. Both on the blocks of MobileNetV3-L give
    # 73.0% in 0.91 ms.
    Step('expansion 2, and more width', '3.2', 73.5, 0.89, {'expansion': 2, 'widths': (48, 96, 192, 384)}),
    # For a convolution, a separable one and an inverted bottleneck: two convolutions of stride 2.
    Step('early convolutions as stem', '3.3', 73.9, 0.86, {'stem': (24, 48)}),
    # For a block with a stride: one more block, a depthwise convolution of stride 2, a 1x1 and a channel mixer.
    Step('deeper downsampling', '3.3', 75.4, 0.96, {'deep_downsampling': True}),
    # Global pooling and one linear layer, without the 1x1 convolution and the linear layer that made more channels.
    Step('simple classifier', '3.3', 74.8, 0.77, {}),
    # It was 1:2:5:2. Accounts of an earlier version of the paper have 1.02 ms here.
    Step('stage ratio 1:1:7:1', '3.3', 76.9, 0.91, {'depths': (2, 2, 14, 2)}),
    # Some are 5x5 in MobileNetV3-L, those of strides 8 and 32.
    Step('3x3 kernels everywhere', '3.4', 76.9, 0.89, {'kernel': 3}),
    # In the first, third, fifth ... of each stage, and nowhere else. This is RepViT-M0.9.
    Step('squeeze-and-excite in every other block', '3.4', 77.4, 0.87, {'alternate_se': True}),
)
RUNGS = tuple(accumulate(STEPS, lambda below, step: below._replace(**step.change), initial=Switches()))[1:]
LAST = len(RUNGS) - 1


class StagePlan(NamedTuple):
    """The blocks of one stage, in the order in which they run; None where there is no such block."""

    down: Spec | None
    blocks: list[Spec]
    pre: Spec | None  # before the next way down


def plan(switches: Switches) -> list[StagePlan]:
    """What the switches make of MobileNetV3-L's blocks."""
    channels, stages = switches.stem[-1], []
    for i, (down, *own) in enumerate(MOBILENETV3_L):
        has_down = i > 0 or len(switches.stem) == 1  # the stem of two convolutions is at stride 4 already
        has_pre = switches.deep_downsampling and i < len(MOBILENETV3_L) - 1
        depth = switches.depths[i]
        body = [own[min(j, len(own) - 1)] for j in range(depth + has_pre)]
        if switches.alternate_se:
            down = down._replace(se=False)
            body = [row._replace(se=j % 2 == 0 and j < depth) for j, row in enumerate(body)]
        specs = []
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

    The gate is a hard sigmoid, its hidden width a quarter of the expanded one rounded up to a multiple of 8.
    """

    def __init__(self, spec: Spec, drop_path: float = 0.0):
        super().__init__()
        self.expands, self.residual = spec.hidden != spec.channels, spec.stride == 1 and spec.channels == spec.out
        self.expand = ConvBN(spec.channels, spec.hidden) if self.expands else nn.Identity()
        self.depthwise = ConvBN(spec.hidden, spec.hidden, spec.kernel, spec.stride, groups=spec.hidden)
        self.se = SqueezeExcite(spec.hidden, -(-spec.hidden // 32) * 8, F.hardsigmoid) if spec.se else None
        self.project = ConvBN(spec.hidden, spec.out)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        out = self.depthwise(self.expand(x), after_gelu=self.expands)
        out = self.project(self.se(gelu(out))) if self.se else self.project(out, after_gelu=True)
        return x + self.drop_path(out) if self.residual else out


class Transition(nn.Module):
    """A block of separate mixers that changes stride or width, so that nothing can be added to what it gives."""

    def __init__(self, spec: Spec):
        super().__init__()
        channels, kernel = spec.channels, spec.kernel
        # The identity is one of the branches that are re-parameterised: with a stride there is none.
        shrinking = spec.stride == 2
        self.token_mixer = ConvBN(channels, channels, kernel, 2, channels) if shrinking else RepDWConv(channels, kernel)
        self.se = SqueezeExcite(channels) if spec.se else nn.Identity()
        self.conv1 = ConvBN(channels, spec.hidden)
        self.conv2 = ConvBN(spec.hidden, spec.out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(self.se(self.token_mixer(x))), after_gelu=True)


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
    """`stem` and the first `stages` stages; the last of these ends where its feature is taken."""
    plans = plan(switches)
    separable = len(switches.stem) == 1
    # One stochastic-depth rate per block of the whole network, in order.
    total = separable + sum((p.down is not None) + len(p.blocks) + (p.pre is not None) for p in plans)
    rates = iter([drop_path_rate * i / (total - 1) for i in range(total)])
    if separable:
        (channels,) = switches.stem
        spec = _switched(SEPARABLE, switches._replace(widths=(channels,)), 0, channels, 1)
        stem = SeparableStem(channels, _block(spec, switches, next(rates)))
    else:
        stem = Stem(3, switches.stem[-1])
    built = nn.ModuleList()
    for i, own in enumerate(plans[:stages]):
        down = _down(own.down, switches, next(rates)) if own.down else nn.Identity()
        blocks = [_block(spec, switches, next(rates)) for spec in own.blocks]
        rate = next(rates) if own.pre else 0.0
        pre = _block(own.pre, switches, rate) if own.pre and i < stages - 1 else nn.Identity()
        built.append(Stage(down, blocks, pre))
    return nn.ModuleDict({'stem': stem, 'stages': built})


def _block(spec: Spec, switches: Switches, drop_path: float) -> nn.Module:
    if not switches.separate:
        return InvertedResidual(spec, drop_path)
    if spec.stride == 2 or spec.channels != spec.out:
        return Transition(spec)
    return Block(spec.channels, spec.se, drop_path, kernel_size=spec.kernel, hidden=spec.hidden)


def _down(spec: Spec, switches: Switches, drop_path: float) -> nn.Module:
    if not switches.deep_downsampling:
        return _block(spec, switches, drop_path)
    return Downsample(spec.channels, spec.out, drop_path, kernel_size=spec.kernel, use_se=spec.se)


@MODELS.register_module()
class Ladder(Peer):
    """A rung of the ladder as a dense backbone, at any image size; a feature is what its stage's last block gives.

    From rung 4 on that is the block before the way down begins, `tap='stage_body'` of `RepViT`.

    Args:
        rung: 0 (MobileNetV3-L) to 8 (RepViT-M0.9). The last has the modules of `RepViT('m0_9')` under the same names,
            below `net`, and takes its published weights. The first takes timm's of `mobilenetv3_large_100`: every
            tensor fits, but these were trained with hard-swish and ReLU, where the ladder has GELU from the start, so
            they are something to train from, not something to use.
        out_indices, frozen_stages, norm_eval, init_cfg: see `Peer`. Later stages are not built.
        with_cp: recompute each block in the backward pass instead of storing its activations.
        drop_path_rate: largest stochastic-depth rate, growing linearly over the blocks.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    multiple = 1  # every way down rounds up: there is nothing to pad

    def __init__(
        self,
        rung: int = LAST,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: Mapping | None = None,
    ):
        check_options(out_indices, frozen_stages)
        if rung not in range(len(RUNGS)):
            raise ValueError(f'rung must be 0 (MobileNetV3-L) to {LAST} (RepViT-M0.9), got {rung}')
        net = build(RUNGS[rung], out_indices[-1] + 1, drop_path_rate)
        parts = {'stem': 0} | {f'stages.{i}': i + 1 for i in range(len(net['stages']))}
        channels = [own.blocks[-1].out for own in plan(RUNGS[rung])]
        super().__init__(f'Ladder-{rung}', net, channels, parts, out_indices, frozen_stages, norm_eval, None, init_cfg)
        self.rung, self.with_cp = rung, with_cp
        self.layout = 'repvit_dense' if rung == LAST else None  # of RepViT's, which `from_published` then gets

    def _features(self, x: Tensor) -> Sequence[Tensor]:
        if x.is_cpu and not torch.compiler.is_compiling():
            x = x.contiguous(memory_format=torch.channels_last)  # oneDNN is faster on it; every layer below keeps it
        x, outs = self.net['stem'](x), []
        for i, stage in enumerate(self.net['stages']):
            body, x = stage(x, self.with_cp)
            if i in self.out_indices:
                outs.append(body)
        return outs

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        if self.rung == 0:
            state = {_own_name(key): value for key, value in state.items()}
        with torch.device('meta'):
            whole = build(RUNGS[self.rung]).state_dict()
        wanted = self.net.state_dict()
        unused = [key for key in state if key not in wanted and (key in whole or CLASSIFIER.match(key))]
        return {key: value for key, value in state.items() if key not in unused}, unused


# --- published weights ---

CLASSIFIER = re.compile(r'(head|conv_head|classifier|blocks\.6)\.')  # RepViT's, and timm's MobileNetV3
# timm's stages of MobileNetV3: ours, and how many of its blocks come before.
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


def _own_name(key: str) -> str:
    """The name here of a tensor of timm's MobileNetV3-L, or its own where it has none."""
    module, _, parameter = key.rpartition('.')
    if module in _STEM:
        return f'stem.{_STEM[module]}.{parameter}'
    match = re.fullmatch(r'blocks\.([1-5])\.(\d+)\.(.+)', module)
    if not match or match[3] not in _PARTS:
        return key
    stage, before = _STAGES[match[1]]
    block = before + int(match[2])
    place = f'blocks.{block - 1}' if block else 'downsample'
    return f'stages.{stage}.{place}.{_PARTS[match[3]]}.{parameter}'
