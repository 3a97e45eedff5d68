"""Like for like: every backbone of the catalogue under the same two heads, measured in one run: docs/peers.md.

A cell is one head on one backbone. It takes tens of seconds, so that the whole catalogue fits into an hour: few rounds,
one export, no certificate. What is measured is kept at once, and an interrupted run goes on where it was.
"""

import copy
import json
import math
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from repvit_dense.backbones import catalogue
from repvit_dense.benchmark import model_zoo, peers_learning, timing
from repvit_dense.benchmark.subjects import ConfigSubject, Setting, Training, predicting, size
from repvit_dense.benchmark.timing import Subject
from repvit_dense.benchmark.training import peak_bytes
from repvit_dense.errors import InputError
from repvit_dense.files import replacing, write_text

if TYPE_CHECKING:
    from onnx import ModelProto

    from repvit_dense.deploy.graphs.base import Graph

HEADS = {'repvit_semfpn_ade20k': 'Semantic FPN', 'repvit_retinanet_coco': 'RetinaNet'}
REFERENCE = 'repvit_m1_1'  # alive all the time: speeds of a shared machine drift, ratios to it do not
SIZE = (512, 512)  # height and width of the input in pixels
TRAINED, STEPS = 2, 2  # images of a training step; how many steps are timed
FORMS = ('eager', 'exported', 'alone')  # the last one is the backbone exported by itself
ANSWERS = ('conv_seg', 'retina_cls')  # layers that give what a head decides by


def backbones() -> list[str]:
    """The catalogue without the rungs of the ladder, which are steps between two of its networks."""
    return [name for name in catalogue.BACKBONES if not name.startswith('ladder_')]


def write(path: Path, names: Sequence[str] | None, rounds: int, kept: Path | None = None) -> int:
    """Measure what is not measured yet, draw beside the page (`peers.md` gets `peers.png`) and write the page.

    Args:
        names: of backbones; None: all.
        kept: where finished cells are kept, for good; None: beside the page, until every cell is there.

    Returns:
        0, or 2 where a cell failed: the page says why, and the next run tries it again.

    Raises:
        InputError: an unknown name, or kept cells of another setting; nothing was measured.
    """
    try:
        found = list(dict.fromkeys(catalogue.find(name).name for name in names or backbones()))
    except ValueError as error:
        raise InputError(f'--backbones: {error}') from error
    store = kept or path.with_suffix('.partial.json')
    report = _read(store, _setting(rounds))
    for head in HEADS:
        _measure_missing(head, found, rounds, report, store)
    cells = [report['cells'][f'{head}@{name}'] for head in HEADS for name in found]
    failed = any('error' in cell for cell in cells)
    rows = to_rows(cells)
    draw([row for row in rows if row['head'] == next(iter(HEADS))], path.with_suffix('.png'))
    picture = path.with_suffix('.png').name
    write_text(path, to_markdown(rows, report['setting'], picture, peers_learning.section_of(path)))
    if not kept and not failed:
        store.unlink(missing_ok=True)
    return 2 if failed else 0


def _setting(rounds: int) -> dict:
    import onnxruntime

    versions = {'torch': torch.__version__, 'onnxruntime': onnxruntime.__version__}
    return {**versions, 'threads': torch.get_num_threads(), 'rounds': rounds, 'size': list(SIZE)}


def _read(store: Path, setting: dict) -> dict:
    if not store.is_file():
        return {'setting': setting, 'cells': {}}
    report = json.loads(store.read_text())
    if report.get('setting') != setting:
        raise InputError(f'{store}: measured with {report.get("setting")}, this run has {setting}; move the file away')
    return report


def _measure_missing(head: str, names: Sequence[str], rounds: int, report: dict, store: Path) -> None:
    from tqdm import tqdm

    cells, reference = report['cells'], None
    missing = [name for name in names if 'error' in cells.get(f'{head}@{name}', {'error': ''})]
    for name in tqdm(missing, desc=HEADS[head], disable=None):
        start = time.perf_counter()
        try:
            reference = reference or inference(training(head, REFERENCE).model, head, REFERENCE, 'reference')
            cell = measure(head, name, rounds, reference)
        except Exception as error:  # of any library: the page names it, the other cells are still measured
            why = ' '.join(str(error).split())[:200] or 'no reason given'
            cell = {'error': f'{type(error).__name__}: {why}'}
        took = round(time.perf_counter() - start, 1)
        cells[f'{head}@{name}'] = {'head': head, 'backbone': name, **cell, 'took': took}
        write_text(store, json.dumps(report) + '\n')


# --- one cell ---------------------------------------------------------------------------------------------------------


def measure(head: str, name: str, rounds: int, reference: Sequence[Subject]) -> dict:
    """One head on one backbone.

    Returns:
        `params`, and `macs` of one image, both also of the backbone; of each of `FORMS` the seconds of the rounds,
        `own`, and those of the reference in the same rounds, `reference`; `step`, seconds of training steps, and
        `peak_bytes` of one.
    """
    trained = training(head, name)
    subjects = inference(trained.model, head, name, 'own')
    seconds, parts = timing.interleave([*reference, *subjects], rounds, warmup=0)  # each ran once
    times = {
        form: {who: _from_image(seconds[f'{who} {form}'], parts[f'{who} {form}']) for who in ('own', 'reference')}
        for form in FORMS
    }
    about = subjects[0].about
    del subjects  # the deploy forms, before a step fills the memory
    return {**about, **times, **steps(trained)}


def _from_image(seconds: list[float], parts: dict[str, list[float]]) -> list[float]:
    """From the normalised image on: making it of a picture is the same work for every backbone."""
    return [
        whole - part for whole, part in zip(seconds, parts.get('pre-processing', [0.0] * len(seconds)), strict=True)
    ]


def training(head: str, name: str) -> Training:
    return ConfigSubject(f'{head}@{name}', Setting(TRAINED, SIZE)).training()


def steps(trained: Training) -> dict:
    """Seconds of whole training steps, and what torch allocated at most in one, above what was there before."""
    device = next(trained.model.parameters()).device
    trained.model.train()
    peak = peak_bytes(lambda: _step(trained), device)  # the step that warms up
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        _step(trained)
        seconds.append(time.perf_counter() - start)
    return {'step': seconds, 'peak_bytes': peak}


def _step(trained: Training) -> None:
    trained.loss().backward()
    trained.optimizer.step()
    trained.optimizer.zero_grad()


def inference(model: nn.Module, head: str, name: str, who: str) -> list[Subject]:
    """A copy in deploy form in each of `FORMS`, one image; the first is `about` the numbers of both parts."""
    from repvit_dense.deploy import folding
    from repvit_dense.reparam import reparameterize_model

    setting, cfg = Setting(1, SIZE), ConfigSubject(f'{head}@{name}', Setting(1, SIZE)).config()
    fused = reparameterize_model(model.eval())
    for path, layer in fused.named_modules():
        if path.endswith(ANSWERS):  # random answers differ from backbone to backbone, and so would what follows them
            nn.init.zeros_(layer.weight)
    sessions = _sessions(folding.fold_norms(copy.deepcopy(fused)), setting)
    backbone = size(fused.backbone, lambda: fused.backbone(setting.images()), setting)
    eager = predicting(f'{who} eager', fused, cfg, setting)
    about = eager.about | {f'backbone_{key}': value for key, value in backbone.items()}
    return [eager._replace(about=about), *(Subject(f'{who} {form}', call) for form, call in sessions.items())]


def _sessions(model: nn.Module, setting: Setting) -> dict:
    """Calls of the whole network and of its backbone as ONNX files, which come from one export."""
    import numpy as np
    from onnx.utils import Extractor

    from repvit_dense.deploy import formats, graphs
    from repvit_dense.deploy.formats import onnx

    tapped = _Tapped(graphs.build(model))
    with formats._quiet():
        proto = onnx.convert(tapped, SIZE)
        cut = Extractor(proto)
    images, results = setting.images().numpy(), list(tapped.whole.outputs)
    features = [output.name for output in proto.graph.output if output.name not in results]
    given = {'images': images, 'img_hw': np.array([SIZE], np.float32)}
    return {
        'exported': _session(cut.extract_model(list(given), results), given),
        'alone': _session(cut.extract_model(['images'], features), {'images': images}),
    }


def _session(proto: 'ModelProto', given: dict):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=['CPUExecutionProvider'])
    session.run(None, given)  # the first time it allocates
    return lambda: session.run(None, given) and None


class _Tapped(nn.Module):
    """A graph that also returns the backbone's features, so that the exported model can be cut behind them."""

    def __init__(self, graph: 'Graph'):
        super().__init__()
        self.whole, self.divisor = graph, graph.divisor
        stages = len(graph.model.backbone.out_indices)
        self.outputs = (*(f'feature_{i}' for i in range(stages)), *graph.outputs)

    def forward(self, images, img_hw):
        features = []
        handle = self.whole.model.backbone.register_forward_hook(lambda _, inputs, output: features.extend(output))
        try:
            results = self.whole(images, img_hw)
        finally:
            handle.remove()
        return (*features, *results)


# --- the page ---------------------------------------------------------------------------------------------------------

INTRODUCTION = (
    'Every backbone of the catalogue under the same Semantic FPN (`repvit_semfpn_ade20k`) and the same RetinaNet',
    '(`repvit_retinanet_coco`), necks and heads of the same widths, random weights. Generated in one run by',
    '`python tools/benchmark.py --peers docs/peers.md`.',
)
HOW = (
    '- **M parameters, GMACs**: in deploy form, of the backbone / of the whole; one image.',
    f'- **step**: forward, backward and optimiser on {TRAINED} images, batch norms of the backbone frozen, as the',
    f'  recipes have it; median of {STEPS} steps by the clock, after one that warms up.',
    '- **peak**: the most that torch had allocated during a step, above what was there before it: activations and',
    '  gradients, not the weights.',
    '- **eager**: the deploy form in PyTorch, one normalised image to its result.',
    '- **exported**: the same as an ONNX file in ONNX Runtime, of the backbone by itself / of the whole.',
    '- **GMAC/s**: multiplications of the exported backbone per second: how cheap they are.',
    '- **published**: what others report for the pair after training; nothing was trained for this page.',
    '',
    f'Latencies were taken in turns with those of {REFERENCE} under the same head. A figure is the median of the',
    f'ratios within a round, times the median that {REFERENCE} has over the whole run: a machine that gets slower',
    'meanwhile moves no row. The layers that heads decide by are set to zero for it, so that what follows them takes',
    'as long for every backbone.',
)


def to_rows(cells: Sequence[dict]) -> list[dict]:
    """What the page shows: cells in which each of `FORMS` is one time in seconds, `step` too, and `throughput` in MAC/s
    is that of the exported backbone; those that failed as they are."""
    measured = [cell for cell in cells if 'error' not in cell]
    base = {
        (head, form): statistics.median(
            [second for cell in measured if cell['head'] == head for second in cell[form]['reference']]
        )
        for head in {cell['head'] for cell in measured}
        for form in FORMS
    }
    rows = []
    for cell in cells:
        row = dict(cell)
        for form in FORMS if 'error' not in cell else ():
            own, reference = cell[form]['own'], cell[form]['reference']
            ratio = statistics.median(a / b for a, b in zip(own, reference, strict=True))
            row[form] = ratio * base[cell['head'], form]
        if 'error' not in cell:
            row |= {'step': statistics.median(cell['step']), 'throughput': cell['backbone_macs'] / row['alone']}
        rows.append(row)
    return rows


def to_markdown(rows: Sequence[dict], setting: dict, picture: str, learning: str) -> str:
    """The page: what was found, the picture, a table per head, and the section on learning as it is given."""
    height, width = setting['size']
    lines = ['# Like for like', '', *INTRODUCTION, '']
    lines += [
        f'{height}x{width} pixels, torch {setting["torch"]}, ONNX Runtime {setting["onnxruntime"]} on a CPU, '
        f'{setting["threads"]} threads, {setting["rounds"]} rounds.',
        '',
        *(f'- {sentence}' for sentence in findings(rows)),
        '',
        f'![MACs against measured latency of the exported backbones]({picture})',
        '',
        'Along a dashed line a multiplication costs the same; the further to the upper left, the dearer it is.',
        '',
    ]
    for head, title in HEADS.items():
        lines += [f'## {title}', '', 'Sorted by the exported latency of the whole.', '', *_table(rows, head), '']
    return '\n'.join([*lines, '## How it was measured', '', *HOW, '', learning, ''])


def _table(rows: Sequence[dict], head: str) -> list[str]:
    columns = ('backbone', 'M parameters', 'GMACs', 'step, s', 'peak, GiB', 'eager, ms', 'exported, ms', 'GMAC/s')
    lines = [f'| {" | ".join(columns)} | published |', '|---' * (len(columns) + 1) + '|']
    own = [row for row in rows if row['head'] == head]
    for row in sorted((row for row in own if 'error' not in row), key=lambda row: row['exported']):
        lines.append(
            f'| {row["backbone"]} | {row["backbone_params"] / 1e6:.2f} / {row["params"] / 1e6:.2f} '
            f'| {row["backbone_macs"] / 1e9:.2f} / {row["macs"] / 1e9:.1f} '
            f'| {row["step"]:.2f} | {row["peak_bytes"] / 2**30:.2f} | {1000 * row["eager"]:.0f} '
            f'| {1000 * row["alone"]:.0f} / {1000 * row["exported"]:.0f} | {row["throughput"] / 1e9:.0f} '
            f'| {_published(row)} |'
        )
    for row in own:
        if 'error' in row:
            why = row['error'].replace('|', '/')
            lines.append(f'| {row["backbone"]} |{" - |" * (len(columns) - 1)} {_published(row)}. Not measured: {why} |')
    return lines


def _published(row: dict) -> str:
    return model_zoo.PUBLISHED.get(row['head'], {}).get(row['backbone'], 'no published result known')


def findings(rows: Sequence[dict]) -> list[str]:
    """Sentences on what was measured."""
    rows = [row for row in rows if 'error' not in row]
    found = []
    alone = [row for row in rows if row['head'] == next(iter(HEADS))]
    if len(alone) > 1:
        dear, *_, cheap = sorted(alone, key=lambda row: row['throughput'])
        found.append(
            f'An exported backbone does from {dear["throughput"] / 1e9:.1f} ({dear["backbone"]}) to '
            f'{cheap["throughput"] / 1e9:.1f} GMAC/s ({cheap["backbone"]}): the dearest multiplications cost '
            f'{cheap["throughput"] / dear["throughput"]:.1f} times the cheapest.'
        )
        found += _equal_macs(alone)
    for head, title in HEADS.items():
        own = [row for row in rows if row['head'] == head]
        if len(own) > 1:
            found += _under(title, own)
    return found


def _equal_macs(rows: Sequence[dict]) -> list[str]:
    """The two backbones whose MACs differ by less than a tenth and whose latencies differ most."""
    pairs = [
        (slow['alone'] / fast['alone'], fast, slow)
        for fast in rows
        for slow in rows
        if slow['alone'] > fast['alone']
        and abs(math.log(slow['backbone_macs'] / fast['backbone_macs'])) < math.log(1.1)
    ]
    if not pairs:
        return []
    ratio, fast, slow = max(pairs, key=lambda pair: pair[0])
    return [
        f'With about the same number of multiplications, {fast["backbone_macs"] / 1e9:.1f} and '
        f'{slow["backbone_macs"] / 1e9:.1f} G, {slow["backbone"]} takes {ratio:.1f} times as long as '
        f'{fast["backbone"]}.'
    ]


def _under(title: str, rows: Sequence[dict]) -> list[str]:
    """Two sentences on one head: who is fast, and how much of it is the backbone; what training asks for."""
    fast, *_, slow = sorted(rows, key=lambda row: row['exported'])
    share = statistics.median(row['alone'] / row['exported'] for row in rows)
    gain = statistics.median(row['eager'] / row['exported'] for row in rows)
    quick, *_, long = sorted(rows, key=lambda row: row['step'])
    small, *_, large = sorted(rows, key=lambda row: row['peak_bytes'])
    return [
        f'Under {title} the exported whole takes from {1000 * fast["exported"]:.0f} ms ({fast["backbone"]}) to '
        f'{1000 * slow["exported"]:.0f} ms ({slow["backbone"]}), {share:.0%} of it the backbone at the median, and is '
        f'{gain:.1f} times as fast as in PyTorch.',
        f'A training step under {title} takes from {quick["step"]:.1f} s ({quick["backbone"]}) to {long["step"]:.1f} s '
        f'({long["backbone"]}), and at its peak from {small["peak_bytes"] / 2**30:.2f} GiB ({small["backbone"]}) to '
        f'{large["peak_bytes"] / 2**30:.2f} GiB ({large["backbone"]}).',
    ]


# --- the picture ------------------------------------------------------------------------------------------------------

# How names of a family begin, the longer ones first where one begins another.
FAMILIES = {
    **{'repvit': 'RepViT', 'mobilenet': 'MobileNet', 'shufflenet': 'ShuffleNet', 'mobilevitv2': 'MobileViTv2'},
    **{'mobilevit': 'MobileViT', 'efficientformerv2': 'EfficientFormerV2', 'efficientformer': 'EfficientFormer'},
    **{'fastvit': 'FastViT', 'mobileone': 'MobileOne', 'poolformer': 'PoolFormer', 'edgevit': 'EdgeViT'},
    **{'mobile_former': 'Mobile-Former', 'pvtv2': 'PVTv2', 'pvt': 'PVT', 'swin': 'Swin', 'mvitv2': 'MViTv2'},
    **{'vit': 'ViT', 'resnet': 'ResNet'},
}
MARKERS = 'osD^vP'
THROUGHPUTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the dashed lines, in GMAC/s


def family(name: str) -> tuple[str, str]:
    """The family of a backbone, and which of the family it is."""
    start = next(start for start in FAMILIES if name.startswith(start))
    return FAMILIES[start], re.sub(r'(?<=\d)_(?=\d)', '.', name.removeprefix(start).strip('_')).replace('_', ' ')


def draw(rows: Sequence[dict], path: Path) -> None:
    """Milliseconds of the exported backbones over their multiplications."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(12, 9), layout='constrained')
    points, rows = {}, [row for row in rows if 'error' not in row]
    for row in rows:
        title, which = family(row['backbone'])
        points.setdefault(title, []).append((row['backbone_macs'] / 1e9, 1000 * row['alone'], which))
    colours = {title: pyplot.cm.tab20(i * 2 % 20 + i // 10) for i, title in enumerate(FAMILIES.values())}
    for i, (title, own) in enumerate(sorted(points.items())):
        x, y, _ = zip(*own, strict=True)
        marker = MARKERS[i % len(MARKERS)]
        axis.scatter(x, y, s=48, color=colours[title], marker=marker, label=title, edgecolor='black', linewidth=0.4)
    axis.set(xscale='log', yscale='log', xlabel='GMACs of the backbone', ylabel='exported, ms')
    _draw_throughputs(axis)
    axis.grid(alpha=0.2)
    axis.legend(fontsize='small', ncols=2, loc='best')
    figure.canvas.draw()  # where labels fit is decided in pixels
    _label(figure, axis, [(*point, colours[title]) for title, own in points.items() for point in own])
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)
    pyplot.close(figure)


def _draw_throughputs(axis) -> None:
    """Dashed lines on which a multiplication costs the same, inside the limits that the points have set."""
    from matplotlib import ticker

    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    for value in THROUGHPUTS:
        x, y = right, 1000 * right / value
        if y > high:
            x, y = high * value / 1000, high
        if x <= left or y <= low:
            continue
        axis.plot([left, x], [1000 * left / value, y], color='grey', linewidth=0.8, linestyle='--', zorder=0)
        text = {'ha': 'left', 'va': 'center'} if x == right else {'ha': 'center', 'va': 'bottom'}
        axis.text(x, y, f' {value} GMAC/s ', color='grey', fontsize='small', **text)
    axis.set(xlim=(left, right), ylim=(low, high))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        side.set_major_formatter(ticker.FormatStrFormatter('%g'))
        side.set_minor_formatter(ticker.NullFormatter())


def _label(figure, axis, points: Sequence[tuple]) -> None:
    """Each label at the first place around its point, nearest first, where nothing is yet."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer = figure.canvas.get_renderer()
    pixels = axis.transData.transform([point[:2] for point in points])
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in pixels]
    taken.append(axis.get_legend().get_window_extent(renderer))
    turns = [math.radians(degrees) for degrees in (0, 180, 90, 270, 45, 135, 225, 315)]
    places = [(far * math.cos(turn), far * math.sin(turn)) for far in (8, 14, 22, 32, 44) for turn in turns]
    for x, y, text, colour in points:
        for across, up in places:
            across_at = 'center' if abs(across) < 1 else 'left' if across > 0 else 'right'
            up_at = 'center' if abs(up) < 1 else 'bottom' if up > 0 else 'top'
            far = math.hypot(across, up) > 15
            note = axis.annotate(
                text,
                (x, y),
                (across, up),
                textcoords='offset points',
                ha=across_at,
                va=up_at,
                fontsize=8,
                arrowprops={'arrowstyle': '-', 'color': colour, 'linewidth': 0.6} if far else None,
            )
            note.update_positions(renderer)
            box = Text.get_window_extent(note, renderer)
            if not any(box.overlaps(other) for other in taken):
                break
            note.remove()
        else:  # only the marker, which the table beside the picture names
            continue
        taken.append(box)
