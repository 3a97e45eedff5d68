"""Open regular files only, walk through folders with links, and write a file completely or not at all.

A name from a user or a file may be too long or contain bytes that no file name has. `is_file` and `is_folder` return
False for it; the methods of `Path` raise an error.
"""

import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    import numpy as np


def is_file(path: str | Path) -> bool:
    """Return whether there is a regular file, or a link to one, of this name; False for an impossible name."""
    return os.path.isfile(path)  # noqa: PTH113  unlike Path.is_file it raises no error


def is_folder(path: str | Path) -> bool:
    """Return whether there is a folder, or a link to one, of this name; False for an impossible name."""
    return os.path.isdir(path)  # noqa: PTH112  unlike Path.is_dir it raises no error


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading; a pipe or a device, which might never end, is refused.

    Raises:
        InputError: there is no such file, it is not a regular file, or it cannot be opened.
    """

    def open_without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, 'O_NONBLOCK', 0))  # the open of a pipe waits for its writer

    try:
        file = open(path, 'rb', opener=open_without_waiting)  # noqa: SIM115  the caller closes it
    except (OSError, ValueError) as error:
        raise InputError(f'{path}: cannot be read ({getattr(error, "strerror", None) or error})') from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InputError(f'{path}: cannot be read (not a regular file)')
    return file


def read_bytes(path: str | Path, limit: int | None = None) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file.
        limit: largest size that is read, in bytes; None for any.

    Raises:
        InputError: see `open_regular`; or the file is larger than `limit`.
    """
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise InputError(f'{path}: has {size:,} bytes, at most {limit:,} are expected')
            return file.read()
        except OSError as error:
            raise InputError(f'{path}: cannot be read ({error.strerror})') from error


def walk(folder: str | Path, keep_unreadable: bool = False) -> Iterator[Path]:
    """Yield everything in a folder and its subfolders that is not a folder, also pipes and links that lead nowhere.

    Links to folders are followed. A folder is read once, even if several links lead to it or contain it.

    Args:
        folder: where to begin.
        keep_unreadable: yield a subfolder that cannot be read instead of raising an error.

    Raises:
        InputError: a folder cannot be read.
    """
    seen = set()
    waiting = [Path(folder)]
    while waiting:
        current = waiting.pop()
        try:
            status = current.stat()
            entries = sorted(os.scandir(current), key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            if keep_unreadable and current != Path(folder):
                yield current
                continue
            raise InputError(f'{current}: cannot be read ({error.strerror})') from error
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders = []
        for entry in entries:
            path = current / entry.name
            if is_folder(path) if entry.is_symlink() else entry.is_dir():
                folders.append((entry.is_symlink(), path))
            else:
                yield path
        waiting = [path for linked, path in folders if linked] + waiting
        waiting += [path for linked, path in reversed(folders) if not linked]  # real folders before linked ones


@contextmanager
def replacing(path: str | Path, reuse: bool = False, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` at the end, or delete it after an error.

    Args:
        path: the file to write.
        reuse: name the temporary file `NAME.partial` instead of choosing a unique name that keeps the suffix. A killed
            process leaves its temporary file behind; this way the next attempt overwrites it. Only one process may
            write to `path` at a time then.
        flush: wait until the content is on the disk, so that a power failure leaves the old or the new file. It takes
            some milliseconds.
    """
    path = Path(path)
    name = f'{path.name}.partial' if reuse else f'.{uuid.uuid4().hex}.partial{path.suffix}'
    partial = path.with_name(name)
    try:
        yield partial
        if flush:
            _flush(partial)
        partial.replace(path)
        if flush and os.name == 'posix':  # other systems cannot open a folder
            _flush(path.parent)
    except OSError as error:  # a failed write does not say to which file
        error.filename = str(path) if error.filename in (None, str(partial)) else error.filename
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding='utf-8')


def encode_image(pixels: 'np.ndarray', suffix: str) -> bytes:
    """Return the content of an image file; the suffix decides about the format.

    Raises:
        InputError: OpenCV cannot write this format, or not an image of this size in it.
    """
    import cv2

    try:
        encoded, content = cv2.imencode(suffix, pixels)
    except cv2.error:
        encoded = False
    if not encoded:
        height, width = pixels.shape[:2]
        raise InputError(f"cannot write {width}x{height} pixels to a file with the suffix '{suffix}'; use .jpg or .png")
    return content.tobytes()


def check_writable(folder: str | Path) -> None:
    """Refuse a folder that cannot be created or written to, before any work; nothing is left behind.

    Raises:
        InputError: it is a file, or on a disk that is full or read-only, or its name is impossible.
    """
    existing = Path(folder).absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(4096))
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise InputError(f'{folder}: nothing can be written there ({reason})') from error


def _flush(path: Path) -> None:
    """Wait until the content of a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
