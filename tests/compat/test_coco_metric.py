"""The scores of DenseCocoMetric equal those of mmdet's CocoMetric on pycocotools."""

import json
import random

import numpy as np
import pytest

from repvit_dense.compat.coco_metric import dense_coco_metric
from tests.compat.scoring import names, scores
from tools.pages import coco_evaluation


@pytest.fixture
def drawn():
    """Draw few classes and many detections: crowds, ties, more detections than the limit."""
    truth, results = coco_evaluation.draw(images=12, objects=9, classes=3, seed=0)
    random.Random(0).shuffle(truth['annotations'])
    truth['annotations'][0]['iscrowd'] = 1
    truth['categories'].reverse()  # the file defines the order of the labels
    for _, detections in results:
        detections['scores'] = detections['scores'].round(1)
        detections['labels'] = 2 - detections['labels']
    return truth, results


def build(tmp_path, truth, **settings):
    from mmdet.evaluation import CocoMetric

    file = tmp_path / 'truth.json'
    file.write_text(json.dumps(truth))
    settings = {'ann_file': str(file), 'metric': ['bbox', 'segm'], **settings}
    return CocoMetric(**settings), dense_coco_metric(**settings)


def test_summaries_equal_those_of_pycocotools(tmp_path, drawn):
    truth, results = drawn
    expected, actual = (coco_evaluation.summaries(metric, names(truth), results) for metric in build(tmp_path, truth))
    assert 0.02 < expected[:, :3].min() < expected.max() < 0.98
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_more_detections_than_the_limit_of_the_mean(tmp_path):
    """mmdet evaluates 1000 detections per image, but its mAP uses 100."""
    truth, _ = coco_evaluation.draw(images=1, objects=40, classes=1, seed=0)
    boxes = np.repeat([annotation['bbox'] for annotation in truth['annotations']], 5, axis=0)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.linspace(1, 0.1, len(boxes))  # the best hundred belong to twenty objects
    detections = {'img_id': 1, 'bboxes': boxes, 'scores': scores, 'labels': np.zeros(len(boxes), int)}
    expected, actual = (
        coco_evaluation.summaries(metric, names(truth), [({}, detections)])
        for metric in build(tmp_path, truth, metric='bbox')
    )
    assert expected[0, 6] < expected[0, 7]  # recall with 100 and with 300 detections differs
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_detections_without_area_count_as_wrong(tmp_path, drawn):
    truth, results = drawn
    for _, detections in results:
        detections['bboxes'][:5, 2:] = detections['bboxes'][:5, :2]
    expected, actual = (
        coco_evaluation.summaries(metric, names(truth), results) for metric in build(tmp_path, truth, metric='bbox')
    )
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_proposals(tmp_path, drawn):
    truth, results = drawn
    expected, actual = scores(build(tmp_path, truth, metric='proposal'), names(truth), results)
    assert actual == expected != {}


def test_evaluation_in_several_processes_is_not_needed(tmp_path, drawn):
    """The setting is accepted; mmdet's own implementation forks and may hang beside threads, so it is not run."""
    truth, results = drawn
    expected, _ = build(tmp_path, truth)
    _, actual = build(tmp_path, truth, use_mp_eval=True)
    assert actual.use_mp_eval
    expected, actual = scores([expected, actual], names(truth), results)
    assert actual == expected != {}


def test_scores_of_classes_are_assigned_by_name(tmp_path, drawn):
    """If a file lists its categories by descending id, mmdet with pycocotools swaps the scores of classes."""
    truth, results = drawn
    _, metric = build(tmp_path, truth, metric='bbox', classwise=True)
    (descending,) = scores([metric], names(truth), results)
    truth['categories'].reverse()
    for _, detections in results:
        detections['labels'] = 2 - detections['labels']
    (ascending,) = scores(build(tmp_path, truth, metric='bbox', classwise=True)[:1], names(truth), results)
    assert dict(descending) == dict(ascending)
    assert len({descending[f'class {number}_precision'] for number in range(3)}) == 3


def test_a_subset_of_the_classes(tmp_path, drawn):
    truth, results = drawn
    for _, detections in results:
        detections['labels'] = detections['labels'].clip(0, 1)
    expected, actual = scores(build(tmp_path, truth), names(truth)[1:], results)
    assert actual == expected
    assert actual['bbox_mAP'] > 0.02


def test_no_detections_give_no_scores(tmp_path, drawn):
    truth, _ = drawn
    nothing = {'bboxes': np.zeros((0, 4)), 'scores': np.zeros(0), 'labels': np.zeros(0, int), 'masks': []}
    expected, actual = scores(build(tmp_path, truth), names(truth), [({}, {'img_id': 1, **nothing})])
    assert actual == expected == {}


# Kind -> ids of images, annotations and categories.
def test_ids_of_any_kind_give_the_same_scores(tmp_path, drawn, renamed):
    truth, results = drawn
    (expected,) = scores(build(tmp_path, truth)[:1], names(truth), results)
    truth, results = renamed(truth, results)
    file = tmp_path / 'truth.json'
    file.write_text(json.dumps(truth))
    metric = dense_coco_metric(ann_file=str(file), metric=['bbox', 'segm'])
    (actual,) = scores([metric], names(truth), results)
    assert actual == expected
    assert actual['bbox_mAP'] > 0.02


def test_without_a_file_the_samples_are_the_ground_truth(tmp_path, drawn):
    truth, results = drawn
    for size, _ in results:
        annotations = [a for a in truth['annotations'] if a['image_id'] == size['img_id']]
        size['anns'] = [
            {
                'bbox': [a['bbox'][0], a['bbox'][1], a['bbox'][0] + a['bbox'][2], a['bbox'][1] + a['bbox'][3]],
                'bbox_label': 3 - a['category_id'],
                'mask': a['segmentation'],
            }
            for a in annotations
        ]
    expected, actual = scores(build(tmp_path, truth, ann_file=None), names(truth), results)
    assert actual == expected
    assert actual['segm_mAP'] > 0.02


def test_results_are_written_to_the_given_prefix(tmp_path, drawn):
    truth, results = drawn
    _, metric = build(tmp_path, truth, outfile_prefix=str(tmp_path / 'result'), format_only=True)
    metric.dataset_meta = {'classes': names(truth)}
    metric.compute_metrics(list(results))
    written = json.loads((tmp_path / 'result.segm.json').read_text())
    assert len(written) == sum(len(detections['labels']) for _, detections in results)


def test_other_metrics_keep_pycocotools(tmp_path, drawn):
    from mmdet.evaluation.metrics import coco_metric
    from pycocotools.cocoeval import COCOeval

    truth, results = drawn
    scores(build(tmp_path, truth), names(truth), results)
    assert coco_metric.COCOeval is COCOeval


def test_the_configs_use_it():
    from repvit_dense import config

    for name in ('repvit_maskrcnn_shapes', 'repvit_retinanet_coco', 'repvit_mask2former_coco-panoptic'):
        cfg = config.load(name)
        types = {part['type'] for part in config.metrics(cfg, 'val') + config.metrics(cfg, 'test')}
        assert 'DenseCocoMetric' in types
        assert types <= {'DenseCocoMetric', 'DensePanopticMetric'}
