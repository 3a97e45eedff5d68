"""Test the pictures of predictions: their cells, and that no photograph is shown without a licence."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from repvit_dense.errors import InputError
from tools.pages import results_pictures
from tools.pages.results_table import TRAININGS

HEIGHT = 250 + results_pictures.GAP  # of a row with images of 480x400
TABLE = {training.name: training for training in TRAININGS}


@pytest.fixture
def sample(tmp_path):
    """Return a data sample of mmseg, whose photograph is blue, with labels 0 and prediction 1."""
    path = tmp_path / 'photo.png'
    cv2.imwrite(str(path), np.full((400, 480, 3), (255, 0, 0), np.uint8))
    maps = {f'{kind}_sem_seg': SimpleNamespace(values=list) for kind in ('gt', 'pred')}
    for label, part in enumerate(maps.values()):
        part.values = lambda label=label: iter([torch.full((1, 400, 480), label)])

    class Sample(SimpleNamespace):
        def get(self, name):
            return getattr(self, name, None)

    return Sample(img_path=str(path), **maps)


def draw(name, sample, tmp_path, monkeypatch, count=4):
    monkeypatch.chdir(tmp_path)
    samples = [(sample, ['grass', 'sea'], [(0, 255, 0), (255, 0, 0)])] * count
    monkeypatch.setattr(results_pictures, 'predictions', lambda training, folder: samples)
    path = results_pictures.write(TABLE[name], tmp_path)
    assert path.stat().st_size <= results_pictures.LARGEST
    return path.name, cv2.imread(str(path)).astype(int)


def test_photograph_labels_and_prediction_are_side_by_side(sample, tmp_path, monkeypatch):
    name, picture = draw('nuclei-lite0', sample, tmp_path, monkeypatch)
    step = results_pictures.SIDE + results_pictures.GAP
    assert name == 'results-nuclei.jpg' and picture.shape == (4 * HEIGHT, 3 * step - 4, 3)
    photo, labels, prediction = (picture[60, i * step + 60] for i in range(3))
    assert np.abs(photo - (255, 0, 0)).max() < 20
    assert labels[1] > 90 > labels[2] and prediction[2] > 90 > prediction[1]  # green, red


def test_photographs_without_licence_are_not_shown(sample, tmp_path, monkeypatch):
    name, picture = draw('camvid-lite0', sample, tmp_path, monkeypatch)
    assert name == 'results-camvid.jpg' and picture.shape == (2 * HEIGHT, 2 * results_pictures.SIDE + 4, 3)
    blue, green, red = picture[60, 60]
    assert red > 240 and abs(blue - green) < 20  # red on white paper, nothing of the blue photograph


def test_masks_of_a_single_class_are_outlined_above_the_threshold():
    masks = np.zeros((2, 400, 400), bool)
    masks[0, 100:200, 100:200] = masks[1, 300:350, 300:350] = True
    sides = {'masks': masks, 'scores': np.array([0.9, 0.1])}
    drawn = results_pictures.outline(np.zeros((400, 400, 3), np.uint8), sides, ['nucleus'], [(255, 0, 0)])
    assert drawn[100, 150].tolist() == [0, 0, 255] and not drawn[150, 150].any()
    assert not drawn[250:].any() and not drawn[:90].any()  # no name


def test_an_odd_number_of_predictions(sample, tmp_path, monkeypatch):
    _, picture = draw('camvid-lite0', sample, tmp_path, monkeypatch, count=3)
    assert picture.shape[:2] == (2 * HEIGHT, 2 * results_pictures.SIDE + 4)
    assert picture[-100:, -100:].min() > 240


def test_a_picture_that_stays_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(results_pictures, 'LARGEST', 100)
    with pytest.raises(InputError, match='more than 100 bytes at any quality'):
        results_pictures.encode(np.zeros((64, 64, 3), np.uint8))
