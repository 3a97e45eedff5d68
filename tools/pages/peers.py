"""Like for like: every backbone of the catalogue under the same two heads, measured in one run: docs/peers.md.

A cell is one head on one backbone. It takes tens of seconds, so that the whole catalogue fits into an hour: few rounds,
one export, no certificate. What is measured is kept at once, and an interrupted run goes on where it was.
"""

import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from repvit_dense.backbones import catalogue
from tools.pages import model_zoo, peers_cell, peers_learning, peers_picture
from tools.pages.peers_cell import FORMS, REFERENCE, SIZE, STEPS, TRAINED
from repvit_dense.errors import InputError
from repvit_dense.files import write_text

HEADS = {'repvit_semfpn_ade20k': 'Semantic FPN', 'repvit_retinanet_coco': 'RetinaNet'}


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
    peers_picture.draw([row for row in rows if row['head'] == next(iter(HEADS))], path.with_suffix('.png'))
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
            reference = reference or peers_cell.reference(head)
            cell = peers_cell.measure(head, name, rounds, reference)
        except Exception as error:  # of any library: the page names it, the other cells are still measured
            why = ' '.join(str(error).split())[:200] or 'no reason given'
            cell = {'error': f'{type(error).__name__}: {why}'}
        took = round(time.perf_counter() - start, 1)
        cells[f'{head}@{name}'] = {'head': head, 'backbone': name, **cell, 'took': took}
        write_text(store, json.dumps(report) + '\n')


# --- the page ---------------------------------------------------------------------------------------------------------

INTRODUCTION = (
    'Every backbone of the catalogue under the same Semantic FPN (`repvit_semfpn_ade20k`) and the same RetinaNet',
    '(`repvit_retinanet_coco`), necks and heads of the same widths, random weights. Generated in one run by',
    '`python tools/benchmark.py --peers docs/peers.md`.',
)
HOW = (
    '- **M parameters, GMACs**: in deploy form, of the backbone / of the whole; one image.',
    f'- **step**: forward, backward and optimiser on {TRAINED} images, batch norms of the backbone frozen;',
    f'  median of {STEPS} steps by the clock, after one that warms up.',
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
