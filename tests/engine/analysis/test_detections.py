"""Thresholds, confusions and worst images of a detector."""

import json

import numpy as np
import pytest

from repvit_dense.compat.coco_metric import dense_coco_metric
from repvit_dense.engine.analysis import thresholds
from repvit_dense.engine.analysis.detections import Matches
from repvit_dense.engine.analysis.worst import Worst
from tests.compat.scoring import names
from tools.pages import coco_evaluation


@pytest.fixture
def evaluate(tmp_path):
    """Return `evaluate(truth, results)`: the evaluations of a metric, by kind."""

    def run(truth, results, kinds=('bbox',)):
        (tmp_path / 'truth.json').write_text(json.dumps(truth))
        metric = dense_coco_metric(ann_file=str(tmp_path / 'truth.json'), metric=list(kinds))
        metric.dataset_meta = {'classes': names(truth)}
        metric.compute_metrics(results)
        return metric.evaluations

    return run


@pytest.fixture
def known(evaluate):
    """Evaluate two images: a cat found, a dog taken for a cat, a cat missed; then a dog found, and a false cat."""
    size = {'height': 100, 'width': 100}
    objects = [(7, 1, [0, 0, 20, 20]), (7, 2, [40, 0, 20, 20]), (7, 1, [0, 40, 20, 20]), (9, 2, [0, 0, 30, 30])]
    truth = {
        'images': [{'id': number, 'file_name': '', **size} for number in (7, 9)],
        'categories': [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}],
        'annotations': [
            {'id': number, 'image_id': image, 'category_id': category, 'bbox': box, 'area': 400, 'iscrowd': 0}
            for number, (image, category, box) in enumerate(objects, 1)
        ],
    }
    found = {
        7: ([[0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60]], [0.9, 0.8, 0.2], [0, 0, 0]),
        9: ([[0, 0, 30, 30], [60, 60, 90, 90]], [0.7, 0.6], [1, 0]),
    }
    results = [
        ({}, {'img_id': image, **dict(zip(('bboxes', 'scores', 'labels'), map(np.array, parts), strict=True))})
        for image, parts in found.items()
    ]
    return evaluate(truth, results)['bbox']


def test_objects_are_confused_missed_and_false(known):
    matrix = Matches(known, 0.5).confusion(['cat', 'dog'], 'box')
    assert matrix.counts.tolist() == [[1, 0, 1], [1, 1, 0], [1, 0, 0]]
    assert Matches(known, 0.1).confusion(['cat', 'dog'], 'box').counts.tolist() == [[2, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_a_detection_of_a_crowd_is_not_in_the_confusion_matrix(known):
    known.annotations.anns[2] |= {'iscrowd': 1, 'category_id': 1}
    known.annotations._truths.clear()
    assert Matches(known, 0.5).confusion(['cat', 'dog'], 'box').counts.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_the_image_with_the_most_errors_is_the_worst(known):
    worst = Worst()
    Matches(known, 0.5).rank(worst, {7: 'a.jpg', 9: 'b.jpg'})
    assert [(image.path, image.text) for image in worst.images()] == [
        ('a.jpg', '2 missed, 1 false'),
        ('b.jpg', '1 false'),
    ]
    truth, found = worst.images()[0].sides
    assert truth['boxes'].tolist() == [[0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60]]
    assert truth['labels'].tolist() == [0, 1, 0]
    assert found['boxes'].tolist() == [[0, 0, 20, 20], [40, 0, 60, 20]]
    assert found['scores'].tolist() == [0.9, 0.8]


def test_the_best_threshold_separates_true_and_false(known):
    """Cats: two found at 0.9 and 0.2, false at 0.8 and 0.6; the dog that is found at 0.7 is one of two."""
    lines = thresholds.curves(known)
    values = thresholds.columns(lines, 2)
    assert {name: value[0] for name, value in values.items()} == pytest.approx(
        {'F1': 2 / 3, 'at score': 0.9, 'precision': 1, 'recall': 0.5}
    )
    assert values['F1'][1] == pytest.approx(2 / 3)
    assert lines[0].f1(np.array([0.95, 0.85, 0.7, 0.5, 0.2, 0.1])) == pytest.approx(
        [0, 2 / 3, 1 / 2, 2 / 5, 2 / 3, 2 / 3]
    )
    score, f1 = thresholds.best_threshold(lines)
    assert score <= 0.2
    assert f1 == pytest.approx(2 / 3)


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_f1_is_that_of_the_matches_at_each_threshold(evaluate, tmp_path, kind):
    truth, results = coco_evaluation.draw(images=12, objects=9, classes=3, seed=0)
    for number in (0, 5, 9):
        truth['annotations'][number]['iscrowd'] = 1
    evaluation = evaluate(truth, results, [kind])[kind]
    lines = thresholds.curves(evaluation)
    for threshold in (0.3, 0.85, 0.95):
        images = Matches(evaluation, threshold).engine.image_diagnostics(iou_thr=0.5, score_thr=2)['img_summary']
        true, false, missed = (sum(image[name] for image in images.values()) for name in ('tp', 'fp', 'fn'))
        count = sum(np.sum(line.scores >= threshold) for line in lines)
        assert (count, sum(line.objects for line in lines)) == (true + false, true + missed)
        assert sum(line.true[np.sum(line.scores >= threshold)] for line in lines) == true
    best = np.mean(thresholds.columns(lines, 3)['F1'])
    assert best == pytest.approx(evaluation.engine.f_scores()['F1_50'], abs=0.03)  # that of COCO's coarse curve
    thresholds.draw(lines, names(truth), tmp_path / f'{kind}.png', kind)


def test_masks_are_drawn_as_they_were_evaluated(evaluate):
    truth, results = coco_evaluation.draw(images=2, objects=3, classes=2, seed=0)
    worst = Worst()
    Matches(evaluate(truth, results, ['segm'])['segm'], 0.0).rank(worst, {1: 'a', 2: 'b'})
    for side in worst.images()[0].sides:
        assert len(side['masks']) == len(side['boxes']) == len(side['labels']) > 0
        left, top, right, bottom = side['boxes'][0].round().astype(int)
        rows, columns = np.nonzero(side['masks'][0])
        assert (
            abs(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - (left, top, right, bottom)).max()
            <= 2
        )


def test_a_class_without_objects_has_no_threshold(evaluate):
    truth, results = coco_evaluation.draw(images=3, objects=3, classes=3, seed=0)
    truth['annotations'] = [each for each in truth['annotations'] if each['category_id'] != 2]
    lines = thresholds.curves(evaluate(truth, results)['bbox'])
    assert [line.label for line in lines] == [0, 2]
    assert thresholds.columns(lines, 3)['F1'][1] is None
