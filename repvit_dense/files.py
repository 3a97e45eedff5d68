"""Text files that are there whole or not at all."""

import uuid
from pathlib import Path


def write_text(path: str | Path, text: str) -> None:
    """Write a file in UTF-8 beside its place and move it there; what was there before stays where that fails."""
    path = Path(path)
    partial = path.with_name(f'.{path.name}-{uuid.uuid4().hex}')
    try:
        partial.write_text(text, encoding='utf-8')
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
