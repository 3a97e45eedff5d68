"""Tiles: a model that finds drawn shapes must find each exactly once, wherever the seams are."""

import cv2
import numpy as np
import pytest

from repvit_dense.artifact.predictor import ImageModel
from repvit_dense.artifact.selection import Selection
from repvit_dense.artifact.tiles import Tiled, _parts, _spans
from repvit_dense.errors import InputError


class Shapes(ImageModel):
    """A detector, or segmentor, that finds every connected part of a grey level in a tile; the level is its class."""

    names, palette, title, batch_size = ['black', 'dark', 'light'], None, 'shapes', 3

    def __init__(self, task='instance'):
        self.task = task
        self.sizes = []

    def _predict(self, images):
        self.sizes += [image.shape[:2] for image in images]
        if self.task == 'semantic':
            return [{'seg': image[..., 0].astype(np.int32)} for image in images]
        return [self._objects(image[..., 0]) for image in images]

    def _objects(self, levels):
        masks, labels = np.zeros((0, *levels.shape), bool), []
        for label in (1, 2):
            count, numbers = cv2.connectedComponents((levels == label).astype(np.uint8))
            masks = np.concatenate([masks, [numbers == number for number in range(1, count)] or masks[:0]])
            labels += [label] * (count - 1)
        boxes = [cv2.boundingRect(mask.astype(np.uint8)) for mask in masks]
        boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], np.float32).reshape(-1, 4)
        scores = 0.5 + masks.mean((1, 2)) / 2  # parts are less certain
        fields = {'boxes': boxes, 'scores': scores.astype(np.float32), 'labels': np.array(labels, int)}
        return fields | ({'masks': masks} if self.task == 'instance' else {})


def draw(boxes, size=(300, 400)):
    """Return an image with a filled rectangle per box (x1 y1 x2 y2 label)."""
    image = np.zeros((*size, 3), np.uint8)
    for left, top, right, bottom, label in boxes:
        image[top:bottom, left:right] = label
    return image


def found(result):
    return sorted(
        [*map(round, map(float, box)), int(label)] for box, label in zip(result.boxes, result.labels, strict=True)
    )


@pytest.mark.parametrize('tile, overlap', [(64, 0.05), (64, 0.5), (97, 0.2), (128, 0.75), (250, 0.05)])
def test_every_square_is_found_once_wherever_the_seams_are(tile, overlap):
    """Squares from a few pixels to larger than a tile, two classes side by side, on a jittered grid."""
    rng = np.random.default_rng(tile)
    boxes = []
    for top in (5, 105, 205):
        for left in (5, 105, 205, 305):
            side, y, x = rng.integers(4, 80), *rng.integers(0, 10, 2)
            boxes.append([left + x, top + y, left + x + side, top + y + side, 1 + (left + top) // 100 % 2])
    image = draw(boxes)
    result = Tiled(Shapes(), tile, overlap)(image)
    assert found(result) == sorted(boxes)
    for mask, box in zip(result.masks, result.boxes.astype(int), strict=True):
        assert mask.sum() == mask[box[1] : box[3], box[0] : box[2]].sum() == (box[2] - box[0]) * (box[3] - box[1])


@pytest.mark.parametrize('shift', range(0, 64, 5))
def test_a_square_at_every_position_relative_to_a_seam(shift):
    boxes = [[90 + shift, 70 + shift // 2, 120 + shift, 100 + shift // 2, 1], [10, 200, 380, 220, 2]]
    assert found(Tiled(Shapes('detection'), 128, 0.2)(draw(boxes))) == sorted(boxes)


def test_neighbours_of_the_same_class_in_an_overlap_stay_two():
    boxes = [[100, 100, 112, 112, 1], [114, 100, 126, 112, 1], [100, 114, 112, 126, 1]]
    assert found(Tiled(Shapes('detection'), 128, 0.5)(draw(boxes))) == sorted(boxes)


@pytest.mark.parametrize('size', [(300, 400), (128, 500), (129, 129), (40, 50), (1, 1000)])
def test_class_maps_have_no_seams(size):
    image = np.repeat(np.random.default_rng(0).integers(0, 3, (*size, 1), np.uint8), 3, 2)
    assert np.array_equal(Tiled(Shapes('semantic'), 128, 0.2)(image).seg, image[..., 0])


def test_an_image_that_is_not_larger_than_a_tile_is_predicted_as_it_is():
    model = Shapes()
    Tiled(model, 512)(draw([]))
    assert model.sizes == [(300, 400)]


def test_tiles_have_one_size_and_cover_the_image():
    for side in range(64, 300, 7):
        spans = _spans(side, 64, 0.2)
        assert (spans[0][0], spans[-1][1]) == (0, side)
        assert all(end - begin == 64 for begin, end in spans)
        assert all(end - begin >= 12 for (_, end), (begin, _) in zip(spans, spans[1:], strict=False))
        parts = _parts(spans)
        assert [begin for _, begin, _ in parts[1:]] == [end for _, _, end in parts[:-1]]


def test_only_chosen_objects_are_merged():
    model = Shapes()
    model.selection = Selection(labels=frozenset([2]), max_detections=2)
    boxes = [[10, 10, 200, 40, 1], [10, 60, 200, 100, 2], [10, 120, 390, 220, 2], [10, 230, 60, 240, 2]]
    assert found(Tiled(model, 128, 0.2)(draw(boxes))) == sorted(boxes[1:3])


def test_no_object():
    result = Tiled(Shapes(), 128)(draw([]))
    assert (result.boxes.shape, result.masks.shape) == ((0, 4), (0, 300, 400))


def test_a_panoptic_model_is_refused():
    with pytest.raises(InputError, match='--tile: shapes is panoptic'):
        Tiled(Shapes('panoptic'), 128)
