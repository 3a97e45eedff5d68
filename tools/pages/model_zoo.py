"""Measure every head on several backbones and write docs/model_zoo.md with published results.

A cell is measured or states why it is empty. Weights are random, which changes neither parameters nor operations; the
classifiers of two-stage detectors are sharpened (`subjects.sharpen_classifier`), so that the stages after the proposals
process as many objects as with trained weights.
"""

import re
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense import config
from repvit_dense.benchmark.subjects import sharpen_classifier
from repvit_dense.compat.flop_counter import flop_counter
from repvit_dense.files import write_text
from tools.pages import options as shared

if TYPE_CHECKING:
    from torch import nn

# Height and width in pixels: a common COCO photo, an ADE20K image at test size, original size for the others.
IMAGES = {'coco': (480, 640), 'ade20k': (512, 683), 'cityscapes': (1024, 2048), 'voc': (375, 500)}
PAPER = 'arXiv 2307.09283, tables 4 and 5'
BACKBONES = ('repvit_m1_1', 'resnet18', 'mobilevitv2_100', 'poolformer_s12')


@dataclass(kw_only=True)
class Options:
    """Options of the page."""

    file: Path = shared.file_option('model_zoo.md')
    backbones: list[str] = shared.backbones_option(BACKBONES)
    rounds: int = shared.rounds_option(7)
    threads: int | None = shared.threads_option()


def _results(unit: str, rows: dict[str, tuple]) -> dict[str, str]:
    return {name: unit.format(*figures) for name, figures in rows.items()}


# Results published for the recipe of the config: AP on val2017, mIoU on the validation images.
PUBLISHED = {
    'repvit_maskrcnn_coco': _results(
        f'{{}} box, {{}} mask AP ({PAPER})',
        {
            'resnet18': (34.0, 31.2),
            'poolformer_s12': (37.3, 34.6),
            'efficientformer_l1': (37.9, 35.4),
            'repvit_m1_1': (39.8, 37.2),
            'poolformer_s24': (40.1, 37.0),
            'efficientformer_l3': (41.4, 38.1),
            'repvit_m1_5': (41.6, 38.6),
            'repvit_m2_3': (44.6, 40.8),
        },
    ),
    'repvit_semfpn_ade20k': _results(
        f'{{}} mIoU ({PAPER})',
        {
            'resnet18': (32.9,),
            'poolformer_s12': (37.2,),
            'efficientformer_l1': (38.9,),
            'repvit_m1_1': (40.6,),
            'poolformer_s24': (40.3,),
            'efficientformer_l3': (43.5,),
            'repvit_m1_5': (43.6,),
            'repvit_m2_3': (46.1,),
        },
    )
    | _results('{} mIoU (arXiv 2111.11418)', {'poolformer_s36': (42.0,)})
    | _results('{} mIoU (arXiv 2102.12122)', {'pvt_tiny': (35.7,), 'pvt_small': (39.8,)})
    | _results(
        '{} mIoU (quoted in arXiv 2412.06674, table XI)',
        {'resnet50': (36.7,), 'pvtv2_b0': (37.2,), 'pvtv2_b1': (42.5,), 'edgevit_xxs': (39.7,), 'edgevit_xs': (41.4,)},
    )
    | _results('{} mIoU (quoted in arXiv 2501.15369, table 5)', {'fastvit_sa12': (38.0,), 'swin_tiny': (41.5,)})
    | _results("{} mIoU (arXiv 2212.08059, quoted in PaddleSeg's model zoo)", {'efficientformerv2_s2': (42.4,)}),
    'repvit_retinanet_coco': _results(
        '{} box AP (arXiv 2102.12122)',
        {'resnet18': (31.8,), 'resnet50': (36.3,), 'pvt_tiny': (36.7,), 'pvt_small': (40.4,)},
    )
    | _results(
        "{} box AP (arXiv 2106.13797, the authors' model zoo)",
        {'pvtv2_b0': (37.2,), 'pvtv2_b1': (41.2,), 'pvtv2_b2': (44.6,)},
    )
    | _results(
        '{} box AP (arXiv 2111.11418)',
        {'poolformer_s12': (36.2,), 'poolformer_s24': (38.9,), 'poolformer_s36': (39.5,)},
    )
    | _results(
        '{} box AP (quoted in arXiv 2401.16456, table 5)', {'edgevit_xxs': (38.7,), 'mobile_former_508m': (38.0,)}
    ),
}


class Cell(NamedTuple):
    """One head on one backbone.

    Attributes:
        config: name of the config.
        backbone: name of the backbone.
        size: height and width of the backbone's input for a typical image, in pixels.
        params: parameters of the whole model.
        backbone_params: parameters of the backbone.
        macs: multiply-accumulates of the whole model on one image, in billions.
        backbone_macs: multiply-accumulates of the backbone on one image, in billions.
        seconds: median time of the whole model for one image.
        backbone_seconds: median time of the backbone for one image.
    """

    config: str
    backbone: str
    size: tuple[int, int]
    params: int
    backbone_params: int
    macs: float
    backbone_macs: float
    seconds: float
    backbone_seconds: float


def heads() -> list[str]:
    """Return the names of the packaged configs with a RepViT backbone, COCO first, without the small ones."""
    small = ('shapes', 'camvid', 'nuclei', 'bccd')  # their data
    names = [name for name in config.names() if name.startswith('repvit_') and not any(data in name for data in small)]
    return sorted(names, key=lambda name: ('coco' not in name, name))


def measure(name: str, backbone: str, rounds: int) -> Cell:
    """Measure the fused model of a config on one image of noise of the usual size of its data."""
    import numpy as np
    import torch

    from repvit_dense.model import build_model, predictor
    from repvit_dense.reparam import reparameterize_model

    cfg = config.load(name, backbone=backbone)
    torch.manual_seed(0)
    # The counter queries the autograd graph, which inference mode does not have.
    model = reparameterize_model(build_model(cfg), inplace=True).requires_grad_(False)
    sharpen_classifier(model)
    predict = predictor(model, cfg)
    image = np.random.default_rng(0).integers(0, 256, (*_image_size(name), 3), np.uint8)
    timer = _Timer(model.backbone)
    with flop_counter() as counter:  # also the warm-up
        predict(image)
    size, calls = timer.size, len(timer.seconds)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        predict(image)
        seconds.append(time.perf_counter() - start)
    backbone_seconds = [sum(timer.seconds[i : i + calls]) for i in range(calls, len(timer.seconds), calls)]
    flops = counter.get_flop_counts()
    return Cell(
        config=name,
        backbone=backbone,
        size=size,
        params=_count(model),
        backbone_params=_count(model.backbone),
        macs=counter.get_total_flops() / 2e9,
        backbone_macs=sum(flops[f'{type(model).__name__}.backbone'].values()) / 2e9,
        seconds=statistics.median(seconds),
        backbone_seconds=statistics.median(backbone_seconds),
    )


class _Timer:
    """Seconds of every call of a module, and the height and width of its last input."""

    def __init__(self, module: 'nn.Module'):
        self.seconds: list[float] = []
        self.size = (0, 0)
        module.register_forward_pre_hook(self._start)
        module.register_forward_hook(self._stop)

    def _start(self, module, inputs) -> None:
        self.size = tuple(inputs[0].shape[-2:])
        self._start_time = time.perf_counter()

    def _stop(self, module, inputs, outputs) -> None:
        self.seconds.append(time.perf_counter() - self._start_time)


def _count(module: 'nn.Module') -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _image_size(name: str) -> tuple[int, int]:
    return next(size for data, size in IMAGES.items() if data in name)


# --- the page ---


def to_markdown(cells: Iterable[Cell], setting: str) -> str:
    """Return the page: a table per head with one row per backbone."""
    lines = ['# Model zoo', '', *INTRODUCTION, '', f'Measured with {setting}.', '']
    cells = list(cells)
    for name in dict.fromkeys(cell.config for cell in cells):
        rows = [cell for cell in cells if cell.config == name]
        height, width = rows[0].size
        lines += [f'## [{name}](../configs/{name}.py)', '', _title(name), '']
        lines += [
            f'Input of the backbone: {height}x{width} pixels. Numbers are those of the backbone / the whole model.',
            '',
        ]
        lines += ['| backbone | M parameters | GMACs | ms | result |', '|---|---|---|---|---|']
        lines += [_row(cell) for cell in rows]
        lines += _unmeasured(name, {cell.backbone for cell in rows})
        lines.append('')
    return '\n'.join(lines)


INTRODUCTION = (
    'Every head on several backbones, all fused, on one image of the usual size of its data. Any backbone of the',
    'catalogue can be combined with any head: `--backbone NAME`. Generated by',
    '`python -m tools.pages model_zoo docs/model_zoo.md --rounds 3`. A cell shows a measurement or a published',
    "result, or says that there is none. 'not trained here' means that nobody has trained this combination with this",
    'toolbox and that no published result is known.',
)


def _row(cell: Cell) -> str:
    result = PUBLISHED.get(cell.config, {}).get(cell.backbone, 'not trained here')
    return (
        f'| {cell.backbone} | {cell.backbone_params / 1e6:.2f} / {cell.params / 1e6:.2f} '
        f'| {cell.backbone_macs:.1f} / {cell.macs:.1f} '
        f'| {1000 * cell.backbone_seconds:.0f} / {1000 * cell.seconds:.0f} | {result} |'
    )


def _unmeasured(name: str, measured: set[str]) -> list[str]:
    """Return rows of published results for backbones that were not measured."""
    others = [(backbone, result) for backbone, result in PUBLISHED.get(name, {}).items() if backbone not in measured]
    return [f'| {backbone} | not measured | not measured | not measured | {result} |' for backbone, result in others]


def _title(name: str) -> str:
    """Return the first sentence of the comment at the top of the config."""
    lines = config.find(f'{name}.py').read_text().splitlines()
    text = ' '.join(line.lstrip('# ') for line in takewhile(lambda line: line.startswith('#'), lines))
    return re.split(r'(?<=[^0-9])[.:] ', text + ' ')[0].strip() + '.'


def run(options: Options) -> int:
    """Measure every head on the backbones and write the page.

    Raises:
        InputError: a backbone is unknown; nothing was measured.
    """
    import torch
    from tqdm import tqdm

    pairs = [(head, name) for head in heads() for name in shared.resolve_backbones(options.backbones)]
    cells = [measure(head, name, options.rounds) for head, name in tqdm(pairs, desc='measuring', disable=None)]
    threads, rounds = torch.get_num_threads(), options.rounds
    setting = f'torch {torch.__version__} on a CPU, {threads} threads, median of {rounds} runs'
    write_text(options.file, to_markdown(cells, setting))
    return 0
