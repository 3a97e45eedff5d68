"""The scores that configs name, against those of mmdet's own CocoMetric on pycocotools."""

import json
import random

import numpy as np
import pytest

from repvit_dense.compat.coco_metric import dense_coco_metric
from tools.pages import coco_evaluation


@pytest.fixture
def drawn():
    """Of few classes and many detections, so that all that matching knows occurs: crowds, ties, more than the limit."""
    truth, results = coco_evaluation.draw(images=12, objects=9, classes=3, seed=0)
    random.Random(0).shuffle(truth['annotations'])
    truth['annotations'][0]['iscrowd'] = 1
    truth['categories'].reverse()  # labels are numbered in the order of the file
    for _, found in results:
        found['scores'] = found['scores'].round(1)
        found['labels'] = 2 - found['labels']
    return truth, results


def build(tmp_path, truth, **settings):
    from mmdet.evaluation import CocoMetric

    file = tmp_path / 'truth.json'
    file.write_text(json.dumps(truth))
    settings = {'ann_file': str(file), 'metric': ['bbox', 'segm'], **settings}
    return CocoMetric(**settings), dense_coco_metric(**settings)


def names(truth):
    return [category['name'] for category in truth['categories']]


def scores(metrics, classes, results):
    """What each of the metrics returns."""
    for metric in metrics:
        metric.dataset_meta = {'classes': classes}
    return [metric.compute_metrics(list(results)) for metric in metrics]


def test_summaries_are_those_of_pycocotools(tmp_path, drawn):
    truth, results = drawn
    plain, own = (coco_evaluation.summaries(metric, names(truth), results) for metric in build(tmp_path, truth))
    assert 0.02 < plain[:, :3].min() < plain.max() < 0.98  # something to compare
    np.testing.assert_allclose(own, plain, atol=1e-6)


def test_more_detections_than_the_average_counts(tmp_path):
    """mmdet lets 1000 through, but its mAP is that of 100."""
    truth, _ = coco_evaluation.draw(images=1, objects=40, classes=1, seed=0)
    boxes = np.repeat([annotation['bbox'] for annotation in truth['annotations']], 5, axis=0)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.linspace(1, 0.1, len(boxes))  # the best hundred are all of twenty objects
    found = {'img_id': 1, 'bboxes': boxes, 'scores': scores, 'labels': np.zeros(len(boxes), int)}
    plain, own = (
        coco_evaluation.summaries(metric, names(truth), [({}, found)])
        for metric in build(tmp_path, truth, metric='bbox')
    )
    assert plain[0, 6] < plain[0, 7]  # recall of 100 and of 300: it matters how many
    np.testing.assert_allclose(own, plain, atol=1e-6)


@pytest.mark.parametrize('settings', [{'metric': 'proposal'}, {'use_mp_eval': True}], ids=str)
def test_settings_of_coco_metric(tmp_path, drawn, settings):
    truth, results = drawn
    plain, own = scores(build(tmp_path, truth, **settings), names(truth), results)
    assert own == plain != {}


def test_scores_of_classes_go_by_name(tmp_path, drawn):
    """Of a file that lists its categories by falling id, mmdet with pycocotools gives a class another one's score."""
    truth, results = drawn
    _, own = build(tmp_path, truth, metric='bbox', classwise=True)
    (falling,) = scores([own], names(truth), results)
    truth['categories'].reverse()
    for _, found in results:
        found['labels'] = 2 - found['labels']
    (rising,) = scores(build(tmp_path, truth, metric='bbox', classwise=True)[:1], names(truth), results)
    assert dict(falling) == dict(rising)
    assert len({falling[f'class {number}_precision'] for number in range(3)}) == 3


def test_a_part_of_the_classes(tmp_path, drawn):
    truth, results = drawn
    for _, found in results:
        found['labels'] = found['labels'].clip(0, 1)
    plain, own = scores(build(tmp_path, truth), names(truth)[1:], results)
    assert own == plain
    assert own['bbox_mAP'] > 0.02


def test_nothing_found_gives_no_scores(tmp_path, drawn):
    truth, _ = drawn
    nothing = {'bboxes': np.zeros((0, 4)), 'scores': np.zeros(0), 'labels': np.zeros(0, int), 'masks': []}
    plain, own = scores(build(tmp_path, truth), names(truth), [({}, {'img_id': 1, **nothing})])
    assert own == plain == {}


def test_ids_may_be_text(tmp_path, drawn):
    truth, results = drawn
    for record in truth['images']:
        record['id'] = f'image {record["id"]}'
    for annotation in truth['annotations']:
        annotation['image_id'] = f'image {annotation["image_id"]}'
    results = [(size, {**found, 'img_id': f'image {found["img_id"]}'}) for size, found in results]
    plain, own = scores(build(tmp_path, truth), names(truth), results)
    assert own == plain
    assert own['bbox_mAP'] > 0.02


def test_without_a_file_the_samples_are_the_truth(tmp_path, drawn):
    truth, results = drawn
    for size, _ in results:
        mine = [a for a in truth['annotations'] if a['image_id'] == size['img_id']]
        size['anns'] = [
            {
                'bbox': [a['bbox'][0], a['bbox'][1], a['bbox'][0] + a['bbox'][2], a['bbox'][1] + a['bbox'][3]],
                'bbox_label': 3 - a['category_id'],
                'mask': a['segmentation'],
            }
            for a in mine
        ]
    plain, own = scores(build(tmp_path, truth, ann_file=None), names(truth), results)
    assert own == plain
    assert own['segm_mAP'] > 0.02


def test_results_are_written_where_asked(tmp_path, drawn):
    truth, results = drawn
    (_, own) = build(tmp_path, truth, outfile_prefix=str(tmp_path / 'found'), format_only=True)
    own.dataset_meta = {'classes': names(truth)}
    own.compute_metrics(list(results))
    written = json.loads((tmp_path / 'found.segm.json').read_text())
    assert len(written) == sum(len(found['labels']) for _, found in results)


def test_other_metrics_keep_pycocotools(tmp_path, drawn):
    from mmdet.evaluation.metrics import coco_metric
    from pycocotools.cocoeval import COCOeval

    truth, results = drawn
    scores(build(tmp_path, truth), names(truth), results)
    assert coco_metric.COCOeval is COCOeval


def test_the_configs_name_it():
    from repvit_dense import config

    for name in ('repvit_maskrcnn_shapes', 'repvit_retinanet_coco', 'repvit_mask2former_coco-panoptic'):
        cfg = config.load(name)
        types = {part['type'] for part in config.metrics(cfg, 'val') + config.metrics(cfg, 'test')}
        assert 'DenseCocoMetric' in types
        assert types <= {'DenseCocoMetric', 'CocoPanopticMetric'}
