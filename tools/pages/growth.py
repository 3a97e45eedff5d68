"""How cost grows with pixels, batch and width: a picture, and a page that says what it shows."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from repvit_dense.backbones.repvit import ARCHS
from repvit_dense.benchmark import timing, training
from repvit_dense.benchmark.subjects import BackboneSubject, Setting
from repvit_dense.benchmark.timing import Subject
from repvit_dense.files import replacing, write_text
from repvit_dense.reparam import reparameterize_model

ARCH = 'm1_1'
SIDES, BATCHES = (256, 384, 512, 768, 1024), (1, 2, 4, 8)  # pixels; images
SIDE, BATCH = 256, 1  # what stays the same while something else grows
QUANTITIES = {'inference': 'inference, fused, s', 'training': 'training step, s', 'memory': 'saved activations, GiB'}


class Axis(NamedTuple):
    """One thing that grows.

    Attributes:
        name: what it is.
        values: its values, in the unit that costs are fitted to.
        labels: of the values, as people name them.
        settings: arch, batch and side of each.
    """

    name: str
    values: Sequence[float]
    labels: Sequence[str]
    settings: Sequence[tuple[str, int, int]]


def axes() -> list[Axis]:
    """Pixels, batch, and the variants from M0.6 to M2.3, whose costs are fitted to their multiplications."""
    macs = [_macs(arch) for arch in ARCHS]
    return [
        Axis('pixels', [side**2 for side in SIDES], [f'{side}²' for side in SIDES], [(ARCH, BATCH, s) for s in SIDES]),
        Axis('batch', BATCHES, [str(count) for count in BATCHES], [(ARCH, count, SIDE) for count in BATCHES]),
        Axis('GMACs', macs, list(ARCHS), [(arch, BATCH, SIDE) for arch in ARCHS]),
    ]


def measure(axis: Axis, rounds: int) -> dict[str, list[float]]:
    """Each of `QUANTITIES` at each value; times are medians of rounds that go through all values in turn."""
    backbones = {arch: BackboneSubject(arch, Setting(1, (SIDE, SIDE))).build() for arch, *_ in axis.settings}
    for network in backbones.values():
        network.norm_eval = True
    fused = {arch: reparameterize_model(network.eval()) for arch, network in backbones.items()}
    steps, predictions, memory = [], [], []
    for label, (arch, batch, side) in zip(axis.labels, axis.settings, strict=True):
        images, network = Setting(batch, (side, side)).images(), backbones[arch].train()
        steps.append(Subject(label, lambda n=network, x=images: training.training_step(n, x)))
        predictions.append(Subject(label, lambda n=fused[arch], x=images: _predict(n, x)))
        memory.append(training.saved_bytes(network, lambda n=network, x=images: n(x)) / 2**30)
    times = [[row['median'] for row in timing.compare('', part, rounds)] for part in (predictions, steps)]
    return dict(zip(QUANTITIES, (*times, memory), strict=True))


@torch.inference_mode()
def _predict(network: torch.nn.Module, images: torch.Tensor) -> None:
    network(images)


def _macs(arch: str) -> float:
    """Billions, of one image of `SIDE` x `SIDE` pixels."""
    *_, fused = BackboneSubject(arch, Setting(1, (SIDE, SIDE))).inference()
    return fused.about['macs'] / 1e9


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """The p of `cost = a * value ** p`, by least squares of the logarithms."""
    x, y = [math.log(value) for value in values], [math.log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def write(path: Path, rounds: int) -> None:
    """Measure, draw beside the page (`growth.md` gets `growth.png`) and write the page."""
    from tqdm import tqdm

    found = [(axis, measure(axis, rounds)) for axis in tqdm(axes(), desc='measuring', disable=None)]
    draw(found, path.with_suffix('.png'))
    write_text(path, to_markdown(found, path.with_suffix('.png').name, rounds))


def to_markdown(found: list[tuple[Axis, dict[str, list[float]]]], picture: str, rounds: int) -> str:
    lines = ['# How cost grows', '', *INTRODUCTION, '']
    lines += [f'torch {torch.__version__} on a CPU, {torch.get_num_threads()} threads, median of {rounds} rounds.', '']
    lines += [f'![cost over pixels, batch and variant]({picture})', '']
    for axis, costs in found:
        lines += [
            f'## {axis.name}',
            '',
            f'| | {" | ".join(axis.labels)} | exponent |',
            f'|---|{"---|" * len(axis.labels)}---|',
        ]
        for key, title in QUANTITIES.items():
            numbers = ' | '.join(f'{cost:.3g}' for cost in costs[key])
            lines.append(f'| {title} | {numbers} | {exponent(axis.values, costs[key]):.2f} |')
        lines.append('')
    return '\n'.join(lines)


INTRODUCTION = (
    f'RepViT-{ARCH.replace("_", ".").upper()} with frozen batch norms, one image of {SIDE}x{SIDE} pixels unless that',
    'is what grows; the variants are fitted to their multiplications. An exponent of 1 is linear: twice the pixels,',
    'twice the cost. Below 1 is what a small call costs besides computing; above 1 would be waste, as caches that no',
    'longer hold a layer cause it. Generated by `python tools/benchmark.py --growth docs/growth.md`.',
)


def draw(found: list[tuple[Axis, dict[str, list[float]]]], path: Path) -> None:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(5 * len(found), 4.2))
    for panel, (axis, costs) in zip(panels, found, strict=True):
        for key, title in QUANTITIES.items():
            label = f'{title} (exponent {exponent(axis.values, costs[key]):.2f})'
            panel.loglog(axis.values, costs[key], marker='o', label=label)
        panel.set_xticks(axis.values, axis.labels, rotation=30)
        panel.xaxis.minorticks_off()
        panel.set_xlabel(axis.name)
        panel.grid(alpha=0.3)
        panel.legend(fontsize='small')
    figure.tight_layout()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)
    pyplot.close(figure)
