"""Name and write the pictures of a run, so that none replaces another picture or a file of the user.

Pictures carry a mark. A later run replaces marked files only, and does not mistake them for images to predict.
"""

import hashlib
import os
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError
from repvit_dense.files import encode_image, open_regular, replacing

if TYPE_CHECKING:
    import numpy as np

MARK = b'picture of a prediction by repvit-dense'
HEAD = 128  # bytes of a file that include the mark
PICTURE, SEGMENTS = '.jpg', '.segments.png'
LONGEST_NAME = 200  # bytes; file systems allow 255, with the suffix and a number


def output_names(paths: Sequence[Path], folder: Path) -> list[str]:
    """Return a name per image for its files in an existing folder, without suffix: the stem of the image.

    The name is numbered if another image of the run has it, in upper or lower case, or if a file in the folder has it
    that is an image of this run or not a picture of an earlier one.
    """
    present = {_fold(name): folder / name for name in os.listdir(folder)}  # noqa: PTH208  names suffice
    inputs = {os.path.realpath(path) for path in paths}
    used: set[str] = set()
    counts: dict[str, int] = {}

    def is_free(name: str) -> bool:
        files = [present.get(_fold(name + suffix)) for suffix in (PICTURE, SEGMENTS)]
        kept = (file for file in files if file and not (is_picture(file) and os.path.realpath(file) not in inputs))
        return _fold(name) not in used and not any(kept)

    names = []
    for path in paths:
        stem = _safe_stem(path)
        number = counts.get(_fold(stem), 0) + 1
        while not is_free(name := stem if number == 1 else f'{stem}-{number}'):
            number += 1
        counts[_fold(stem)] = number
        used.add(_fold(name))
        names.append(name)
    return names


def _fold(name: str) -> str:
    """Return a name as file systems compare it that ignore case or normalise Unicode."""
    return unicodedata.normalize('NFC', name).casefold()


def _safe_stem(path: Path) -> str:
    """Return the stem of a file name, printable, not hidden and not too long."""
    stem = ''.join(c if c.isprintable() else '_' for c in path.stem)
    stem = f'_{stem[1:]}' if stem.startswith('.') else stem
    if len(stem.encode()) > LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
        stem = f'{stem.encode()[: LONGEST_NAME - 9].decode(errors="ignore")}-{digest}'
    return stem


def write_picture(path: Path, pixels: 'np.ndarray') -> Path:
    """Write an image with the mark, completely or not at all; return its path.

    Raises:
        InputError: OpenCV cannot encode the image.
        OSError: the file cannot be written.
    """
    content = encode_image(pixels, path.suffix)
    if path.suffix == '.png':
        chunk = b'tEXtComment\0' + MARK
        length, checksum = (number.to_bytes(4, 'big') for number in (len(chunk) - 4, zlib.crc32(chunk)))
        start, mark = 33, length + chunk + checksum  # behind the signature and the header
    else:
        start, mark = 2, b'\xff\xfe' + (len(MARK) + 2).to_bytes(2, 'big') + MARK
    with replacing(path, flush=False) as partial:
        partial.write_bytes(content[:start] + mark + content[start:])
    return path


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture that `write_picture` wrote."""
    try:
        with open_regular(path) as file:
            return MARK in file.read(HEAD)
    except (InputError, OSError):
        return False
