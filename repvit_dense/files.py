"""Write a file so that a reader finds it whole, or finds the previous one, also after a crash or a power failure."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path, reuse: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` at the end, or delete it after an error.

    Args:
        path: the file to write.
        reuse: name the temporary file `NAME.partial` instead of choosing a unique name that keeps the suffix. A killed
            process leaves its temporary file behind; this way the next attempt overwrites it. Only one process may
            write to `path` at a time then.
    """
    path = Path(path)
    name = f'{path.name}.partial' if reuse else f'.{path.stem}-{uuid.uuid4().hex}.partial{path.suffix}'
    partial = path.with_name(name)
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        if os.name == 'posix':  # other systems cannot open a folder
            _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding='utf-8')


def _flush(path: Path) -> None:
    """Wait until the content of a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
