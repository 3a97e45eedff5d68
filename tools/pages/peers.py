"""Measure the backbones of the catalogue under the same two heads in one run and write docs/peers.md with a chart.

A cell is one head on one backbone and takes tens of seconds, so that the whole catalogue takes about an hour: few
rounds, one export, no comparison of the artifact with PyTorch. Every finished cell is stored, and an interrupted run
continues after the last one.
"""

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from repvit_dense import catalogue
from repvit_dense.catalogue_sizes import SIZES
from repvit_dense.errors import InputError
from repvit_dense.files import write_text
from tools.pages import model_zoo, peers_cell, peers_learning, peers_picture
from tools.pages import options as shared
from tools.pages.peers_cell import BATCH, FORMS, REFERENCE, SIZE, STEPS

HEADS = {'repvit_semfpn_ade20k': 'Semantic FPN', 'repvit_retinanet_coco': 'RetinaNet'}


@dataclass(kw_only=True)
class Options:
    """Options of the page."""

    file: Path = shared.file_option('peers.md')
    backbones: list[str] | None = shared.backbones_option(None, 'backbones of the catalogue; by default all')
    rounds: int = shared.rounds_option(3)
    threads: int | None = shared.threads_option()
    json: Path | None = shared.json_option(
        'keep the measured cells in this file; by default they are stored beside the page until all are measured'
    )


def backbones() -> list[str]:
    """Return the names in the catalogue without the rungs of the ladder, which lie between two of its networks."""
    return [name for name in catalogue.BACKBONES if not name.startswith('ladder_')]


def run(options: Options) -> int:
    """Measure the missing cells, draw the chart beside the page (`peers.md` gets `peers.png`) and write the page.

    Returns:
        0, or 2 if a cell failed; the page states the reason, and the next run measures it again.

    Raises:
        InputError: a backbone is unknown, or the stored cells have another setting; nothing was measured.
    """
    names = shared.resolve_backbones(options.backbones or backbones())
    store = options.json or options.file.with_suffix('.partial.json')
    report = _read(store, _setting(options.rounds))
    for head in HEADS:
        _measure_missing(head, names, options.rounds, report, store)
    cells = [report['cells'][f'{head}@{name}'] for head in HEADS for name in names]
    has_failed = any('error' in cell for cell in cells)
    rows, picture = to_rows(cells), options.file.with_suffix('.png')
    peers_picture.draw([row for row in rows if row['head'] == next(iter(HEADS))], picture)
    learning = peers_learning.section_of(options.file)
    write_text(options.file, to_markdown(rows, report['setting'], picture.name, learning))
    if not options.json and not has_failed:
        store.unlink(missing_ok=True)
    return 2 if has_failed else 0


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
            reference = reference or peers_cell.reference_calls(head)
            cell = peers_cell.measure(head, name, rounds, reference)
        except Exception as error:  # any library may fail; the page shows it and the other cells are still measured
            reason = ' '.join(str(error).split())[:200] or 'no reason given'
            cell = {'error': f'{type(error).__name__}: {reason}'}
        duration = round(time.perf_counter() - start, 1)
        cells[f'{head}@{name}'] = {'head': head, 'backbone': name, **cell, 'took': duration}
        write_text(store, json.dumps(report) + '\n')


# --- the page ---------------------------------------------------------------------------------------------------------

INTRODUCTION = (
    'The backbones of the catalogue under the same Semantic FPN (`repvit_semfpn_ade20k`) and the same RetinaNet',
    '(`repvit_retinanet_coco`), with equal widths of neck and head and random weights. Generated in one run by',
    '`python -m tools.pages peers docs/peers.md`.',
)
METHOD = (
    '- **M parameters, GMACs**: of the fused backbone / of the fused model; one image.',
    f'- **step**: forward, backward and optimiser on {BATCH} images with frozen batch norms in the backbone;',
    f'  wall-clock median of {STEPS} steps after a warm-up step.',
    "- **peak**: the peak of PyTorch's allocated memory during a step, minus the memory allocated before it:",
    '  activations and gradients, not the weights.',
    '- **eager**: the fused model in PyTorch, from one normalised image to its result.',
    '- **exported**: the same as an ONNX file in ONNX Runtime, for the backbone by itself / the model.',
    '- **GMAC/s**: throughput of the exported backbone.',
    '- **published**: results reported elsewhere for the trained pair; nothing was trained for this page.',
    '',
    f'Latencies were measured in alternation with those of {REFERENCE} under the same head. A number is the median of',
    f'the ratios within a round, times the median of {REFERENCE} over the whole run, so that a machine that slows down',
    'during the run changes no row. The last layers of the heads were set to zero, so that post-processing takes',
    'equally long for every backbone.',
)


def to_rows(cells: Sequence[dict]) -> list[dict]:
    """Reduce the measured cells to the numbers of the page.

    In each row, the keys of `FORMS` and `step` have one time in seconds, and `throughput` is that of the exported
    backbone in MAC/s. Failed cells are returned unchanged.
    """
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
            times, reference = cell[form]['own'], cell[form]['reference']
            ratio = statistics.median(a / b for a, b in zip(times, reference, strict=True))
            row[form] = ratio * base[cell['head'], form]
        if 'error' not in cell:
            row |= {'step': statistics.median(cell['step']), 'throughput': cell['backbone_macs'] / row['alone']}
        rows.append(row)
    return rows


def to_markdown(rows: Sequence[dict], setting: dict, picture: str, learning: str) -> str:
    """Return the page: findings, chart, a table per head, the method, and the section on learning."""
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
        'Backbones on the same dashed line have the same throughput; it is lower towards the upper left.',
        '',
    ]
    for head, title in HEADS.items():
        lines += [f'## {title}', '', 'Sorted by the latency of the exported model.', '', *_table(rows, head), '']
    unmeasured = [name for name in backbones() if name not in {row['backbone'] for row in rows}]
    lines += [*to_be_measured(unmeasured), '## Method', '', *METHOD, '', learning, '']
    return '\n'.join(lines)


def to_be_measured(names: Sequence[str]) -> list[str]:
    """Return the section on the backbones that the run left out."""
    sizes = [f'| {name} | {SIZES[name][0]:.2f} | {SIZES[name][1]:.2f} |' for name in names]
    lead = 'Backbones that the run above left out. Both numbers are those of the fused backbone.'
    table = ['| backbone | M parameters | GMACs |', '|---|---|---|', *sizes]
    return ['## Not measured yet', '', lead, '', *table, ''] if names else []


def _table(rows: Sequence[dict], head: str) -> list[str]:
    columns = ('backbone', 'M parameters', 'GMACs', 'step, s', 'peak, GiB', 'eager, ms', 'exported, ms', 'GMAC/s')
    lines = [f'| {" | ".join(columns)} | published |', '|---' * (len(columns) + 1) + '|']
    rows = [row for row in rows if row['head'] == head]
    for row in sorted((row for row in rows if 'error' not in row), key=lambda row: row['exported']):
        lines.append(
            f'| {row["backbone"]} | {row["backbone_params"] / 1e6:.2f} / {row["params"] / 1e6:.2f} '
            f'| {row["backbone_macs"] / 1e9:.2f} / {row["macs"] / 1e9:.1f} '
            f'| {row["step"]:.2f} | {row["peak_bytes"] / 2**30:.2f} | {1000 * row["eager"]:.0f} '
            f'| {1000 * row["alone"]:.0f} / {1000 * row["exported"]:.0f} | {row["throughput"] / 1e9:.0f} '
            f'| {_published(row)} |'
        )
    for row in rows:
        if 'error' in row:
            reason = row['error'].replace('|', '/')
            lines.append(
                f'| {row["backbone"]} |{" - |" * (len(columns) - 1)} {_published(row)}. Not measured: {reason} |'
            )
    return lines


def _published(row: dict) -> str:
    return model_zoo.PUBLISHED.get(row['head'], {}).get(row['backbone'], 'no published result known')


def findings(rows: Sequence[dict]) -> list[str]:
    """Return sentences about the extremes of the measured rows."""
    rows = [row for row in rows if 'error' not in row]
    sentences = []
    first_head = [row for row in rows if row['head'] == next(iter(HEADS))]
    if len(first_head) > 1:
        low, *_, high = sorted(first_head, key=lambda row: row['throughput'])
        sentences.append(
            f'The throughput of the exported backbones is {low["throughput"] / 1e9:.1f} ({low["backbone"]}) to '
            f'{high["throughput"] / 1e9:.1f} GMAC/s ({high["backbone"]}), a ratio of '
            f'{high["throughput"] / low["throughput"]:.1f}.'
        )
        sentences += _equal_macs(first_head)
    for head, title in HEADS.items():
        rows_of_head = [row for row in rows if row['head'] == head]
        if len(rows_of_head) > 1:
            sentences += _head_findings(title, rows_of_head)
    return sentences


def _equal_macs(rows: Sequence[dict]) -> list[str]:
    """Return a sentence about the two backbones with MACs within 10% and the most different latencies."""
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
        f'With nearly equal multiply-accumulates, {fast["backbone_macs"] / 1e9:.1f} and '
        f'{slow["backbone_macs"] / 1e9:.1f} G, {slow["backbone"]} takes {ratio:.1f} times as long as '
        f'{fast["backbone"]}.'
    ]


def _head_findings(title: str, rows: Sequence[dict]) -> list[str]:
    """Return a sentence on the latency under one head, and one on its training step."""
    fast, *_, slow = sorted(rows, key=lambda row: row['exported'])
    share = statistics.median(row['alone'] / row['exported'] for row in rows)
    gain = statistics.median(row['eager'] / row['exported'] for row in rows)
    shortest, *_, longest = sorted(rows, key=lambda row: row['step'])
    smallest, *_, largest = sorted(rows, key=lambda row: row['peak_bytes'])
    return [
        f'Under {title} the exported model takes {1000 * fast["exported"]:.0f} ms ({fast["backbone"]}) to '
        f'{1000 * slow["exported"]:.0f} ms ({slow["backbone"]}); in the median the backbone takes {share:.0%} of it, '
        f'and PyTorch takes {gain:.1f} times as long.',
        f'A training step under {title} takes {shortest["step"]:.1f} s ({shortest["backbone"]}) to '
        f'{longest["step"]:.1f} s ({longest["backbone"]}), with a peak of {smallest["peak_bytes"] / 2**30:.2f} GiB '
        f'({smallest["backbone"]}) to {largest["peak_bytes"] / 2**30:.2f} GiB ({largest["backbone"]}).',
    ]
