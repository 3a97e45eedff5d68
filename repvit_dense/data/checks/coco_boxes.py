"""Check the boxes and areas of COCO annotations, those of objects and those of panoptic segments."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from repvit_dense.data.checks.report import Finding, findings_of

MARGIN = 1  # pixels by which a box or polygon may exceed its image: annotation tools round outwards
SIMILAR = 0.25  # smallest IoU of a box and the extent of its mask
MOST = 0.8  # share of the objects that decides for all
FACTOR = 4  # by which `area` may differ from the area of the mask or box, which tools compute in several ways


class Objects(NamedTuple):
    """The annotations of listed images, as arrays.

    Attributes:
        entries: the annotations.
        rows: `(N,)` index of each one's image.
        sizes: `(N, 2)` width and height of its image.
        boxes: `(N, 4)` x, y, width, height.
        areas: `(N,)` the given areas.
        crowd: `(N,)` whether it is a crowd, which is no object to learn from.
        ignored: `(N,)` whether it has the mark `ignore`.
        noun: name of an entry in messages.
    """

    entries: list[dict]
    rows: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    noun: str = 'annotation'

    def names(self, chosen: np.ndarray) -> Iterator[str]:
        """Yield names for messages; `chosen` is a boolean array `(N,)`."""
        return (f'{self.noun} {self.entries[i]["id"]}' for i in np.flatnonzero(chosen).tolist())

    def corners(self) -> np.ndarray:
        """Return left, top, right, bottom of the boxes, `(N, 4)`."""
        return np.hstack([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]])


def objects_of(annotations: list[dict], records: list[dict], noun: str = 'annotation') -> Objects:
    """Return the annotations of listed images as arrays.

    Args:
        annotations: complete entries.
        records: complete entries of the images.
        noun: name of an annotation in messages.
    """
    index = {record['id']: row for row, record in enumerate(records)}
    entries = [annotation for annotation in annotations if annotation['image_id'] in index]
    count = len(entries)
    rows = np.fromiter((index[entry['image_id']] for entry in entries), np.int64, count)
    sides = np.array([[record['width'], record['height']] for record in records], np.int64).reshape(-1, 2)
    boxes = np.array([entry['bbox'] for entry in entries], np.float64).reshape(-1, 4)
    areas = np.fromiter((entry['area'] for entry in entries), np.float64, count)
    crowd, ignored = (np.fromiter((bool(e.get(key)) for e in entries), bool, count) for key in ('iscrowd', 'ignore'))
    return Objects(entries, rows, sides[rows], boxes, areas, crowd, ignored, noun)


def box_findings(objects: Objects, extents: np.ndarray | None = None) -> list[Finding]:
    """Find boxes outside their image, and boxes in another form than x, y, width, height.

    Args:
        objects: the objects.
        extents: `(N, 4)` left, top, right, bottom of their masks; NaN for those that are unknown.
    """
    corners, sizes = objects.corners(), objects.sizes
    low, high = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
    far = ((low < -sizes) | (high > 2 * sizes)).any(1)
    outside = ((low < -MARGIN) | (high > sizes + MARGIN)).any(1)
    if _seem_to_be_corners(objects, outside, extents):
        message = 'bbox seems to hold left, top, right, bottom, but must hold x, y, width, height'
        return [Finding('error', message, [])]
    return [
        *findings_of('error', '{} boxes reach outside their image by more than its own size', objects.names(far)),
        *outside_findings('boxes', objects, outside & ~far),
    ]


def outside_findings(name: str, objects: Objects, outside: np.ndarray) -> list[Finding]:
    """Return a finding about boxes or masks that reach outside their image; most of them cannot be meant to.

    Args:
        name: plural noun for them.
        objects: their objects.
        outside: `(N,)` which of them do.
    """
    if 2 * outside.sum() > len(outside):
        message = (
            f'{{}} of {len(outside):,} {name} reach outside their image; were they drawn on images of another size?'
        )
        return findings_of('error', message, objects.names(outside))
    return findings_of('warning', f'{{}} {name} reach outside their image and are cut', objects.names(outside))


def _seem_to_be_corners(objects: Objects, outside: np.ndarray, extents: np.ndarray | None) -> bool:
    """Return whether most boxes may be two corners, and areas, masks or the sizes of the images tell that they are."""
    first, second = objects.boxes[:, :2], objects.boxes[:, 2:]
    possible = ((second > first) & (second <= objects.sizes + MARGIN)).all(1)
    if len(objects.entries) < 2 or possible.mean() < MOST:
        return False
    if outside.mean() > 1 - MOST and outside.sum() > 1:
        return True
    areas = objects.areas[:, None] / np.maximum(np.stack([second.prod(1), (second - first).prod(1)], 1), 1e-9)
    as_size, as_corners = (np.abs(areas - 1) < 0.01).mean(0)
    if extents is not None and (known := np.isfinite(extents).all(1)).any():
        ious = np.stack([iou(extents, objects.corners()), iou(extents, objects.boxes)], 1)
        as_size, as_corners = (ious[known] > MOST).mean(0)
    return bool(as_corners > MOST and as_size < 0.5)


def place_findings(objects: Objects, corners: np.ndarray, areas: np.ndarray) -> list[Finding]:
    """Find masks that do not lie in the box of their object.

    Args:
        objects: the objects.
        corners: `(N, 4)` left, top, right, bottom of the masks.
        areas: `(N,)` areas of the masks; 0 for those that are unknown.
    """
    known = (areas > 0) & (objects.boxes[:, 2:] >= 1).all(1)
    different = known & (iou(corners, objects.corners()) < SIMILAR)
    level = 'error' if 2 * different.sum() > known.sum() else 'warning'
    return findings_of(level, '{} masks do not lie in the box of their object', objects.names(different))


def repeated_objects(objects: Objects) -> list[Finding]:
    """Find objects with the same class and box as another one in their image, such as those of files merged twice."""
    numbers: dict = {}
    labels = [numbers.setdefault(entry['category_id'], len(numbers)) for entry in objects.entries]
    keys = np.column_stack([objects.rows, labels, objects.boxes])
    weights = np.random.default_rng(0).random(keys.shape[1])  # a number for each row is faster to compare than rows
    _, places = np.unique((keys * weights).sum(1), return_index=True)
    repeated = np.ones(len(keys), bool)
    repeated[places] = False
    message = '{} objects have the class and box of another one in their image'
    return findings_of('warning', message, objects.names(repeated))


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the IoU `(N,)` of pairs of boxes given by their corners `(N, 4)`, all enlarged by `MARGIN`."""
    first = np.nan_to_num(first)
    low = np.maximum(first[:, :2], second[:, :2]) - MARGIN
    high = np.minimum(first[:, 2:], second[:, 2:]) + MARGIN
    shared = np.clip(high - low, 0, None).prod(1)
    total = sum((each[:, 2:] - each[:, :2] + 2 * MARGIN).prod(1) for each in (first, second))
    return shared / np.maximum(total - shared, 1)


def area_findings(objects: Objects, measured: np.ndarray | None) -> list[Finding]:
    """Find areas far from those of box and mask; `measured` are the areas of the masks, or None."""
    largest = np.abs(objects.boxes[:, 2:]).prod(1)
    smallest = np.zeros(len(largest)) if measured is None else np.minimum(largest, measured)
    largest = largest if measured is None else np.maximum(largest, measured)
    wrong = (objects.areas > FACTOR * (largest + MARGIN)) | (FACTOR * (objects.areas + MARGIN) < smallest)
    message = '{} areas fit neither box nor mask; the evaluation sorts objects by area into small, medium and large'
    return findings_of('warning', message, objects.names(wrong & (objects.areas > 0)))
