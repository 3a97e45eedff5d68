"""Every head in every format, exported once, with random weights: the table of docs/deploy.md."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from repvit_dense import config
from repvit_dense.benchmark import lively
from repvit_dense.deploy import export, formats
from repvit_dense.errors import InputError
from repvit_dense.files import write_text

BACKBONE = 'repvit_m0_9'
SIZE = (256, 256)  # height and width of the input in pixels; where the config fixes its own, that one
BEGIN, END = '<!-- generated: every head in every format -->', '<!-- end of what is generated -->'
# Runtimes without an adaptive RoIAlign need a fixed number of samples, see docs/deploy.md.
SAMPLES = [f'model.roi_head.{part}_roi_extractor.roi_layer.sampling_ratio=2' for part in ('bbox', 'mask')]


def write(path: Path, names: list[str], targets: Sequence[str] = tuple(formats.TARGETS)) -> int:
    """Export, and put the table between its two marks in the page.

    Returns:
        0, or 2 where a cell failed; the page says why.

    Raises:
        InputError: the page has no marks; nothing was exported.
    """
    page = path.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise InputError(f'{path}: the table goes between the lines {BEGIN} and {END}, once each')
    rows = [(name, *export_head(name, targets)) for name in names]
    head, rest = page.split(BEGIN)
    text = f'{head}{BEGIN}\n\n{to_markdown(rows, targets)}\n{END}{rest.split(END)[1]}'
    write_text(path, text)
    return 2 if any(errors for *_, errors in rows) else 0


def export_head(name: str, targets: Sequence[str]) -> tuple[dict[str, export.Row], dict[str, str]]:
    """One config in every format, in a folder that is thrown away. Returns what was written, and what failed."""
    cfg = config.load(name, [*SAMPLES] if 'rcnn' in name else [], backbone=BACKBONE)
    size = None if cfg.model.get('bbox_head', {}).get('type') == 'PredictingSSDHead' else SIZE
    with tempfile.TemporaryDirectory() as folder:
        rows, errors = lively.exported(cfg, targets, Path(folder), size)
    return {row.target: row for row in rows}, errors


def to_markdown(rows: list[tuple[str, dict[str, export.Row], dict[str, str]]], targets: Sequence[str]) -> str:
    """A row per config, a cell per format: agreement with PyTorch, milliseconds, MB; then what failed and why."""
    import torch

    lines = [f'| config | {" | ".join(targets)} |', f'|---|{"---|" * len(targets)}']
    notes = []
    for name, written, errors in rows:
        cells = []
        for target in targets:
            if target in errors:
                notes.append(f'- `{name}`, {target}: {errors[target]}')
                cells.append('fails, see below')
            else:
                row = written[target]
                time = 'not run here'
                if row.milliseconds is not None:
                    time = f'{row.parity}, {row.milliseconds:.0f} ms ({row.speedup:.1f}x)'
                cells.append(f'{time}, {row.megabytes:.0f} MB, written in {row.seconds:.0f} s')
        lines.append(f'| `{name}` | {" | ".join(cells)} |')
    setting = f'torch {torch.__version__} on a CPU, {torch.get_num_threads()} threads'
    size = f'{BACKBONE}, {SIZE[0]}x{SIZE[1]} pixels (SSDLite {320}x{320}), random weights, fp32, static shapes'
    return '\n'.join([f'{size}; {setting}.', '', *lines, '', *notes, *([''] if notes else [])])
