import cv2
import numpy as np
import pytest

from repvit_dense.data.shapes import drawing
from repvit_dense.data.shapes.drawing import STUFF_CLASSES, THING_CLASSES, draw


@pytest.mark.parametrize('size', [(320, 320), (64, 64), (100, 333), (400, 64)])
def test_arrays_of_a_sample(size):
    for seed in range(20):
        sample = draw(np.random.default_rng(seed), size)
        assert sample.image.shape == (*size, 3)
        assert sample.instances.shape == sample.stuff.shape == size
        assert sample.image.dtype == sample.instances.dtype == sample.stuff.dtype == np.uint8
        assert sample.labels.dtype == np.int64
        assert 1 <= len(sample.labels) <= drawing.OBJECTS[1]
        assert set(np.unique(sample.instances)) - {0} == set(range(1, len(sample.labels) + 1))
        assert set(sample.labels) <= set(range(len(THING_CLASSES)))
        assert set(np.unique(sample.stuff)) <= set(range(len(STUFF_CLASSES)))


def test_the_same_generator_state_draws_the_same_sample():
    first, second, other = (draw(np.random.default_rng(seed), (96, 96)) for seed in (5, 5, 6))
    for field in ('image', 'instances', 'labels', 'stuff'):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
    assert (first.image != other.image).any()


@pytest.mark.parametrize('name', THING_CLASSES)
def test_the_area_of_an_outline_is_its_number_of_pixels(name):
    """Holes do not count. The area is the same if the image border cuts the object."""
    contours = drawing._outlines()[name]
    inside, area = drawing._rasterize(contours, 100, 0.7, np.array([100, 100]), 200, 200)
    assert (inside >= 128).sum() == pytest.approx(area, rel=0.02)
    cut, area_of_cut = drawing._rasterize(contours, 100, 0.7, np.array([0, 100]), 200, 200)
    assert area_of_cut == pytest.approx(area)
    assert 0 < (cut >= 128).sum() < 0.9 * area


def test_enough_of_every_object_is_visible():
    """Masks are parts of the outlines, with later objects on top."""
    for seed in range(30):
        _, coverages, masks = drawing._place(np.random.default_rng(seed), 320, 320, 1.0)
        hidden = np.zeros((320, 320), bool)
        for coverage, mask in zip(reversed(coverages), reversed(masks), strict=True):
            np.testing.assert_array_equal(mask, (coverage >= 128) & ~hidden)
            # The filled outline is up to 7% larger than its area.
            assert mask.sum() >= drawing.MIN_VISIBLE * (coverage >= 128).sum() * 0.93
            hidden |= mask


def test_objects_contrast_with_their_surroundings():
    contrasts = []
    for seed in range(20):
        sample = draw(np.random.default_rng(seed))
        lab = cv2.cvtColor(sample.image.astype(np.float32) / 255, cv2.COLOR_BGR2LAB)
        for index in range(len(sample.labels)):
            mask = (sample.instances == index + 1).astype(np.uint8)
            kernel = np.ones((5, 5), np.uint8)
            inner = lab[(mask - cv2.erode(mask, kernel, borderValue=1)) > 0].mean(0)
            outer = lab[(cv2.dilate(mask, kernel) - mask) > 0]
            contrasts.append(np.median(np.linalg.norm(outer - inner, axis=1)))
    assert np.percentile(contrasts, 5) > 25  # in Lab a difference of 2 is just visible
