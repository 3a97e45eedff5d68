"""Export every head in every format with random weights and write the table of docs/deploy.md."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repvit_dense import config
from repvit_dense.artifact.targets import TARGETS
from repvit_dense.benchmark import random_models
from repvit_dense.errors import InputError
from repvit_dense.exporting.results import ExportResult
from repvit_dense.files import write_text
from repvit_dense.options import option
from tools.pages import model_zoo
from tools.pages import options as shared

BACKBONE = 'repvit_m0_9'
SIZE = (256, 256)  # height and width of the input in pixels, except for heads with a fixed input size
BEGIN, END = '<!-- generated: every head in every format -->', '<!-- end of what is generated -->'
# Runtimes without an adaptive RoIAlign need a fixed number of samples, see docs/deploy.md.
SAMPLES = [f'model.roi_head.{part}_roi_extractor.roi_layer.sampling_ratio=2' for part in ('bbox', 'mask')]


@dataclass(kw_only=True)
class Options:
    """Options of the page."""

    file: Path = shared.file_option('deploy.md; the table between its two marks is replaced')
    heads: list[str] | None = option(
        None, nargs='+', metavar='CONFIG', help='update only the rows of these configs; by default all'
    )
    threads: int | None = shared.threads_option()


def run(options: Options) -> int:
    """Export and write the table; return 2 if a cell failed."""
    return write(options.file, options.heads or model_zoo.heads())


def write(path: Path, names: Sequence[str], targets: Sequence[str] = tuple(TARGETS)) -> int:
    """Export the heads and update their rows between the two marks of the page; rows of other heads stay.

    Returns:
        0, or 2 if a cell failed; the page states the reason.

    Raises:
        InputError: the page has no marks; nothing was exported.
    """
    page = path.read_text() if path.is_file() else ''
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise InputError(f'{path}: the table needs the lines {BEGIN} and {END}, once each')
    before, table, after = re.split(f'{BEGIN}|{END}', page)
    old = [line for line in table.splitlines() if not any(f'`{name}`' in line for name in names)]
    failed = False
    rows, notes = ([line for line in old if line.startswith(start)] for start in ('| `', '- `'))
    for name in names:
        written, errors = export_head(name, targets)
        rows.append(row_of(name, written, errors, targets))
        notes += notes_of(name, written, errors)
        failed = failed or bool(errors)
    lines = [f'| config | {" | ".join(targets)} |', f'|---|{"---|" * len(targets)}', *sorted(rows)]
    write_text(path, '\n'.join([f'{before}{BEGIN}', '', _setting(), '', *lines, '', *sorted(notes), f'{END}{after}']))
    return 2 if failed else 0


def export_head(name: str, targets: Sequence[str]) -> tuple[dict[str, ExportResult], dict[str, str]]:
    """Export one config to a temporary folder.

    Returns:
        The rows of the written formats, and the messages of the failed ones, both by format.
    """
    cfg = config.load(name, [*SAMPLES] if 'rcnn' in name else [], backbone=BACKBONE)
    size = None if 'ssdlite' in name else SIZE
    with tempfile.TemporaryDirectory() as folder:
        rows, errors = random_models.export_artifacts(cfg, targets, Path(folder), size, no_verify=True)
    return {row.target: row for row in rows}, errors


def row_of(name: str, written: dict[str, ExportResult], errors: dict[str, str], targets: Sequence[str]) -> str:
    """Return the row of a head with a cell per format: agreement with PyTorch, milliseconds, MB."""
    cells = []
    for target in targets:
        if target in errors:
            cells.append('fails, see below')
            continue
        row = written[target]
        if row.milliseconds is None:
            cells.append(f'not run here, {row.megabytes:.0f} MB, written in {row.seconds:.0f} s')
        else:
            time = f'{row.milliseconds:.0f} ms ({row.speedup:.1f}x)'
            cells.append(f'{row.parity}, {time}, {row.megabytes:.0f} MB, written in {row.seconds:.0f} s')
    return f'| `{name}` | {" | ".join(cells)} |'


def notes_of(name: str, written: dict[str, ExportResult], errors: dict[str, str]) -> list[str]:
    """Return a line for each format that failed or exceeds the tolerance."""
    beyond = {
        target: f'beyond the tolerance: {"; ".join(row.failures)}' for target, row in written.items() if row.failures
    }
    return [f'- `{name}`, {target}: {text}' for target, text in (errors | beyond).items()]


def _setting() -> str:
    import torch

    threads = torch.get_num_threads()
    size = f'{BACKBONE}, {SIZE[0]}x{SIZE[1]} pixels (SSDLite 320x320), random weights, fp32, static shapes'
    return f'{size}; torch {torch.__version__} on a CPU, {threads} thread{"s" * (threads > 1)}.'
