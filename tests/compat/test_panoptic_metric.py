"""The counts of DensePanopticMetric equal mmdet's on complete files; the annotations as predictions score 100."""

import json

import cv2
import numpy as np
import pytest
import torch

import repvit_dense  # noqa: F401  (before mmdet)
from repvit_dense.compat import panoptic_api
from repvit_dense.compat.panoptic_metric import count_segments, dense_panoptic_metric
from repvit_dense.errors import InputError

OTHER_INSTANCE = 1000  # mmdet's INSTANCE_OFFSET


@pytest.fixture
def mmdet():
    """Make panopticapi importable for mmdet, and return mmdet's module."""
    with panoptic_api.patched():
        from mmdet.evaluation.metrics import coco_panoptic_metric

        yield coco_panoptic_metric


@pytest.fixture
def drawn():
    """Return segment ids `(H, W)`, their records, a noisy prediction `(H, W)` and the categories of its segments."""
    random = np.random.default_rng(0)
    truth = np.kron(random.integers(0, 9, (6, 8)), np.ones((8, 8), int)).astype(np.int32)  # 0 is void
    predicted = np.where(random.random(truth.shape) < 0.15, random.integers(0, 9, truth.shape), truth)
    predicted[:8, :16] = 8
    records = [{'id': n, 'category_id': 1 + n % 3, 'iscrowd': int(n == 4)} for n in range(1, 9)]
    for record in records:
        record['area'] = int((truth == record['id']).sum())
    return truth, records, predicted, {n: 1 + (n % 3 if n != 5 else 0) for n in range(1, 9)}


def tally(stat):
    return {number: (c.tp, pytest.approx(c.iou), c.fp, c.fn) for number, c in stat._counts.items()}


def test_the_counts_equal_those_of_mmdet(tmp_path, mmdet, drawn):
    truth, records, predicted, categories = drawn
    for name, ids in (('truth', truth), ('predicted', predicted)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), panoptic_api.id2rgb(ids)[..., ::-1])
    pair = (
        {'file_name': 'truth.png', 'image_id': 1, 'segments_info': records},
        {'file_name': 'predicted.png', 'segments_info': [{'id': n, 'category_id': c} for n, c in categories.items()]},
    )
    expected = mmdet.pq_compute_single_core(0, [pair], tmp_path, tmp_path, {1: {}, 2: {}, 3: {}})
    stat = panoptic_api.PQStat()
    count_segments(stat, truth, records, predicted, categories)
    assert tally(stat) == tally(expected)
    total = np.sum([(c.tp, c.fp, c.fn) for c in stat._counts.values()], 0)
    assert (total > 0).all()


SIZE = 40, 48


@pytest.fixture
def build(tmp_path, mmdet):
    """Return `build(rename, things, change)`: a metric on three images, and its samples with perfect predictions."""

    def run(rename=lambda number: number, things=2, change=lambda content: None):
        names = ['circle', 'square', 'stripes', 'waves']
        categories = [{'id': rename(n + 1), 'name': name, 'isthing': int(n < things)} for n, name in enumerate(names)]
        content = {'images': [], 'annotations': [], 'categories': categories}
        samples = []
        for number in (1, 2, 3):
            ids, predicted = np.zeros(SIZE, np.int32), np.full(SIZE, 4, np.int64)  # void: the number of classes
            segments = []
            for column, label in enumerate([0, 0, 1, 2][not things : 2 + number]):  # no waves
                ids[:, 10 * column : 10 * column + 9] = segment = 256 * column + 7
                instance = column + 1 if label < things else 0
                predicted[:, 10 * column : 10 * column + 9] = label + OTHER_INSTANCE * instance
                segments.append({'id': segment, 'category_id': categories[label]['id']})
            cv2.imwrite(str(tmp_path / f'{number}.png'), panoptic_api.id2rgb(ids)[..., ::-1])
            image = {'id': rename(number), 'file_name': f'{number}.jpg', 'height': SIZE[0], 'width': SIZE[1]}
            content['images'].append(image)
            content['annotations'].append({'image_id': rename(number), 'segments_info': segments})
            part = {'sem_seg': torch.from_numpy(predicted)[None]}
            samples.append({'img_id': rename(number), 'ori_shape': SIZE, 'pred_panoptic_seg': part})
        change(content)
        (tmp_path / 'truth.json').write_text(json.dumps(content))
        metric = dense_panoptic_metric(ann_file=str(tmp_path / 'truth.json'), seg_prefix=str(tmp_path))
        metric.dataset_meta = {'classes': names, 'thing_classes': names[:things]}
        return metric, samples

    return run


def evaluate(metric, samples):
    metric.process({}, samples)
    return metric.compute_metrics(metric.results)


def test_the_annotations_as_predictions_score_100(build, rename):
    scores = evaluate(*build(rename))
    assert set(scores.values()) == {100.0}


def test_the_class_0_may_be_stuff(build):
    """mmdet writes it as id 0, which is void."""
    scores = evaluate(*build(things=0))
    assert (scores['PQ'], scores['PQ_st']) == (100, 100)


def set_crowd(content):
    content['annotations'][1]['segments_info'][0]['iscrowd'] = 1


def add_a_segment_without_pixels(content):
    content['annotations'][1]['segments_info'].append({'id': 99, 'category_id': 1})


def set_a_wrong_area(content):
    content['annotations'][1]['segments_info'][0]['area'] = 5


@pytest.mark.parametrize(
    'change', [set_crowd, add_a_segment_without_pixels, set_a_wrong_area], ids=lambda change: change.__name__
)
def test_the_annotations_score_100_in_every_state(build, change):
    assert evaluate(*build(change=change))['PQ'] == 100


def test_segments_of_an_image_without_annotation_are_ignored(build):
    """Every pixel of it is void."""
    assert evaluate(*build(change=lambda content: content['annotations'].pop()))['PQ'] == 100


def test_a_missed_segment_lowers_the_score(build):
    metric, samples = build()
    part = samples[0]['pred_panoptic_seg']['sem_seg']
    part[part == 2000] = 4
    assert 90 < evaluate(metric, samples)['PQ'] < 98


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('img_id', 'other', "no image with id 'other'"),
        ('pred_panoptic_seg', {'sem_seg': torch.zeros(1, 4, 5)}, 'height and width .40, 48., those of its image'),
    ],
)
def test_data_of_another_file_is_refused(build, key, value, message):
    metric, samples = build()
    samples[0][key] = value
    with pytest.raises(InputError, match=message):
        metric.process({}, samples)
