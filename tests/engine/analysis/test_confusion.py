"""The confusion matrix as table and picture."""

import csv

import cv2
import numpy as np
import pytest

from repvit_dense.engine.analysis.confusion import Confusion, draw, write_csv


@pytest.fixture
def matrix():
    counts = np.array([[8, 0, 2, 0], [3, 5, 0, 2], [0, 0, 0, 0], [1, 0, 4, 0]])
    return Confusion(counts, ['cat', 'dog, brown', '$x^$'], 'objects at box IoU 0.5')


def test_the_table_has_the_counts_of_true_and_predicted_classes(matrix, tmp_path):
    write_csv(matrix, tmp_path / 'a.csv')
    rows = list(csv.reader((tmp_path / 'a.csv').read_text().splitlines()))
    assert rows[0][1:] == ['cat', 'dog, brown', '$x^$', 'background']
    assert rows[2] == ['dog, brown', '3', '5', '0', '2']


def test_pairs_are_ordered_by_count(matrix):
    assert matrix.pairs()[:2] == [('background', '$x^$', 4, 0.8), ('dog, brown', 'cat', 3, 0.3)]
    assert len(matrix.pairs()) == 5


def test_a_perfect_result_has_no_confused_pairs(tmp_path):
    matrix = Confusion(np.eye(40, dtype=int), [f'class {i}' for i in range(40)], 'pixels')
    assert matrix.pairs() == []
    draw(matrix, tmp_path / 'a.png')


@pytest.mark.parametrize('classes', [3, 150])
def test_the_picture_grows_with_few_classes_only(tmp_path, classes):
    counts = np.random.default_rng(0).integers(0, 9, (classes + 1, classes + 1))
    draw(Confusion(counts, [f'class {i}' for i in range(classes)], 'pixels'), tmp_path / 'a.png')
    height, width = cv2.imread(str(tmp_path / 'a.png')).shape[:2]
    assert 400 <= height <= 1000 and 500 <= width <= 1600


def test_the_picture_needs_no_names_that_the_font_has(matrix, tmp_path, recwarn):
    matrix.names = ['猫', 'a' * 500, '\x1b[31m']
    draw(matrix, tmp_path / 'a.png')
    assert not recwarn.list
