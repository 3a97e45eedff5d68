"""Boxes and polygons of labels: cut off at the border of their image, measured, and written as COCO entries."""

from collections import Counter
from collections.abc import Sequence

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
    xs, ys = points[::2], points[1::2]
    bbox = [round(value, 3) for value in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))]
    return {'bbox': bbox, 'area': polygon_area(points), 'segmentation': [points], 'iscrowd': 0}


def polygon_area(points: Sequence[float]) -> float:
    """Return the area of a polygon x1 y1 x2 y2 ... by the shoelace formula."""
    xs, ys = points[::2], points[1::2]
    corners = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in corners)) / 2


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
