"""Scores per class equal those that mmdet and mmseg log for each class."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator

from repvit_dense.compat import panoptic_api
from repvit_dense.compat.coco_metric import dense_coco_metric
from repvit_dense.compat.panoptic_metric import dense_panoptic_metric
from repvit_dense.engine.per_class import observe, rows
from tests.compat.scoring import names
from tools.pages import coco_evaluation


def evaluate(metric, classes, results=None, samples=()):
    """Return scores and rows per class of an evaluation."""
    evaluator = observe(Evaluator([metric]))
    evaluator.dataset_meta = {'classes': classes, 'thing_classes': classes[:1]}
    for sample in samples:
        evaluator.process([sample], {})
    if results is not None:
        metric.results = list(results)
    scores = evaluator.evaluate(len(results if results is not None else samples))
    runner = SimpleNamespace(_test_loop=None, _val_loop=SimpleNamespace(evaluator=evaluator))
    return scores, rows(runner)


@pytest.fixture
def coco(tmp_path):
    """Return `coco(**settings)`: scores and rows of drawn detections. No object has the last class."""
    truth, results = coco_evaluation.draw(images=12, objects=9, classes=3, seed=0)
    truth['annotations'] = [each for each in truth['annotations'] if each['category_id'] != 3]
    truth['annotations'][0]['iscrowd'] = 1
    (tmp_path / 'truth.json').write_text(json.dumps(truth))

    def run(**settings):
        metric = dense_coco_metric(ann_file=str(tmp_path / 'truth.json'), **settings)
        return truth, metric, *evaluate(metric, names(truth), results)

    return run


@pytest.mark.parametrize('kind, name', [('bbox', 'box'), ('segm', 'mask')])
def test_average_precision_equals_that_of_mmdet_for_each_class(coco, kind, name):
    truth, _, scores, found = coco(metric=kind, classwise=True)
    values = [row[f'{name} AP'] for row in found]
    assert values[2] is None
    for row in found[:2]:
        assert row[f'{name} AP'] == pytest.approx(scores[f'coco/{row["class"]}_precision'], abs=5e-4)
    assert np.mean(values[:2]) == pytest.approx(scores[f'coco/{kind}_mAP'], abs=5e-4)
    for threshold in (50, 75):
        mean = np.mean([row[f'{name} AP{threshold}'] for row in found[:2]])
        assert mean == pytest.approx(scores[f'coco/{kind}_mAP_{threshold}'], abs=5e-4)
    regular = [each['category_id'] for each in truth['annotations'] if not each.get('iscrowd')]
    assert [row['objects'] for row in found] == [regular.count(number) for number in (1, 2, 3)]


def test_detections_are_released_after_an_evaluation(coco):
    _, metric, _, found = coco(metric=['bbox', 'segm'])
    assert {'box AP', 'mask AP'} < set(found[0])
    assert metric.evaluations == {}


def test_pixels_score_as_in_the_table_of_mmseg(monkeypatch):
    from mmseg.evaluation.metrics import iou_metric

    logged = []
    monkeypatch.setattr(iou_metric, 'print_log', lambda text, *args, **more: logged.append(text))
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (1, 20, 30))
    truth[random.random(truth.shape) < 0.1] = 255
    predicted = np.where(random.random(truth.shape) < 0.3, random.integers(0, 3, truth.shape), truth % 255)
    sample = {'gt_sem_seg': {'data': torch.tensor(truth)}, 'pred_sem_seg': {'data': torch.tensor(predicted)}}
    metric = iou_metric.IoUMetric(iou_metrics=['mIoU', 'mFscore'])
    scores, found = evaluate(metric, ['a', 'b', 'c', 'absent'], samples=[sample])
    table = [[cell.strip() for cell in line.split('|')[1:-1]] for line in logged[-1].split('\n') if '|' in line]
    columns = table[0][1:]
    assert set(columns) == {'IoU', 'Acc', 'Fscore', 'Precision', 'Recall'}
    for row, cells in zip(found, table[1:], strict=True):
        assert row['class'] == cells[0]
        for name, cell in zip(columns, cells[1:], strict=True):
            assert (cell == 'nan') if row[name] is None else (row[name] == pytest.approx(float(cell), abs=6e-3))
    assert sum(row['share'] for row in found) == pytest.approx(100, abs=0.02)
    assert np.mean([row['IoU'] for row in found[:3]]) == pytest.approx(scores['mIoU'], abs=6e-3)


def test_segments_score_as_in_the_table_of_mmdet(tmp_path, monkeypatch):
    with panoptic_api.patched():
        from mmdet.evaluation.metrics import coco_panoptic_metric

        tables = []
        monkeypatch.setattr(coco_panoptic_metric, 'print_panoptic_table', lambda *args, **more: tables.append(args))
        classes = ['thing', 'stuff', 'absent']
        ids, predicted = np.zeros((20, 30), np.int32), np.full((1, 20, 30), 3)
        ids[:, :10], ids[:, 10:20], ids[:, 20:] = 1, 2, 3
        predicted[0, :, :7], predicted[0, :, 10:16] = 1000, 1
        cv2.imwrite(str(tmp_path / '1.png'), panoptic_api.id2rgb(ids)[..., ::-1])
        segments = [{'id': n, 'category_id': 7 if n < 3 else 5} for n in (1, 2, 3)]
        categories = [
            {'id': n, 'name': name, 'isthing': int(n == 7)} for n, name in zip((7, 5, 6), classes, strict=True)
        ]
        image = {'id': 1, 'file_name': '1.jpg', 'height': 20, 'width': 30}
        content = {'images': [image], 'annotations': [{'image_id': 1, 'segments_info': segments}]}
        (tmp_path / 'truth.json').write_text(json.dumps({**content, 'categories': categories}))
        metric = dense_panoptic_metric(ann_file=str(tmp_path / 'truth.json'), seg_prefix=str(tmp_path), classwise=True)
        sample = {'img_id': 1, 'ori_shape': (20, 30), 'pred_panoptic_seg': {'sem_seg': torch.tensor(predicted)}}
        _, found = evaluate(metric, classes, samples=[sample])
    expected = tables[0][1]
    assert [row['segments'] for row in found] == [2, 1, 0]
    assert found[0]['PQ'] == pytest.approx(100 * 0.7 / 1.5)  # one of two objects, with IoU 0.7
    assert found[2]['PQ'] is None
    for row in found[:2]:
        assert {name: row[name.upper()] for name in ('pq', 'sq', 'rq')} == pytest.approx(
            {name: 100 * value for name, value in expected[row['class']].items()}
        )


def test_without_an_evaluation_there_are_no_rows(toy, tmp_path):
    runner = toy(tmp_path)
    assert rows(runner) == []


def test_a_metric_without_classes_has_no_rows():
    class Count(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results.append(1)

        def compute_metrics(self, results):
            return {'count': len(results)}

    assert evaluate(Count(), ['a', 'b'], results=[1]) == ({'count': 1}, [])


def test_instances_of_panoptic_data_have_scores_of_the_things(tmp_path):
    truth, results = coco_evaluation.draw(images=3, objects=9, classes=2, seed=0)
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    evaluator = observe(Evaluator([dense_coco_metric(ann_file=str(tmp_path / 'truth.json'))]))
    evaluator.dataset_meta = {'classes': [*names(truth), 'sky'], 'thing_classes': names(truth)}
    evaluator.metrics[0].results = list(results)
    evaluator.evaluate(3)
    assert [row['box AP'] is None for row in evaluator.class_rows] == [False, False, True]
