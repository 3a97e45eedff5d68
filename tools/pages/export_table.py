"""Every head in every format, exported once, with random weights: the table of docs/deploy.md."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from repvit_dense import config
from repvit_dense.benchmark import random_models
from repvit_dense.errors import InputError
from repvit_dense.exporting import export, formats
from repvit_dense.files import write_text

BACKBONE = 'repvit_m0_9'
SIZE = (256, 256)  # height and width of the input in pixels; where the config fixes its own, that one
BEGIN, END = '<!-- generated: every head in every format -->', '<!-- end of what is generated -->'
# Runtimes without an adaptive RoIAlign need a fixed number of samples, see docs/deploy.md.
SAMPLES = [f'model.roi_head.{part}_roi_extractor.roi_layer.sampling_ratio=2' for part in ('bbox', 'mask')]


def write(path: Path, names: Sequence[str], targets: Sequence[str] = tuple(formats.TARGETS)) -> int:
    """Export, and put the table between its two marks in the page; rows of other heads that are there stay.

    Returns:
        0, or 2 where a cell failed; the page says why.

    Raises:
        InputError: the page has no marks; nothing was exported.
    """
    page = path.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise InputError(f'{path}: the table goes between the lines {BEGIN} and {END}, once each')
    before, inside, after = re.split(f'{BEGIN}|{END}', page)
    old = [line for line in inside.splitlines() if not any(f'`{name}`' in line for name in names)]
    failed = False
    lines, notes = ([line for line in old if line.startswith(start)] for start in ('| `', '- `'))
    for name in names:
        written, errors = export_head(name, targets)
        lines.append(row_of(name, written, errors, targets))
        notes += notes_of(name, written, errors)
        failed = failed or bool(errors)
    table = [f'| config | {" | ".join(targets)} |', f'|---|{"---|" * len(targets)}', *sorted(lines)]
    write_text(path, '\n'.join([f'{before}{BEGIN}', '', _setting(), '', *table, '', *sorted(notes), f'{END}{after}']))
    return 2 if failed else 0


def export_head(name: str, targets: Sequence[str]) -> tuple[dict[str, export.Row], dict[str, str]]:
    """One config in every format, in a folder that is thrown away. Returns what was written, and what failed."""
    cfg = config.load(name, [*SAMPLES] if 'rcnn' in name else [], backbone=BACKBONE)
    size = None if cfg.model.get('bbox_head', {}).get('type') == 'PredictingSSDHead' else SIZE
    with tempfile.TemporaryDirectory() as folder:
        rows, errors = random_models.exported(cfg, targets, Path(folder), size, '--no-verify')
    return {row.target: row for row in rows}, errors


def row_of(name: str, written: dict[str, export.Row], errors: dict[str, str], targets: Sequence[str]) -> str:
    """A cell per format: agreement with PyTorch, milliseconds, MB."""
    cells = []
    for target in targets:
        row = written.get(target)
        if target in errors:
            cells.append('fails, see below')
        elif row.milliseconds is None:
            cells.append(f'not run here, {row.megabytes:.0f} MB, written in {row.seconds:.0f} s')
        else:
            time = f'{row.milliseconds:.0f} ms ({row.speedup:.1f}x)'
            cells.append(f'{row.parity}, {time}, {row.megabytes:.0f} MB, written in {row.seconds:.0f} s')
    return f'| `{name}` | {" | ".join(cells)} |'


def notes_of(name: str, written: dict[str, export.Row], errors: dict[str, str]) -> list[str]:
    """What failed and why, and what is beyond the tolerance."""
    beyond = {
        target: f'beyond the tolerance: {"; ".join(row.failures)}' for target, row in written.items() if row.failures
    }
    return [f'- `{name}`, {target}: {text}' for target, text in (errors | beyond).items()]


def _setting() -> str:
    import torch

    threads = torch.get_num_threads()
    size = f'{BACKBONE}, {SIZE[0]}x{SIZE[1]} pixels (SSDLite 320x320), random weights, fp32, static shapes'
    return f'{size}; torch {torch.__version__} on a CPU, {threads} thread{"s" * (threads > 1)}.'
