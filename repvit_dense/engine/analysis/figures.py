"""Figures by matplotlib, which is imported when the first one is drawn."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import printable, shorten
from repvit_dense.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(size: tuple[float, float]) -> 'Figure':
    """Return an empty figure of this width and height in inches; it does not need a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout='constrained')


def label(text: str, length: int = 40) -> str:
    """Return a name in one line, in which matplotlib finds no formula."""
    return shorten(printable(text), length).replace('$', r'\$')


def save(figure: 'Figure', path: Path) -> None:
    """Write a figure, completely or not at all."""
    with replacing(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Glyph .* missing from')  # names in scripts that the font lacks
        figure.savefig(partial, dpi=100)
