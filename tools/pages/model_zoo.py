"""The model zoo page: every head on every backbone asked for, measured in one run, beside what was published.

A cell is measured or says why it is empty; none is guessed. Weights are random, which changes neither parameters nor
multiplications; so that the work after the proposals is that of a full picture, detectors with a second stage are made
to be sure of what they see (`subjects.make_sure`).
"""

import re
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense import config
from repvit_dense.backbones import catalogue
from repvit_dense.benchmark.subjects import make_sure
from repvit_dense.errors import InputError
from repvit_dense.files import write_text

if TYPE_CHECKING:
    from torch import nn

# (height, width) in pixels: a common COCO photograph, an ADE20K image at test size, the other two as they are.
IMAGES = {'coco': (480, 640), 'ade20k': (512, 683), 'cityscapes': (1024, 2048), 'voc': (375, 500)}
WARMUP = 1  # forward passes that are not timed; multiplications are counted in it
PAPER = 'arXiv 2307.09283, tables 4 and 5'


def _results(unit: str, rows: dict[str, tuple]) -> dict[str, str]:
    return {name: unit.format(*figures) for name, figures in rows.items()}


# Published with the recipe of the config; box and mask AP on val2017, mIoU on the validation images.
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
        config, backbone: their names.
        size: (height, width) in pixels of what the backbone sees of a typical image.
        params, backbone_params: how many.
        macs, backbone_macs: multiply-accumulates of one image, in billions.
        seconds, backbone_seconds: of one image; median.
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
    """Names of the packaged configs, first the instance then the class maps.

    Those for the embedded data are left out, and those that put another backbone under one of the others.
    """
    found = [name for name in config.names() if name.startswith('repvit_') and 'shapes' not in name]
    return sorted(found, key=lambda name: ('coco' not in name, name))


def measure(name: str, backbone: str, rounds: int) -> Cell:
    """Build a config on a backbone, in deploy form, and run it on one image of noise of the data's usual size."""
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from repvit_dense.model import build_model, predictor
    from repvit_dense.reparam import reparameterize_model

    cfg = config.load(name, backbone=backbone)
    torch.manual_seed(0)
    model = reparameterize_model(build_model(cfg), inplace=True).requires_grad_(False)  # or nothing can be counted
    make_sure(model)
    run = predictor(model, cfg)
    image = np.random.default_rng(0).integers(0, 256, (*_image_size(name), 3), np.uint8)
    timer = _Timer(model.backbone)
    with FlopCounterMode(display=False) as counter:
        run(image)
    size, calls = timer.size, len(timer.seconds)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(image)
        seconds.append(time.perf_counter() - start)
    own = [sum(timer.seconds[i : i + calls]) for i in range(calls, len(timer.seconds), calls)]
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
        backbone_seconds=statistics.median(own),
    )


class _Timer:
    """Seconds of every call of a module, and the size of its last input."""

    def __init__(self, module: 'nn.Module'):
        self.seconds, self.size = [], (0, 0)
        module.register_forward_pre_hook(self._start)
        module.register_forward_hook(self._stop)

    def _start(self, module, inputs) -> None:
        self.size = tuple(inputs[0].shape[-2:])
        self._began = time.perf_counter()

    def _stop(self, module, inputs, outputs) -> None:
        self.seconds.append(time.perf_counter() - self._began)


def _count(module: 'nn.Module') -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _image_size(name: str) -> tuple[int, int]:
    return next(size for data, size in IMAGES.items() if data in name)


# --- the page ---


def to_markdown(cells: Iterable[Cell], setting: str) -> str:
    """The page: a table per head, backbones as rows."""
    lines = ['# Model zoo', '', *INTRODUCTION, '', f'Measured with {setting}.', '']
    cells = list(cells)
    for name in dict.fromkeys(cell.config for cell in cells):
        own = [cell for cell in cells if cell.config == name]
        height, width = own[0].size
        lines += [f'## [{name}](../configs/{name}.py)', '', _title(name), '']
        lines += [f'The backbone sees {height}x{width} pixels.', '']
        lines += ['Backbone / whole:', '', '| backbone | M parameters | GMACs | ms | result |', '|---|---|---|---|---|']
        lines += [_row(cell) for cell in own]
        lines += _unmeasured(name, {cell.backbone for cell in own})
        lines.append('')
    return '\n'.join(lines)


INTRODUCTION = (
    'Every head on several backbones, all in deploy form, on one image of the usual size of its data. Any backbone of',
    'the catalogue goes under any head: `--backbone NAME`. Generated by',
    '`python tools/benchmark.py --model-zoo docs/model_zoo.md --rounds 3`; a cell is measured, published, or says that',
    "it is neither. 'not trained here' means that nobody has trained this pair with this toolbox and that we know of",
    'no published result for it.',
)


def _row(cell: Cell) -> str:
    result = PUBLISHED.get(cell.config, {}).get(cell.backbone, 'not trained here')
    return (
        f'| {cell.backbone} | {cell.backbone_params / 1e6:.2f} / {cell.params / 1e6:.2f} '
        f'| {cell.backbone_macs:.1f} / {cell.macs:.1f} '
        f'| {1000 * cell.backbone_seconds:.0f} / {1000 * cell.seconds:.0f} | {result} |'
    )


def _unmeasured(name: str, measured: set[str]) -> list[str]:
    """Rows of published results for backbones that were not run."""
    rest = [(backbone, result) for backbone, result in PUBLISHED.get(name, {}).items() if backbone not in measured]
    return [f'| {backbone} | not measured | not measured | not measured | {result} |' for backbone, result in rest]


def _title(name: str) -> str:
    """The first sentence of the comment at the top of the config."""
    comment = re.match(r'(?:#.*\n)+', config.find(f'{name}.py').read_text())
    text = ' '.join(line.lstrip('# ') for line in comment[0].splitlines())
    return re.split(r'(?<=[^0-9])[.:] ', text + ' ')[0].strip() + '.'


def write(path: Path, backbones: Sequence[str], rounds: int) -> None:
    """Measure every head on these backbones, in turn, and write the page. Raises InputError for an unknown name."""
    import torch
    from tqdm import tqdm

    try:
        names = [catalogue.find(name).name for name in backbones]
    except ValueError as error:
        raise InputError(f'--backbones: {error}') from error
    pairs = [(head, name) for head in heads() for name in names]
    cells = [measure(*pair, rounds) for pair in tqdm(pairs, desc='measuring', disable=None)]
    setting = f'torch {torch.__version__} on a CPU, {torch.get_num_threads()} threads, median of {rounds} runs'
    write_text(path, to_markdown(cells, setting))
