"""Text for the person at the screen. It goes to stderr; stdout is for results only."""

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from repvit_dense.errors import printable

_muted = False
_process = os.getpid()


def mute() -> None:
    """Let this process say nothing more, because it is not the first one of its run."""
    global _muted  # noqa: PLW0603
    _muted = True


def say(text: object) -> None:
    """Write one line to stderr, above progress bars; control characters are escaped.

    A terminal that is gone ends nothing: the line is lost.
    """
    if _muted or sys.stderr is None:
        return
    bars = sys.modules.get('tqdm')  # there is no bar before it is imported
    with contextlib.suppress(OSError, ValueError):  # closed by the other side, closed by us
        if (
            bars is not None and hasattr(bars, 'tqdm') and os.getpid() == _process
        ):  # a forked worker must not touch the bars
            bars.tqdm.write(printable(text), file=sys.stderr)
        else:
            print(printable(text), file=sys.stderr)
        sys.stderr.flush()


@contextlib.contextmanager
def passing(text: str) -> Iterator[None]:
    """Show a line while something lasts; a terminal clears it at the end."""
    if _muted or sys.stderr is None or not sys.stderr.isatty():
        say(text)
        yield
        return
    with contextlib.suppress(OSError, ValueError):
        print(text, end='', file=sys.stderr, flush=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            print(f'\r{" " * width_of(text)}\r', end='', file=sys.stderr, flush=True)


def columns(rows: Iterable[Sequence[object]], right: bool = False) -> str:
    """Return rows as lines of aligned columns.

    Args:
        rows: cells, as many in every row.
        right: align all columns but the first at their right side, as for numbers.
    """
    cells = [[printable(cell).replace('\n', ' ') for cell in row] for row in rows]
    widths = [max(map(width_of, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        gaps = [' ' * (width - width_of(cell)) for cell, width in zip(row, widths, strict=True)]
        parts = [gap + cell if right and i else cell + gap for i, (cell, gap) in enumerate(zip(row, gaps, strict=True))]
        lines.append('  '.join(parts).rstrip())
    return '\n'.join(lines)


def width_of(text: str) -> int:
    """Return the number of columns that a text takes in a terminal; Chinese characters take two."""
    return len(text) + sum(unicodedata.east_asian_width(c) in 'WF' for c in text)
