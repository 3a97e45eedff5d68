"""Find images that are in two splits of the data, which makes the scores too good."""

import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from repvit_dense.data.checks.report import Finding, ImageEntry, findings_of
from repvit_dense.data.source import NOUNS
from repvit_dense.errors import InputError
from repvit_dense.files import open_regular, read_bytes
from repvit_dense.image_header import read_header

COMPARED = 2000  # images of each split whose pixels are compared
THREADS = 8
ENDS = 4096  # bytes at each end of a file that are compared before its whole content is
SIDE = 16  # of the grey thumbnails, in pixels
DEVIATION, SHARE = 4.0, 0.25  # largest deviation of two copies, in levels of 256, and as a share of their contrast
LARGEST = 12.0  # difference in one pixel of the thumbnails, in levels of 256; something that moved makes a larger one
TOO_GOOD = 'the scores will be too good'
FLAT = 2.0  # contrast of a thumbnail that shows nothing to compare, in levels of 256

Pair = tuple[ImageEntry, ImageEntry]  # an image of the second split and that of the first which it equals


def leaks(
    train: Sequence[ImageEntry], val: Sequence[ImageEntry], first: str = 'train', second: str = 'val'
) -> tuple[str, list[Finding]]:
    """Compare the images of two splits; return the extent of the comparison, and the findings.

    The content of all files is compared, and the pixels of `COMPARED` images of each split, the same ones in every run.
    A copy that was resized or compressed again is found. Another frame of the same video is not reported if something
    has moved in it.

    Args:
        train: images of one split, which is trained on for example.
        val: images of another split, which is evaluated.
        first: name of the one split.
        second: name of the other.
    """
    same = same_paths(train, val) + _same_files(train, val)
    findings = finding_of(same, first, second)
    known = {image.path for image, _ in same}
    sides = [train, [image for image in val if image.path not in known]]
    samples = [list(s) if len(s) <= COMPARED else random.Random(0).sample(list(s), COMPARED) for s in sides]
    names = (f'{image.name}: {other.name}' for image, other in _similar(*samples))
    message = f'{{}} {NOUNS[second]} images are nearly the same as a {NOUNS[first]} image, so {TOO_GOOD}'
    findings += findings_of('warning', message, names)
    extent = f'{len(train):,} {NOUNS[first]} images compared with {len(val):,} {NOUNS[second]} images'
    if any(len(chosen) < len(images) for chosen, images in zip(samples, sides, strict=True)):
        extent += f', pixels of {len(samples[0]):,} with {len(samples[1]):,}'
    return extent, findings


def same_paths(train: Sequence[ImageEntry], val: Sequence[ImageEntry]) -> list[Pair]:
    """Return the images of the second split that are the same files as images of the first."""
    paths = {image.path: image for image in train}
    pairs = ((image, paths.get(image.path)) for image in val)
    return [(image, other) for image, other in pairs if other]


def finding_of(pairs: Sequence[Pair], first: str = 'train', second: str = 'val') -> list[Finding]:
    """Return the finding about images of the second split that are in the first."""
    names = (image.name if image.name == other.name else f'{image.name}: {other.name}' for image, other in pairs)
    return findings_of('warning', f'{{}} {NOUNS[second]} images are {NOUNS[first]} images, too, so {TOO_GOOD}', names)


def _same_files(train: Sequence[ImageEntry], val: Sequence[ImageEntry]) -> list[Pair]:
    """Return the images of the second split whose content, but not whose file, is that of one of the first."""
    paths = {image.path for image in train}
    sides = [list(train), [image for image in val if image.path not in paths]]
    keys: list[list[Hashable]] = [[], []]
    for key in (_size, _ends, _content):  # each reads more than the one before, of fewer files
        keys = [_map(key, [image.path for image in side]) for side in sides]
        shared = {*keys[0]} & {*keys[1]} - {None}
        kept = [
            [(k, image) for k, image in zip(*pair, strict=True) if k in shared]
            for pair in zip(keys, sides, strict=True)
        ]
        keys, sides = [[k for k, _ in side] for side in kept], [[image for _, image in side] for side in kept]
    partners = dict(zip(keys[0], sides[0], strict=True))
    return [(image, partners[k]) for k, image in zip(keys[1], sides[1], strict=True)]


def copies(paths: Sequence[str]) -> dict[str, str]:
    """Return path -> the first path with the same content, for all files that have copies."""
    keys: list[Hashable] = [None] * len(paths)
    for key in (_size, _ends, _content):  # each reads more than the one before, of fewer files
        keys = _map(key, list(paths))
        counts = Counter(keys)
        pairs = [(k, path) for k, path in zip(keys, paths, strict=True) if k is not None and counts[k] > 1]
        keys, paths = [k for k, _ in pairs], [path for _, path in pairs]
    first: dict[Hashable, str] = {}
    return {path: first.setdefault(k, path) for k, path in zip(keys, paths, strict=True)}


def _map(function: Callable, paths: list[str]) -> list:
    """Apply a function to files in several threads; None stands for a file that cannot be read."""

    def apply(path: str) -> object:
        try:
            return function(path)
        except (InputError, OSError, ValueError, MemoryError):
            return None

    from tqdm import tqdm

    with ThreadPoolExecutor(THREADS) as pool:
        return list(tqdm(pool.map(apply, paths), 'comparing images', len(paths), delay=2, leave=False, disable=None))


def _size(path: str) -> int:
    return os.stat(path).st_size  # noqa: PTH116


def _ends(path: str) -> bytes:
    with open_regular(path) as file:
        start = file.read(ENDS)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - ENDS))
        return hashlib.sha256(b'%d' % size + start + file.read(ENDS)).digest()


def _content(path: str) -> bytes:
    return hashlib.sha256(read_bytes(path)).digest()


def _similar(train: Sequence[ImageEntry], val: Sequence[ImageEntry]) -> list[Pair]:
    """Return the images of the second split that show the same picture as one of the first."""
    if not train or not val:
        return []
    sides, thumbnails = [], []
    for images in (train, val):
        drawn = [
            (image, pixels)
            for image, pixels in zip(images, _map(_thumbnail, [image.path for image in images]), strict=True)
            if pixels is not None and pixels.std() > FLAT
        ]
        sides.append([image for image, _ in drawn])
        thumbnails.append(np.array([pixels for _, pixels in drawn], np.float32).reshape(-1, SIDE**2))
    first, second = thumbnails
    squares = (second**2).mean(1)[:, None] + (first**2).mean(1) - 2 * second @ first.T / SIDE**2
    limits = np.minimum(DEVIATION, SHARE * second.std(1)) ** 2
    pairs = []
    for row, column in np.argwhere(squares <= limits[:, None]):
        if np.abs(second[row] - first[column]).max() <= LARGEST:
            pairs.append((sides[1][row], sides[0][column]))
    return list({image.path: (image, other) for image, other in reversed(pairs)}.values())[::-1]


def _thumbnail(path: str) -> np.ndarray | None:
    """Return a small grey image `(SIDE * SIDE,)`; a JPEG file is decoded at an eighth of its size if it is large."""
    import cv2

    header = read_header(path)
    factor = next((factor for factor in (8, 4, 2) if min(header.size) >= 4 * SIDE * factor), 1)
    mode = cv2.IMREAD_GRAYSCALE if factor == 1 else getattr(cv2, f'IMREAD_REDUCED_GRAYSCALE_{factor}')
    try:
        pixels = cv2.imdecode(np.frombuffer(read_bytes(path), np.uint8), mode)
    except cv2.error:
        return None
    if pixels is None:
        return None
    return cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
