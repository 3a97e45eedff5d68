"""Boxes and polygons of labels: cut off at the border of their image, measured, and written as COCO entries."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CORNERS = 64  # of the polygon that stands for an ellipse
VISIBLE = 0.01  # pixels; a label that exceeds its image by less was only rounded, which is not worth a message


def box_entry(edges: Sequence[float], size: tuple[int, int], counts: Counter) -> dict:
    """Return a COCO entry for a box.

    Args:
        edges: left, top, right and bottom in pixels; they are cut off at the border.
        size: width and height of the image.
        counts: its 'cut' counts the objects that reach outside their image.

    Raises:
        ValueError: the whole box is outside the image, or an edge is further outside than the image is large.
    """
    left, top, right, bottom = _inside(edges, size, counts)
    if (right <= left and edges[2] > edges[0]) or (bottom <= top and edges[3] > edges[1]):
        raise ValueError('the box is outside the image')
    bbox = [round(value, 3) for value in (left, top, right - left, bottom - top)]
    return {'bbox': bbox, 'area': (right - left) * (bottom - top), 'iscrowd': 0}


def polygon_entry(points: Sequence[float], size: tuple[int, int], counts: Counter) -> dict:
    """Return a COCO entry for a polygon x1 y1 x2 y2 ... in pixels; its box encloses it. See `box_entry`."""
    points = [round(value, 3) for value in _inside(points, size, counts)]
    left, top, right, bottom = edges_around(points)
    bbox = [round(value, 3) for value in (left, top, right - left, bottom - top)]
    return {'bbox': bbox, 'area': polygon_area(points), 'segmentation': [points], 'iscrowd': 0}


def mask_entry(pixels: 'np.ndarray', corner: Sequence[int], size: tuple[int, int], counts: Counter) -> dict:
    """Return a COCO entry for a binary mask `(h, w)`, whose first pixel is at `corner` (x, y) of the image."""
    import numpy as np

    from repvit_dense.data.reading import run_lengths

    (left, top), (width, height) = corner, size
    rows, columns = np.nonzero(pixels)
    inside = (rows >= -top) & (rows < height - top) & (columns >= -left) & (columns < width - left)
    counts['cut'] += not inside.all()
    rows, columns = rows[inside] + top, columns[inside] + left
    if not len(rows):
        raise ValueError('the mask is empty' if inside.all() else 'the mask is outside the image')
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    x, y = int(columns.min()), int(rows.min())
    bbox = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
    return {'bbox': bbox, 'area': len(rows), 'segmentation': run_lengths(mask), 'iscrowd': 0}


def ellipse(centre: Sequence[float], radii: Sequence[float], radians: float = 0.0) -> list[float]:
    """Return a polygon x1 y1 x2 y2 ... that stands for an ellipse."""
    angles = [2 * math.pi * number / CORNERS for number in range(CORNERS)]
    points = [x for a in angles for x in (centre[0] + radii[0] * math.cos(a), centre[1] + radii[1] * math.sin(a))]
    return rotated(points, centre, radians)


def rotated(points: Sequence[float], centre: Sequence[float], radians: float) -> list[float]:
    """Return the points x1 y1 x2 y2 ... turned around a centre, clockwise in the image."""
    cos, sin = math.cos(radians), math.sin(radians)
    pairs = [(x - centre[0], y - centre[1]) for x, y in zip(points[::2], points[1::2], strict=True)]
    return [value for x, y in pairs for value in (centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos)]


def edges_around(points: Sequence[float]) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the points x1 y1 x2 y2 ..."""
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def polygon_area(points: Sequence[float]) -> float:
    """Return the area of a polygon x1 y1 x2 y2 ... by the shoelace formula."""
    xs, ys = points[::2], points[1::2]
    corners = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in corners)) / 2


def wrong_size(stated: Sequence[object], size: tuple[int, int]) -> str:
    """Return the fault of labels for an image of another size; none if the stated numbers are 0, missing or equal."""
    shown = ['' if number is None else str(number).strip() for number in stated]
    try:
        if all(text == '' or float(text) in (0, number) for text, number in zip(shown, size, strict=True)):
            return ''
    except ValueError:
        pass
    wrong = f'is for an image of {"x".join(shown)} pixels, but the image has {size[0]}x{size[1]}'
    return f'{wrong}; was it resized or rotated after it was annotated?'


def _inside(points: Sequence[float], size: tuple[int, int], counts: Counter) -> list[float]:
    """Return alternating x and y, cut off at the border of the image."""
    outside = False
    for axis, length in enumerate(size):
        least, most = min(points[axis::2]), max(points[axis::2])
        if least < -length or most > 2 * length:
            raise ValueError('a coordinate is far outside the image')
        outside |= least < 0 or most > length
    if not outside:
        return list(points)
    inside = [min(max(value, 0), size[index % 2]) for index, value in enumerate(points)]
    counts['cut'] += any(abs(a - b) > VISIBLE for a, b in zip(inside, points, strict=True))
    return inside
