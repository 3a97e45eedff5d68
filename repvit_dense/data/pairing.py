"""Pair images with label files by their names, wherever both are in a folder."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath

from repvit_dense.data.lookup import DEEPEST, shortened, split_in_folders
from repvit_dense.errors import InputError

KIND = 'images?|imgs?|jpegimages|photos?|pictures?|labels?|annotations?|annots?|anns?|masks?|xmls?|txts?|jsons?'
KIND_WORD = re.compile(f'(^|[-_ ])({KIND})(?=$|[-_ ])', re.IGNORECASE)  # in a folder name, says what the files are
IMAGE_SUFFIX = re.compile(r'\.(bmp|jpe?g|png|tiff?|webp)$', re.IGNORECASE)
UPLOADED = re.compile('(^|/)[0-9a-f]{8}-(?=[^/]*$)')  # Label Studio puts it before the names of uploaded images


def key(path: PurePath) -> str:
    """Return what an image and its label file have in common: `train/a` of `images/train/a.jpg`, `train/labels/a.txt`.

    The path is relative to the data. `a.jpg.json` stands for `a.jpg`.
    """
    folders = (KIND_WORD.sub('', part).strip('-_ ').lower() for part in path.parts[:-1])
    return '/'.join([*filter(None, folders), _stem(path)])


def _stem(path: PurePath) -> str:
    return IMAGE_SUFFIX.sub('', path.stem)


def pair(root: Path, images: Iterable[Path], files: Iterable[Path]) -> dict[Path, Path]:
    """Return image -> label file.

    An image and a file with the same key belong together; else those with the same stem, if there is only one of each
    and their folders do not name different splits.

    Raises:
        InputError: there are two images for a file, or two files for an image.
    """
    by_key: list[dict[str, list[Path]]] = [{}, {}]
    for side, paths in zip(by_key, (images, files), strict=True):
        for path in paths:
            side.setdefault(key(path.relative_to(root)), []).append(path)
    pairs = _matches(root, *by_key)
    by_stem: list[dict[str, list[Path]]] = [{}, {}]
    for side, stems in zip(by_key, by_stem, strict=True):
        for name, paths in side.items():
            if name not in by_key[0] or name not in by_key[1]:
                stems.setdefault(name.rpartition('/')[2], []).extend(paths)
    return pairs | _matches(root, *by_stem)


def _matches(root: Path, images: dict[str, list[Path]], files: dict[str, list[Path]]) -> dict[Path, Path]:
    pairs = {}
    for name in images.keys() & files.keys():
        for paths in (images[name], files[name]):
            if len(paths) > 1:
                first, second = sorted(paths)[:2]
                same = 'the same name but for its suffix' if first.parent == second.parent else 'the same name'
                other = first.name if first.parent == second.parent else first
                raise InputError(f'{second}: {other} has {same}; keep one of them')
        image, file = images[name][0], files[name][0]
        splits = {split_in_folders(path.relative_to(root)) for path in (image, file)}
        if len(splits - {None}) < 2:
            pairs[image] = file
    return pairs


class Names:
    """Finds images by names that were written elsewhere.

    Args:
        root: folder of the data.
        images: the images.
    """

    def __init__(self, root: Path, images: Iterable[Path]):
        self._exact: dict[str, Path | None] = {}
        self._ends: dict[str, Path | None] = {}
        for image in images:
            path = image.relative_to(root)
            for name in (path.as_posix(), path.with_suffix('').as_posix(), key(path), f'{key(path)}{path.suffix}'):
                _add(self._exact, name, image)
            for number in range(len(path.parts)):
                end = PurePosixPath(*path.parts[number:])
                _add(self._ends, end.as_posix(), image)
                _add(self._ends, end.with_suffix('').as_posix(), image)

    def find(self, name: str) -> Path | None:
        """Return the image of this name, relative to the data; or the only one whose path ends with it."""
        return self._exact.get(name) or self._ends.get(name)

    def find_all(self, readings: list[list[str]]) -> tuple[list[Path | None], int]:
        """Return an image or None for each entry of a list, which may be read in several ways.

        If no name is found as it is, they are tried without one, two, ... leading folders; the number is returned.
        """
        for number in range(DEEPEST):
            paths = [next(filter(None, (self.find(shortened(n, number)) for n in names)), None) for names in readings]
            if any(paths):
                return paths, number
        return [None] * len(readings), 0

    def find_end(self, name: str) -> Path | None:
        """Return the only image whose path ends with the most folders of this name, see `UPLOADED`."""
        for text in (name, UPLOADED.sub(r'\1', name.replace('\\', '/'))):
            for number in range(DEEPEST):
                if (path := self.find(shortened(text, number))) is not None:
                    return path
        return None


def _add(names: dict[str, Path | None], name: str, image: Path) -> None:
    """Map a name to an image; one that stands for several is mapped to None."""
    names[name] = image if names.get(name, image) == image else None
