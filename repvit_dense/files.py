"""Files that are there whole or not at all."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A place beside `path` to write to, which is moved there in the end; what was there before stays if that fails."""
    path = Path(path)
    partial = path.with_name(f'.{path.stem}-{uuid.uuid4().hex}.partial{path.suffix}')
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a file in UTF-8, see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding='utf-8')
