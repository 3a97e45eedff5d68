"""Pictures of predictions."""

import cv2
import numpy as np
import pytest

from repvit_dense.artifact import draw as module
from repvit_dense.artifact.draw import LARGEST, SMALLEST, _is_in_font, _legible, draw
from repvit_dense.artifact.predictor import Predictor

CLASSES = ['cat', 'dog', 'sky']
KINDS = ['detection', 'roi', 'image', 'panoptic', 'semantic']


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(97, 131), (1, 1), (700, 500), (3000, 4)])
def test_every_image_has_a_picture(artifact, image, kind, size):
    pixels = image(*size)
    before = pixels.copy()
    picture = draw(pixels, Predictor(artifact(kind))(pixels).arrays, CLASSES)
    assert np.array_equal(pixels, before)
    assert picture.dtype == np.uint8
    assert picture.shape[0] % size[0] == picture.shape[1] % size[1] == 0
    assert picture.shape[2] == 3


def test_a_mask_is_tinted_in_the_colour_of_its_class():
    """Pixels away from outlines and names are compared, inside and outside the mask."""
    masks = np.zeros((1, 400, 400), bool)
    masks[0, 100:300, 100:300] = True
    arrays = {
        'boxes': np.array([[100, 100, 300, 300]], np.float32),
        'scores': np.array([0.9], np.float32),
        'labels': np.array([1]),
        'masks': masks,
    }
    grey = np.full((400, 400, 3), 100, np.uint8)
    picture = draw(grey, arrays, CLASSES, palette=[[0, 0, 0], [255, 0, 0], [0, 0, 0]])
    blue, green, red = picture[200, 200].astype(int)
    assert red > 150 > 100 > green == blue
    assert picture[350, 350].tolist() == [100] * 3


def test_objects_below_the_score_are_not_drawn():
    arrays = {
        'boxes': np.array([[10, 10, 300, 300]], np.float32),
        'scores': np.array([0.2], np.float32),
        'labels': np.array([0]),
    }
    grey = np.full((400, 400, 3), 100, np.uint8)
    assert np.array_equal(draw(grey, arrays, CLASSES, score=0.3), grey)
    assert not np.array_equal(draw(grey, arrays, CLASSES, score=0.1), grey)


def test_the_colours_of_classes_differ():
    from repvit_dense.artifact.draw import _palette

    colours = np.array(_palette(80))
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(80)
    assert distance.min() > 5


@pytest.mark.parametrize('size', [(1, 1279), (1279, 1), (70_000, 2), (2, 70_000)])
def test_pictures_of_thin_and_huge_images_stay_writable(size):
    """Enlarged to 320 pixels in height, the first would have 400,000 in width; JPEG holds 65,500."""
    seg = np.zeros(size, np.int32)
    picture = draw(np.zeros((*size, 3), np.uint8), {'seg': seg}, CLASSES)
    assert max(picture.shape) <= max(LARGEST, 4 * SMALLEST)
    assert cv2.imencode('.jpg', np.hstack([picture, picture]))[0]


@pytest.mark.parametrize(
    'name, shown',
    [
        ('cat', 'cat'),
        ('two\nlines\tand  more', 'two lines and more'),
        ('bell\a', 'bell\\x07'),
        ('x\udcff', 'x\\udcff'),
        ('\U0001f431', '\\U0001f431'),
        ('x' * 1000, f'{"x" * 17}[...]{"x" * 17}'),
    ],
)
def test_every_name_is_drawn_in_one_legible_line(name, shown):
    assert _legible(name) == shown


def test_characters_that_the_font_lacks_lose_their_accents_or_are_escaped(monkeypatch):
    monkeypatch.setattr(module, '_is_in_font', str.isascii)
    assert _legible('Ba\u0308r Æ 中') == 'Bar \\xc6 \\u4e2d'


def test_opencv_draws_a_question_mark_for_characters_that_its_font_lacks():
    assert not _is_in_font('\ue000')
    assert _is_in_font('?')


def test_boxes_far_outside_the_image_are_drawn():
    arrays = {'boxes': np.array([[-1e30, 10, 1e30, 50]], np.float32), 'labels': np.array([0])}
    grey = np.full((400, 400, 3), 100, np.uint8)
    assert not np.array_equal(draw(grey, arrays, CLASSES), grey)


def test_a_name_that_would_hide_other_objects_is_left_out():
    """The name of the most certain of three small objects in a row covers the second; that of the third is free."""
    image = np.zeros((400, 400, 3), np.uint8)
    boxes = np.array([[100, 100, 112, 112], [115, 88, 125, 98], [300, 300, 312, 312]], np.float32)
    arrays = {'boxes': boxes, 'labels': np.zeros(3, int), 'scores': np.array([0.9, 0.8, 0.7], np.float32)}
    crowded, alone = (
        draw(image, {key: value[rows] for key, value in arrays.items()}, ['nucleus'])
        for rows in (slice(None), slice(0, 1))
    )
    above_first = slice(90, 97), slice(101, 112)
    assert alone[above_first].any()
    assert not crowded[above_first].any()
    assert crowded[288:297, 301:340].any()
