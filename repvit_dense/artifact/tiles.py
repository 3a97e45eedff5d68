"""Predict large images in overlapping tiles, and merge the results across the seams.

Objects: two tiles see the same object if their detections have the same class and agree inside the area that both
tiles see: the parts of their boxes there have an IoU of at least `AGREEMENT`. A detection that ends at the edge of its
tile is also the same as one of another tile that covers at least `COVERED` of it. Each side of the merged box is that
of the best detection which does not end at a tile's edge there; the score is the best one; masks are united.

Classes of pixels: each pixel is taken from the tile that sees most around it, so seams lie in the middle of overlaps.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from repvit_dense.artifact.predictor import ImageModel
from repvit_dense.artifact.selection import overlaps
from repvit_dense.errors import InputError

AGREEMENT, COVERED = 0.5, 0.7
GROWTH = 1 / 32  # of a tile: a detection goes on so far, at least, beyond the edge at which it ends
MARGIN = 1 / 64  # of a tile: a box that is as close to its edge ends there

Window = tuple[int, int, int, int]  # x1 y1 x2 y2 in pixels of the image


class Patch(NamedTuple):
    """The part of a mask that holds its pixels, and its left upper corner in the image."""

    left: int
    top: int
    pixels: np.ndarray


class Tiled(ImageModel):
    """A model that predicts tiles of images.

    Args:
        model: predicts the tiles, each as an image of its own.
        tile: height and width of a tile in pixels; an image that is not larger is one tile.
        overlap: share of a tile that the next one overlaps, at least.

    Raises:
        InputError: the model is panoptic: its segments cannot be merged across seams.
    """

    def __init__(self, model: ImageModel, tile: int, overlap: float = 0.2):
        if model.task == 'panoptic':
            raise InputError(f'--tile: {model.title} is panoptic, and segments cannot be merged across tiles')
        self.model, self.tile, self.overlap = model, tile, overlap
        self.names, self.palette, self.title, self.task = model.names, model.palette, model.title, model.task
        self.selection, self.clock = model.selection, model.clock

    def __repr__(self) -> str:
        return f'Tiled({self.model!r}, {self.tile}, {self.overlap})'

    @property
    def annotations(self) -> list[Path]:
        """Those of the model."""
        return self.model.annotations

    def export(self, *formats: str, **settings: Any) -> Any:
        """Export the model; an artifact predicts tiles as a model does, if it is loaded with `tile`."""
        return self.model.export(*formats, **settings)

    def _push(self, *settings: Any) -> str:
        return self.model._push(*settings)

    def _predict(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        return [self._predict_image(image) for image in images]

    def _predict_image(self, image: np.ndarray) -> dict[str, Any]:
        height, width = image.shape[:2]
        spans = [_spans(side, self.tile, self.overlap) for side in (height, width)]
        windows = [(left, top, right, bottom) for top, bottom in spans[0] for left, right in spans[1]]
        if len(windows) == 1:
            return self.model._predict([image])[0]
        results = self._predict_tiles(image, windows)
        if self.task == 'semantic':
            return {'seg': _join_class_maps(results, spans, (height, width))}
        boxes, scores, labels, tiles, patches = [], [], [], [], []
        for number, (window, fields) in enumerate(zip(windows, results, strict=True)):
            finite = np.isfinite(fields['boxes']).all(1) & np.isfinite(fields['scores'])
            chosen = self.selection.rows(fields)
            for row in chosen[finite[chosen]]:
                boxes.append(fields['boxes'][row] + np.array(window[:2] * 2, np.float32))
                scores.append(fields['scores'][row])
                labels.append(fields['labels'][row])
                tiles.append(number)
                if 'masks' in fields:
                    patches.append(_patch(fields['masks'][row], window))
        found = {
            'boxes': np.array(boxes, np.float32).reshape(-1, 4),
            'scores': np.array(scores, np.float32),
            'labels': np.array(labels, int),
        }
        with self.clock('post-processing'):
            return self._merge(found, np.array(tiles, int), patches, windows, (height, width))

    def _predict_tiles(self, image: np.ndarray, windows: list[Window]) -> Iterator[dict[str, Any]]:
        """Yield the results of the tiles; those of one batch are in memory."""
        for start in range(0, len(windows), self.model.batch_size):
            chunk = windows[start : start + self.model.batch_size]
            yield from self.model._predict([np.ascontiguousarray(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in chunk])

    def _merge(
        self,
        found: dict[str, np.ndarray],
        tiles: np.ndarray,
        patches: list[Patch],
        windows: list[Window],
        image_hw: tuple[int, int],
    ) -> dict[str, Any]:
        """Return the objects of the image, by falling score."""
        areas = np.array(windows, np.float32)
        cut = _cut_sides(found['boxes'], areas[tiles], image_hw, self.tile * MARGIN)
        groups = _group(found['boxes'], found['labels'], tiles, areas, cut)
        groups.sort(key=lambda rows: -found['scores'][rows].max())
        best = np.array([rows[np.argmax(found['scores'][rows])] for rows in groups], int)
        merged = {name: values[best] for name, values in found.items()}
        for box, rows in zip(merged['boxes'], groups, strict=True):
            box[:] = _merge_boxes(found['boxes'][rows], found['scores'][rows], cut[rows])
        chosen = self.selection.rows(merged)
        merged = {name: values[chosen] for name, values in merged.items()}
        if patches:  # pages that stay zero take no memory
            merged['masks'] = np.zeros((len(chosen), *image_hw), bool)
            for mask, number in zip(merged['masks'], chosen, strict=True):
                for left, top, pixels in (patches[row] for row in groups[number]):
                    mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] |= pixels
        elif self.task == 'instance':
            merged['masks'] = np.zeros((0, *image_hw), bool)
        return merged


def _spans(side: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """Return the begin and end of the tiles along a side, at equal distances."""
    if side <= tile:
        return [(0, side)]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(side - tile) // step) + 1
    return [(start, start + tile) for start in np.linspace(0, side - tile, count).round().astype(int).tolist()]


def _patch(mask: np.ndarray, window: Window) -> Patch:
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return Patch(window[0] + left, window[1] + top, mask[top : top + height, left : left + width].copy())


def _join_class_maps(results: Iterator[dict], spans: list[list[tuple[int, int]]], image_hw: tuple) -> np.ndarray:
    """Return the class map of the image; every pixel is that of the tile which sees most around it."""
    joined = np.zeros(image_hw, np.int32)
    for y, top, bottom in _parts(spans[0]):
        for x, left, right in _parts(spans[1]):
            joined[top:bottom, left:right] = next(results)['seg'][top - y : bottom - y, left - x : right - x]
    return joined


def _parts(spans: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return the begin of every tile, and the begin and end of its part of the image: overlaps are halved."""
    seams = [(end + begin) // 2 for (_, end), (begin, _) in pairwise(spans)]
    limits = [0, *seams, spans[-1][1]]
    return [(begin, *limit) for (begin, _), limit in zip(spans, pairwise(limits), strict=True)]


def _cut_sides(boxes: np.ndarray, areas: np.ndarray, image_hw: tuple[int, int], margin: float) -> np.ndarray:
    """Return `(N, 4)` bool: which sides of boxes end at the edge of their tile, inside the image."""
    inner = np.array([0, 0, *image_hw[::-1]], np.float32) != areas
    return inner & (np.abs(boxes - areas) <= margin)


def _group(
    boxes: np.ndarray, labels: np.ndarray, tiles: np.ndarray, areas: np.ndarray, cut: np.ndarray
) -> list[np.ndarray]:
    """Return the rows of each object."""
    parents = np.arange(len(boxes))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = row = parents[parents[row]]
        return row

    members = {int(tile): np.flatnonzero(tiles == tile) for tile in np.unique(tiles)}
    shared, _, _ = overlaps(areas, areas)
    for first, rows in members.items():
        for second in np.flatnonzero(shared[first] > 0).tolist():
            if second <= first or second not in members:
                continue
            for row, other in _same(boxes, labels, rows, members[second], areas[[first, second]], cut):
                parents[root(row)] = root(other)
    roots = np.array([root(row) for row in range(len(boxes))], int)
    return [np.flatnonzero(roots == number) for number in np.unique(roots)]


def _same(
    boxes: np.ndarray, labels: np.ndarray, rows: np.ndarray, others: np.ndarray, areas: np.ndarray, cut: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows, of two tiles, that are the same object."""
    same_class = labels[rows][:, None] == labels[others][None]
    low, high = areas[:, :2].max(0), areas[:, 2:].min(0)
    clipped = [np.clip(boxes[each], [*low, *low], [*high, *high]) for each in (rows, others)]
    shared, one, two = overlaps(*clipped)
    agreement = np.where(same_class, shared / np.maximum(one + two - shared, 1e-6), 0)
    while agreement.size and agreement.max() >= AGREEMENT:
        i, j = divmod(int(agreement.argmax()), len(others))
        yield int(rows[i]), int(others[j])
        agreement[i], agreement[:, j] = 0, 0
    growth = cut * np.array([-1, -1, 1, 1], np.float32) * GROWTH * (areas[0, 2] - areas[0, 0])
    inside = _lie_inside(boxes, growth, rows, others, cut) | _lie_inside(boxes, growth, others, rows, cut).T
    for i, j in np.argwhere(same_class & inside):
        yield int(rows[i]), int(others[j])


def _lie_inside(
    boxes: np.ndarray, growth: np.ndarray, rows: np.ndarray, others: np.ndarray, cut: np.ndarray
) -> np.ndarray:
    """Return `(len(rows), len(others))` bool: boxes that end at the edge of a tile, and go on into boxes of another."""
    shared, areas, _ = overlaps(boxes[rows] + growth[rows], boxes[others])
    return cut[rows].any(1)[:, None] & (shared >= COVERED * areas) & (shared > 0)


def _merge_boxes(boxes: np.ndarray, scores: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Return one box: each side is the best one that is not cut, else the outermost."""
    outermost = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    certainty = np.where(cut, -1, scores[:, None])
    best = boxes[certainty.argmax(0), np.arange(4)]
    return np.where(cut.all(0), outermost, best)
