"""Text for the person at the screen. It goes to stderr; stdout is for results only."""

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from repvit_dense.errors import printable

_muted = False
_process = os.getpid()
_passing = ''  # a line that will be cleared


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
    tqdm = getattr(sys.modules.get('tqdm'), 'tqdm', None)  # there is no bar before it is imported
    with contextlib.suppress(OSError, ValueError):  # closed by the other side, closed by us
        _write(_clear(_passing))
        if tqdm and os.getpid() == _process:  # a forked worker must not touch the bars
            tqdm.write(printable(text), file=sys.stderr)
        else:
            _write(f'{printable(text)}\n')
        _write(_passing)


@contextlib.contextmanager
def passing(text: str) -> Iterator[None]:
    """Show a line while something lasts; a terminal clears it at the end."""
    global _passing  # noqa: PLW0603
    if _muted or sys.stderr is None or not sys.stderr.isatty():
        say(text)
        yield
        return
    with contextlib.suppress(OSError, ValueError):
        _write(text)
    _passing = text
    try:
        yield
    finally:
        _passing = ''
        with contextlib.suppress(OSError, ValueError):
            _write(_clear(text))


def _write(text: str) -> None:
    print(text, end='', file=sys.stderr, flush=True)


def _clear(text: str) -> str:
    return f'\r{" " * width_of(text)}\r' if text else ''


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
