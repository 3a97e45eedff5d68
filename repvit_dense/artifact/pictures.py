"""Name and write the pictures of a run, so that none replaces another picture or a file of the user.

Pictures carry a mark. A later run replaces marked files only, and does not mistake them for images to predict.
"""

import hashlib
import os
import re
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
PICTURE, SEGMENTS, VIDEO = '.jpg', '.segments.png', '.mp4'
LONGEST_NAME = 200  # bytes; file systems allow 255, with the suffix and a number


def output_names(paths: Sequence[Path], folder: Path, videos: Sequence[bool] = ()) -> list[str]:
    """Return a name per image for its files in an existing folder, without suffix: the stem of the image.

    The name is numbered if another image of the run has it, in upper or lower case, or if a file in the folder has it
    that is an image of this run or not a picture of an earlier one. No image has the name of a frame, such as
    `clip-000012`.

    Args:
        paths: images and videos.
        folder: an existing folder.
        videos: whether each is a video, whose files are others; default: none is.
    """
    present = {_fold(name): folder / name for name in os.listdir(folder)}  # noqa: PTH208  names suffice
    inputs = {os.path.realpath(path) for path in paths}
    used: set[str] = set()
    clips: set[str] = set()  # names of videos
    counts: dict[str, int] = {}

    def is_free(name: str, suffixes: Sequence[str]) -> bool:
        files = [present.get(_fold(name + suffix)) for suffix in suffixes]
        kept = (file for file in files if file and not (is_picture(file) and os.path.realpath(file) not in inputs))
        frame = re.fullmatch(r'(.+)-\d{6,}', _fold(name), re.DOTALL)
        return _fold(name) not in used and not (frame and frame[1] in clips) and not any(kept)

    names = [''] * len(paths)
    for index in sorted(range(len(paths)), key=lambda index: not (videos and videos[index])):  # videos first
        stem = _safe_stem(paths[index])
        is_video = bool(videos) and videos[index]
        suffixes = [VIDEO] if is_video else [PICTURE, SEGMENTS]
        number = counts.get(_fold(stem), 0) + 1
        while not is_free(name := stem if number == 1 else f'{stem}-{number}', suffixes):
            number += 1
        counts[_fold(stem)] = number
        used.add(_fold(name))
        if is_video:
            clips.add(_fold(name))
        names[index] = name
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


def safe_name(name: str) -> str:
    """Return a class name as a file or folder name: printable, without separators, not hidden and not too long."""
    return _safe_stem(Path(''.join('_' if c in '/\\:*?"<>|' else c for c in name) + '.x')).rstrip('. ') or '_'


def free_path(path: Path, inputs: set[str]) -> Path:
    """Return a path that may be written: it is numbered while an input or a file that is no picture has it."""
    stem, number = path.stem, 1
    while os.path.lexists(path) and (not is_picture(path) or os.path.realpath(path) in inputs):
        number += 1
        path = path.with_name(f'{stem}-{number}{path.suffix}')
    return path


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


def mark_video(path: Path) -> None:
    """Append the mark to an MP4 file, as a box of free space that players skip."""
    with path.open('ab') as file:
        file.write((len(MARK) + 8).to_bytes(4, 'big') + b'free' + MARK)


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture that `write_picture` wrote, or a video with the mark."""
    try:
        with open_regular(path) as file:
            if path.suffix != VIDEO:
                return MARK in file.read(HEAD)
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(MARK)))
            return file.read() == MARK
    except (InputError, OSError):
        return False
