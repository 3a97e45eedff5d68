"""Keep the worst images of a test, and draw each of them: ground truth beside prediction."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from repvit_dense.artifact.draw import draw
from repvit_dense.artifact.images import read_image, warn
from repvit_dense.artifact.pictures import PICTURE, output_names, write_picture
from repvit_dense.engine.pictures import side_by_side

LIMIT = 20  # images


@dataclass(order=True)
class Bad:
    """An image with errors.

    Attributes:
        badness: the higher, the worse.
        order: makes images of the same badness comparable; the first is the worst.
        path: file of the image.
        text: the errors in words.
        sides: ground truth and prediction, as fields of a `Result`.
    """

    badness: float
    order: int
    path: str = field(compare=False)
    text: str = field(compare=False)
    sides: tuple[dict[str, Any], dict[str, Any]] = field(compare=False)


class Worst:
    """The images with the most errors; it holds predictions of no more than `LIMIT` images."""

    def __init__(self) -> None:
        self._heap: list[Bad] = []
        self._number = count()

    def offer(self, badness: float, path: str, text: str, sides: Callable[[], tuple[dict, dict]]) -> None:
        """Keep an image if it has errors and is among the worst; only then `sides` is called."""
        order = -next(self._number)
        if badness <= 0 or (len(self._heap) == LIMIT and (badness, order) < (self._heap[0].badness, 0)):
            return
        heapq.heappush(self._heap, Bad(badness, order, path, text, sides()))
        if len(self._heap) > LIMIT:
            heapq.heappop(self._heap)

    def images(self) -> list[Bad]:
        """Return the images, the worst first."""
        return sorted(self._heap, reverse=True)


def draw_images(
    images: Sequence[Bad], folder: Path, names: Sequence[str], palette: Sequence | None, score: float
) -> dict[Path, str]:
    """Draw the images into an existing folder; return the files in the same order, with the image of each.

    An image that cannot be drawn is named and left out.

    Args:
        images: the worst first.
        folder: of the pictures.
        names: class names.
        palette: a colour per class or None.
        score: objects below this score are left out.
    """
    files: dict[Path, str] = {}
    for image, name in zip(images, output_names([Path(each.path) for each in images], folder), strict=True):
        path = folder / (name + PICTURE)
        try:
            pixels = read_image(image.path)
            sides = [draw(pixels, side, names, palette, score) for side in image.sides]
            write_picture(path, side_by_side(sides))
        except Exception as error:
            warn(f'{image.path}: no picture, it cannot be drawn ({type(error).__name__}: {error})')
        else:
            files[path] = image.path
    return files


def describe_objects(missed: int = 0, false: int = 0, confused: int = 0) -> str:
    """Return the errors of an image in words."""
    parts = [(missed, 'missed'), (confused, 'of another class'), (false, 'false')]
    return ', '.join(f'{number} {text}' for number, text in parts if number) or 'no errors'
