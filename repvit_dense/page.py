"""An HTML page of pictures and scores, with a viewer that filters, sorts and enlarges them."""

import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from repvit_dense.errors import printable
from repvit_dense.files import write_text

PAGE = 'index.html'
STATIC = Path(__file__).with_name('static')  # scripts and styles, also of the page of `serve`


@dataclass(frozen=True)
class Entries:
    """The data by which a page filters and sorts its pictures.

    Attributes:
        lines: a JSON object per picture, in the order of the pictures: `objects` (`label`, `score` of each; `box` and
            `mask` too if the viewer is to draw them) or `segments` (`label` of each), as in `predictions.jsonl`, and
            `quality`, a number; the lower, the worse.
        names: class names, by label.
        palette: an RGB colour per class; None for those of drawn pictures.
        images: the file that each picture was drawn from, None if there is none; the viewer draws over it if the
            browser can load it.
    """

    lines: Iterable[str]
    names: Sequence[str] = ()
    palette: Sequence | None = None
    images: Sequence[Path | None] = ()


def write_page(
    folder: Path,
    title: str,
    pictures: Mapping[Path, str],
    caption: str,
    metrics: dict[str, float] | None = None,
    figures: Mapping[Path, str] | None = None,
    classes: Sequence[Mapping[str, object]] = (),
    entries: Entries | None = None,
) -> Path:
    """Write the page into `folder`; return its path.

    The page needs no server, and without JavaScript it shows all pictures.

    Args:
        folder: existing folder; links to the pictures are relative to it.
        title: heading of the page.
        pictures: image files in the order in which they are shown, with a caption each.
        caption: heading of the pictures.
        metrics: scores by name, shown as a table.
        figures: images of figures with a heading each; a file that does not exist is left out.
        classes: scores per class, shown as a table: the same keys in each.
        entries: the objects in the pictures.
    """

    rows = ''.join(f'<tr><td>{_escape(k)}</td><td>{v:.3f}</td></tr>' for k, v in (metrics or {}).items())
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f'<title>{_escape(title)}</title>',
        f'<style>{(STATIC / "style.css").read_text("utf-8")}</style>',
        f'<h1>{_escape(title)}</h1>',
    ]
    if rows:
        parts.append(f'<h2>Scores</h2><table>{rows}</table>')
    if classes:
        cells = [classes[0].keys(), *(map(_to_cell, row.values()) for row in classes)]
        table = ''.join(f'<tr>{"".join(f"<td>{_escape(str(cell))}</td>" for cell in row)}</tr>' for row in cells)
        parts.append(f'<details><summary>Scores of {len(classes)} classes</summary><table>{table}</table></details>')
    for path, heading in (figures or {}).items():
        if path.exists():
            parts.append(
                f'<h2>{_escape(heading)}</h2><img class="figure" src="{_link(path, folder)}" alt="{_escape(heading)}">'
            )
    if pictures:
        images = entries.images if entries and entries.images else [None] * len(pictures)
        parts.append(f'<h2>{_escape(caption)}</h2><div class="tools" hidden></div><div class="grid">')
        parts += [_figure(folder, *each) for each in zip(pictures, pictures.values(), images, strict=True)]
        parts.append('</div>')
        if entries:
            parts.append(f'<script type="application/json" id="data">{_to_json(entries)}</script>')
        parts += [f'<script>{(STATIC / name).read_text("utf-8")}</script>' for name in ('viewer.js', 'gallery.js')]
    path = folder / PAGE
    write_text(path, '\n'.join(parts))
    return path


def _escape(text: str) -> str:
    return html.escape(printable(text))


def _link(path: Path, folder: Path) -> str:
    return html.escape(quote(os.fsencode(os.path.relpath(path, folder).replace(os.sep, '/'))))


def _figure(folder: Path, path: Path, caption: str, image: Path | None) -> str:
    source = f' data-image="{_link(image, folder)}"' if image else ''
    picture = f'<img src="{_link(path, folder)}" alt="{_escape(caption)}" loading="lazy" decoding="async">'
    caption = f'<figcaption>{_escape(caption)}</figcaption>'
    return f'<figure{source}><a href="{_link(path, folder)}">{picture}</a>{caption}</figure>'


def _to_cell(value: object) -> str:
    """Return a value of a table: numbers are rounded, None is empty."""
    return '' if value is None else f'{value:.3f}' if isinstance(value, float) else str(value)


def _to_json(entries: Entries) -> str:
    """Return the data of a page; no text in it ends the script element that holds it."""
    head = json.dumps({'names': list(entries.names), 'palette': entries.palette}, default=list)
    lines = ',\n'.join(entries.lines)
    return f'{head[:-1]}, "entries": [\n{lines}\n]}}'.replace('<', '\\u003c')
