"""From MobileNetV3 to RepViT, rung by rung: what the paper reports beside what it is here, a picture and a page."""

import ast
import inspect
import statistics
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch

from repvit_dense.backbones import ladder, repvit
from repvit_dense.backbones.ladder import RUNGS, STEPS, Spec
from repvit_dense.benchmark import timing
from repvit_dense.benchmark.subjects import BackboneSubject, Setting
from repvit_dense.benchmark.timing import Subject
from repvit_dense.files import replacing, write_text

PAPER = 'arXiv 2307.09283'
CLASSIFIED = (224, 224)  # pixels of what a classifier sees
FORMS = {'training form': 'as it is trained', 'fused': 'fused', 'ONNX': 'fused, ONNX Runtime'}
# What is worth reading besides a rung's own row.
SHOWN = {
    0: ladder.InvertedResidual.forward,
    1: repvit.Block.forward,
    2: repvit.ChannelMixer.__init__,
    3: repvit.Stem.__init__,
    4: repvit.Downsample.forward,
}


class Row(NamedTuple):
    """One rung, measured.

    Attributes:
        params, fused_params: how many, as it is trained and fused.
        macs: multiply-accumulates of one image of 224x224 pixels.
        dense_macs: of one of the size that was measured.
        seconds: of one image, median, by the key of `FORMS`.
    """

    params: int
    fused_params: int
    macs: float
    dense_macs: float
    seconds: dict[str, float]


def measure(size: tuple[int, int], rounds: int) -> list[Row]:
    """All rungs in turns, one image of noise at a time; one that changes no dense feature is the one below."""
    from tqdm import tqdm

    differing = [rung for rung, step in enumerate(STEPS) if step.change or rung == 0]
    with tempfile.TemporaryDirectory() as folder:
        forms = {rung: _forms(rung, size, Path(folder)) for rung in tqdm(differing, desc='exporting', disable=None)}
        seconds = _medians([subject for own in forms.values() for subject in own], rounds)
    rows = []
    for rung in range(len(STEPS)):
        rows.append(_row(rung, forms[rung], seconds) if rung in forms else rows[-1])
    return rows


def _forms(rung: int, size: tuple[int, int], folder: Path) -> list[Subject]:
    backbone = BackboneSubject(f'ladder_{rung}', Setting(1, size))
    return [*backbone.inference(), backbone.exported(folder)]


def _medians(subjects: Sequence[Subject], rounds: int) -> dict[str, float]:
    """Median seconds of each; every round calls every subject once."""
    from tqdm import tqdm

    seconds = {subject.name: [] for subject in subjects}
    for number in tqdm(range(timing.WARMUP + rounds), desc='measuring', disable=None):
        for name, own in timing.interleave(subjects, 1, warmup=0)[0].items():
            if number >= timing.WARMUP:
                seconds[name] += own
    return {name: statistics.median(own) for name, own in seconds.items()}


def _row(rung: int, forms: Sequence[Subject], seconds: dict[str, float]) -> Row:
    unfused, fused, _ = forms
    *_, classified = BackboneSubject(f'ladder_{rung}', Setting(1, CLASSIFIED)).inference()
    return Row(
        params=unfused.about['params'],
        fused_params=fused.about['params'],
        macs=classified.about['macs'],
        dense_macs=fused.about['macs'],
        seconds={form: seconds[subject.name] for form, subject in zip(FORMS, forms, strict=True)},
    )


def write(path: Path, size: tuple[int, int], rounds: int) -> None:
    """Measure, draw beside the page (`ladder.md` gets `ladder.png`) and write the page."""
    rows, picture = measure(size, rounds), path.with_suffix('.png')
    draw(rows, size, picture)
    write_text(path, to_markdown(rows, size, picture.name, rounds))


# --- the page ---


def to_markdown(rows: Sequence[Row], size: tuple[int, int], picture: str, rounds: int) -> str:
    shown = f'{size[0]}x{size[1]}'
    setting = f'torch {torch.__version__} on a CPU, {torch.get_num_threads()} threads'
    lines = ['# From MobileNetV3 to RepViT', '', *INTRODUCTION, '']
    lines += [f'Measured: one image of {shown}, {setting}, {rounds} rounds of all in turn, medians.', '']
    lines += [f'![latency and accuracy of every rung]({picture})', '', *_table(rows, shown), '']
    lines += ['## What each is made of', '', *LEGEND, '', *_blocks()]
    for rung, source in enumerate(row_sources()):
        lines += ['', f'## Rung {rung}: {STEPS[rung].decision}', '', f'Section {STEPS[rung].section}.', '']
        lines += ['```python', source, '```']
        if rung in SHOWN:
            lines += ['', *_code(SHOWN[rung])]
    return '\n'.join([*lines, ''])


INTRODUCTION = (
    f'The paper ({PAPER}, section 3) turns MobileNetV3-L into RepViT-M0.9 by one decision after another. Each rung of',
    'that ladder is a backbone here, `ladder_0` to `ladder_8`, for any head: `--backbone ladder_4`. All come from one',
    'table in [ladder.py](../repvit_dense/backbones/ladder.py), whose rows are shown below as they stand. Rung 0 takes',
    'the published weights of MobileNetV3-L, rung 8 is RepViT-M0.9 and takes its own; those in between have none.',
    '',
    "The paper's figures are of the whole classifier at 224x224, on an iPhone 12 and on ImageNet. What is measured are",
    'dense backbones, without classifier: rung 5, which changes nothing else, is rung 4. Generated by',
    '`python tools/benchmark.py --ladder docs/ladder.md`.',
)


def _table(rows: Sequence[Row], shown: str) -> list[str]:
    head = ['rung', 'decision', 'M parameters', 'fused', 'GMACs at 224x224', f'at {shown}']
    head += [f'ms, {title}' for title in FORMS.values()] + ['ms, iPhone 12 (paper)', 'top-1 (paper)']
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for rung, (step, row) in enumerate(zip(STEPS, rows, strict=True)):
        cells = [rung, step.decision, f'{row.params / 1e6:.2f}', f'{row.fused_params / 1e6:.2f}']
        cells += [f'{row.macs / 1e9:.3f}', f'{row.dense_macs / 1e9:.2f}']
        cells += [f'{1000 * row.seconds[form]:.1f}' for form in FORMS] + [f'{step.ms:.2f}', f'{step.top1:.1f}']
        lines.append(f'| {" | ".join(map(str, cells))} |')
    return lines


LEGEND = (
    'A block is written as the side of its depthwise kernel, with `s` where it has squeeze-and-excite; `↓` is the way',
    'down, `+` the block before the next one. A separable convolution follows a stem of one convolution.',
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
    """The rows of `STEPS` as they stand in their module, with the comment above each."""
    source = inspect.getsource(ladder)
    assigned = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    table = next(node.value for node in assigned if ast.unparse(node.targets[0]) == 'STEPS')
    ends = [table.lineno, *(row.end_lineno for row in table.elts)]
    lines = source.splitlines()
    return [textwrap.dedent('\n'.join(lines[a:b])) for a, b in zip(ends, ends[1:], strict=False)]


def _code(function: Callable) -> list[str]:
    """The source of a method, under the name of its class and where that is."""
    name, file = function.__qualname__.partition('.')[0], Path(inspect.getsourcefile(function)).name
    source = textwrap.dedent(inspect.getsource(function)).rstrip()
    return [f'[{name}](../repvit_dense/backbones/{file}):', '', '```python', source, '```']


# --- the picture ---


def draw(rows: Sequence[Row], size: tuple[int, int], path: Path) -> None:
    """A bar per rung: at the left the paper's latency, with its accuracy, at the right what was measured."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    places = range(len(STEPS))
    figure, (paper, here) = pyplot.subplots(1, 2, figsize=(13, 5.2), sharey=True)
    paper.barh(places, [step.ms for step in STEPS], color='C7')
    for place, step in zip(places, STEPS, strict=True):
        paper.text(step.ms, place, f' {step.top1:.1f}%', va='center')
    paper.set_xlim(0, 1.15 * max(step.ms for step in STEPS))
    paper.set_title(f'{PAPER}: classifier, iPhone 12, ImageNet top-1', fontsize='medium')
    thickness = 0.8 / len(FORMS)
    for number, (form, title) in enumerate(FORMS.items()):
        shifted = [place + (number - (len(FORMS) - 1) / 2) * thickness for place in places]
        here.barh(shifted, [1000 * row.seconds[form] for row in rows], thickness, label=title)
    here.set_title(f'measured: dense backbone, {size[0]}x{size[1]}, CPU', fontsize='medium')
    here.legend(fontsize='small', ncols=len(FORMS), loc='upper center', bbox_to_anchor=(0.5, -0.12))
    for panel in (paper, here):
        panel.set_xlabel('milliseconds')
        panel.grid(axis='x', alpha=0.3)
    paper.set_yticks(places, [f'{step.decision}  {rung}' for rung, step in enumerate(STEPS)])
    paper.invert_yaxis()
    figure.tight_layout()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)
    pyplot.close(figure)
