"""Choosing objects by score, class, overlap and number."""

import numpy as np
import pytest

from repvit_dense.artifact.selection import Selection, find_labels
from repvit_dense.errors import InputError

NAMES = ['cat', 'dog', 'traffic light', '7']


@pytest.fixture
def fields():
    """Five objects by falling score: 0, 1 and 2 overlap, 2 has another class."""
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]]
    return {
        'boxes': np.array(boxes, np.float32),
        'scores': np.array([0.9, 0.8, 0.7, 0.6, 0.2], np.float32),
        'labels': np.array([0, 0, 1, 0, 2]),
    }


@pytest.mark.parametrize(
    'settings, rows',
    [
        ({}, [0, 1, 2, 3, 4]),
        ({'score': 0.7}, [0, 1, 2]),
        ({'labels': frozenset([0, 2])}, [0, 1, 3, 4]),
        ({'iou': 0.5}, [0, 2, 3, 4]),
        ({'iou': 0.9}, [0, 1, 2, 3, 4]),
        ({'max_detections': 2}, [0, 1]),
        ({'labels': frozenset([0]), 'iou': 0.5, 'max_detections': 2}, [0, 3]),
        ({'score': 0.95}, []),
    ],
)
def test_objects(fields, settings, rows):
    fields['scores'] = fields['scores'].astype(np.float32)
    chosen = Selection(**settings).apply(fields, 4)
    assert np.array_equal(chosen['boxes'], fields['boxes'][rows])
    assert chosen['labels'].tolist() == fields['labels'][rows].tolist()


def test_the_best_objects_are_chosen_whatever_their_order(fields):
    turned = {name: values[::-1] for name, values in fields.items()}
    assert Selection(max_detections=2).apply(turned, 4)['scores'] == pytest.approx([0.8, 0.9])
    assert Selection(iou=0.5).apply(turned, 4)['scores'] == pytest.approx([0.2, 0.6, 0.7, 0.9])


def test_other_classes_of_a_class_map_have_no_name():
    seg = np.array([[0, 1, 2]], np.int32)
    assert Selection(labels=frozenset([1])).apply({'seg': seg}, 3)['seg'].tolist() == [[255, 1, 255]]


def test_segments_of_other_classes_are_none():
    info = [{'number': 1, 'label': 0}, {'number': 2, 'label': 1}]
    fields = {'segments': np.array([[0, 1, 2]]), 'segment_info': info}
    chosen = Selection(labels=frozenset([1])).apply(fields, 3)
    assert chosen['segments'].tolist() == [[0, 0, 2]]
    assert chosen['segment_info'] == info[1:]


@pytest.mark.parametrize(
    'classes, labels, said',
    [
        (['cat'], {0}, ''),
        (['Dog', 'TRAFFIC LIGHT'], {1, 2}, ''),
        (['1', 2], {1, 2}, "number of the class 'dog'"),
        (['7'], {3}, ''),
    ],
)
def test_classes_have_names_or_numbers(classes, labels, said, capsys):
    assert find_labels(classes, NAMES) == labels
    assert said in capsys.readouterr().err


def test_a_class_called_like_a_number_wins_and_it_is_said(capsys):
    assert find_labels(['1'], ['0', '2', '1']) == {2}
    assert "the class called '1' is meant" in capsys.readouterr().err


@pytest.mark.parametrize(
    'word, message',
    [
        ('dgo', "no class 'dgo'; did you mean 'dog'"),
        ('zebra', 'it has cat, dog'),
        ('4', 'has 4 classes'),
        ('-1', "'-1'"),
    ],
)
def test_a_class_that_does_not_exist(word, message):
    with pytest.raises(InputError, match=message):
        find_labels([word], NAMES)
