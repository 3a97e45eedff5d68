"""Measure every rung from MobileNetV3 to RepViT and write docs/ladder.md with a chart beside the paper's numbers."""

import ast
import inspect
import statistics
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch

from repvit_dense.backbones import ladder, repvit
from repvit_dense.backbones.ladder import LAST, RUNGS, STEPS, Spec
from repvit_dense.benchmark import timing
from repvit_dense.benchmark.subjects import BackboneSubject
from repvit_dense.benchmark.timing import TimedCall
from repvit_dense.benchmark.workload import Workload
from repvit_dense.files import replacing, write_text
from tools.pages import options as shared

PAPER = 'arXiv 2307.09283'
CLASSIFIER_SIZE = (224, 224)  # height and width of the classifier's input in pixels
FORMS = {'training form': 'training form', 'fused': 'fused', 'ONNX': 'fused, ONNX Runtime'}
# Rung -> method whose source the page shows after the rung's row of the table.
SHOWN: dict[int, Callable] = {
    0: ladder.InvertedResidual.forward,
    1: repvit.Block.forward,
    2: repvit.ChannelMixer.__init__,
    3: repvit.Stem.__init__,
    4: repvit.Downsample.forward,
}


@dataclass(kw_only=True)
class Options:
    """Options of the page."""

    file: Path = shared.file_option('ladder.md')
    size: tuple[int, int] = shared.size_option()
    rounds: int = shared.rounds_option(7)
    threads: int | None = shared.threads_option()


class RungCost(NamedTuple):
    """Size and speed of a rung.

    Attributes:
        params: parameters of the training form.
        fused_params: parameters of the fused form.
        macs: multiply-accumulates of one image of 224x224 pixels.
        dense_macs: multiply-accumulates of one image of the measured size.
        seconds: median time for one image, by the key of `FORMS`.
    """

    params: float
    fused_params: float
    macs: float
    dense_macs: float
    seconds: dict[str, float]


def measure(size: tuple[int, int], rounds: int) -> list[RungCost]:
    """Measure all rungs in alternation on one image of noise.

    A rung that changes no dense feature gets the numbers of the rung below.
    """
    from tqdm import tqdm

    different = [rung for rung, step in enumerate(STEPS) if step.change or rung == 0]
    with tempfile.TemporaryDirectory() as folder:
        calls = {rung: _calls(rung, size, Path(folder)) for rung in tqdm(different, desc='exporting', disable=None)}
        seconds = _medians([call for rung_calls in calls.values() for call in rung_calls], rounds)
    costs: list[RungCost] = []
    for rung in range(len(STEPS)):
        costs.append(_cost(rung, calls[rung], seconds) if rung in calls else costs[-1])
    return costs


def _calls(rung: int, size: tuple[int, int], folder: Path) -> list[TimedCall]:
    backbone = BackboneSubject(f'ladder_{rung}', Workload(1, size))
    return [*backbone.inference(), backbone.export_onnx(folder)]


def _medians(calls: Sequence[TimedCall], rounds: int) -> dict[str, float]:
    """Return the median seconds of each call; every round runs every call once."""
    from tqdm import tqdm

    seconds: dict[str, list[float]] = {call.name: [] for call in calls}
    for number in tqdm(range(timing.WARMUP + rounds), desc='measuring', disable=None):
        for name, times in timing.interleave(calls, 1, warmup=0)[0].items():
            if number >= timing.WARMUP:
                seconds[name] += times
    return {name: statistics.median(times) for name, times in seconds.items()}


def _cost(rung: int, calls: Sequence[TimedCall], seconds: dict[str, float]) -> RungCost:
    training_form, fused, _ = calls
    *_, classifier = BackboneSubject(f'ladder_{rung}', Workload(1, CLASSIFIER_SIZE)).inference()
    return RungCost(
        params=training_form.counts['params'],
        fused_params=fused.counts['params'],
        macs=classifier.counts['macs'],
        dense_macs=fused.counts['macs'],
        seconds={form: seconds[call.name] for form, call in zip(FORMS, calls, strict=True)},
    )


def run(options: Options) -> int:
    """Measure, draw the chart beside the page (`ladder.md` gets `ladder.png`) and write the page."""
    size, picture = (options.size[0], options.size[1]), options.file.with_suffix('.png')
    costs = measure(size, options.rounds)
    draw(costs, size, picture)
    write_text(options.file, to_markdown(costs, size, picture.name, options.rounds))
    return 0


# --- the page ---


def to_markdown(costs: Sequence[RungCost], size: tuple[int, int], picture: str, rounds: int) -> str:
    """Return the page: a table of all rungs, their blocks, and the source code of each decision."""
    height_width = f'{size[0]}x{size[1]}'
    setting = f'torch {torch.__version__} on a CPU, {torch.get_num_threads()} threads'
    lines = ['# From MobileNetV3 to RepViT', '', *INTRODUCTION, '']
    lines += [f'One image of {height_width}, {setting}, medians of {rounds} alternating rounds.', '']
    lines += [f'![latency and accuracy of every rung]({picture})', '', *_table(costs, height_width), '']
    lines += ['## Blocks of each rung', '', *LEGEND, '', *_blocks()]
    for rung, source in enumerate(row_sources()):
        lines += ['', f'## Rung {rung}: {STEPS[rung].decision}', '', f'Section {STEPS[rung].section}.', '']
        lines += ['```python', source, '```']
        if rung in SHOWN:
            lines += ['', *_code(SHOWN[rung])]
    return '\n'.join([*lines, ''])


INTRODUCTION = (
    f'The paper ({PAPER}, section 3) turns MobileNetV3-L into RepViT-M0.9 by one decision after another. Each rung',
    f'of that ladder is a backbone here, `ladder_0` to `ladder_{LAST}`, for any head: `--backbone ladder_4`. All are',
    'built from one table in [ladder.py](../repvit_dense/backbones/ladder.py), whose rows are shown below. Rung 0',
    f'starts from the published weights of MobileNetV3-L, rung {LAST} is RepViT-M0.9 and starts from its own, the',
    'others have none.',
    '',
    "The paper's numbers are for the whole classifier at 224x224, on an iPhone 12 and on ImageNet. The measurements",
    'here are for dense backbones without classifier, so rung 5, which changes only the classifier, equals rung 4.',
    'Generated by `python -m tools.pages ladder docs/ladder.md`.',
)


def _table(costs: Sequence[RungCost], height_width: str) -> list[str]:
    head = ['rung', 'decision', 'M parameters', 'fused', 'GMACs at 224x224', f'at {height_width}']
    head += [f'ms, {title}' for title in FORMS.values()] + ['ms, iPhone 12 (paper)', 'top-1 (paper)']
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for rung, (step, cost) in enumerate(zip(STEPS, costs, strict=True)):
        cells = [rung, step.decision, f'{cost.params / 1e6:.2f}', f'{cost.fused_params / 1e6:.2f}']
        cells += [f'{cost.macs / 1e9:.3f}', f'{cost.dense_macs / 1e9:.2f}']
        cells += [f'{1000 * cost.seconds[form]:.1f}' for form in FORMS] + [f'{step.ms:.2f}', f'{step.top1:.1f}']
        lines.append(f'| {" | ".join(map(str, cells))} |')
    return lines


LEGEND = (
    'A block is written as the side of its depthwise kernel, with `s` if it has squeeze-and-excite; `↓` marks the',
    'downsampling block, `+` the block before the next downsampling. After a stem of one convolution comes a separable',
    'convolution.',
)


def _blocks() -> list[str]:
    lines = ['| rung | stem | stride 4 | stride 8 | stride 16 | stride 32 | channels |', '|---' * 7 + '|']
    for rung, switches in enumerate(RUNGS):
        stages = ladder.plan(switches)
        cells = [rung, ' '.join(map(str, switches.stem))]
        for stage in stages:
            parts = [f'↓{_block(stage.down)}'] if stage.down else []
            for block, same in groupby(map(_block, stage.blocks)):
                count = len(list(same))
                parts.append(block if count == 1 else f'{count}·{block}')
            cells.append(' '.join([*parts, *([f'+{_block(stage.pre)}'] if stage.pre else [])]))
        channels = ' '.join(str(stage.blocks[-1].out) for stage in stages)
        lines.append(f'| {" | ".join(map(str, [*cells, channels]))} |')
    return lines


def _block(spec: Spec) -> str:
    return f'{spec.kernel}{"s" if spec.se else ""}'


def row_sources() -> list[str]:
    """Return the source code of each row of `STEPS` with the comment above it."""
    source = inspect.getsource(ladder)
    assignments = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    table = next(node.value for node in assignments if ast.unparse(node.targets[0]) == 'STEPS')
    assert isinstance(table, ast.Tuple)
    ends = [table.lineno, *(row.end_lineno for row in table.elts)]
    lines = source.splitlines()
    return [textwrap.dedent('\n'.join(lines[a:b])).rstrip(',') for a, b in zip(ends, ends[1:], strict=False)]


def _code(function: Callable) -> list[str]:
    """Return the source code of a method below a link to its class."""
    name, file = function.__qualname__.partition('.')[0], Path(inspect.getfile(function)).name
    source = textwrap.dedent(inspect.getsource(function)).rstrip()
    return [f'[{name}](../repvit_dense/backbones/{file}):', '', '```python', source, '```']


# --- the chart ---


def draw(costs: Sequence[RungCost], size: tuple[int, int], path: Path) -> None:
    """Draw a bar per rung: latency and accuracy from the paper on the left, the measurements on the right."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    heights = range(len(STEPS))
    figure, (paper, here) = pyplot.subplots(1, 2, figsize=(13, 5.2), sharey=True)
    paper.barh(heights, [step.ms for step in STEPS], color='C7')
    for height, step in zip(heights, STEPS, strict=True):
        paper.text(step.ms, height, f' {step.top1:.1f}%', va='center')
    paper.set_xlim(0, 1.15 * max(step.ms for step in STEPS))
    paper.set_title(f'{PAPER}: classifier, iPhone 12, ImageNet top-1', fontsize='medium')
    thickness = 0.8 / len(FORMS)
    for number, (form, title) in enumerate(FORMS.items()):
        shifted = [height + (number - (len(FORMS) - 1) / 2) * thickness for height in heights]
        here.barh(shifted, [1000 * cost.seconds[form] for cost in costs], thickness, label=title)
    here.set_title(f'measured: dense backbone, {size[0]}x{size[1]}, CPU', fontsize='medium')
    here.legend(fontsize='small', ncols=len(FORMS), loc='upper center', bbox_to_anchor=(0.5, -0.12))
    for panel in (paper, here):
        panel.set_xlabel('milliseconds')
        panel.grid(axis='x', alpha=0.3)
    paper.set_yticks(heights, [f'{step.decision}  {rung}' for rung, step in enumerate(STEPS)])
    paper.invert_yaxis()
    figure.tight_layout()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)
    pyplot.close(figure)
