"""An HTML page of pictures and scores."""

import html
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from repvit_dense.errors import printable
from repvit_dense.files import write_text

PAGE = 'index.html'


def write_page(
    folder: Path,
    title: str,
    pictures: Mapping[Path, str],
    caption: str,
    metrics: dict[str, float] | None = None,
    curves: Path | None = None,
) -> Path:
    """Write the page into `folder`; return its path.

    Args:
        folder: existing folder; links to the pictures are relative to it.
        title: heading of the page.
        pictures: image files in the order in which they are shown, with a caption each.
        caption: heading of the pictures.
        metrics: scores by name, shown as a table.
        curves: image of the training curves, left out if the file does not exist.
    """

    def escape(text: str) -> str:
        return html.escape(printable(text))

    def image(path: Path, caption: str) -> str:
        link = html.escape(quote(os.fsencode(os.path.relpath(path, folder).replace(os.sep, '/'))))
        return f'<figure><img src="{link}" loading="lazy"><figcaption>{escape(caption)}</figcaption></figure>'

    rows = ''.join(f'<tr><td>{escape(k)}</td><td>{v:.3f}</td></tr>' for k, v in (metrics or {}).items())
    parts = [
        '<!doctype html><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f'<title>{escape(title)}</title>',
        '<style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem}'
        'table{border-collapse:collapse}td{border:1px solid #ccc;padding:.2rem .6rem}figure{margin:0}'
        'img{width:100%;image-rendering:auto}figcaption{color:#666;font-size:.8rem}'
        '.grid{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(22rem,1fr))}'
        '.curves{max-width:48rem}</style>',
        f'<h1>{escape(title)}</h1>',
    ]
    if rows:
        parts.append(f'<h2>Scores</h2><table>{rows}</table>')
    if curves and curves.exists():
        parts.append(f'<h2>Training</h2><div class="curves">{image(curves, curves.stem)}</div>')
    if pictures:
        parts.append(f'<h2>{escape(caption)}</h2>')
        parts.append(f'<div class="grid">{"".join(map(image, pictures, pictures.values()))}</div>')
    path = folder / PAGE
    write_text(path, '\n'.join(parts))
    return path
