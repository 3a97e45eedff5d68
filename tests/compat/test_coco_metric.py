"""The scores of DenseCocoMetric equal those of mmdet's CocoMetric on pycocotools."""

import json
import random

import numpy as np
import pytest
from pycocotools import mask as codec

from repvit_dense.compat.coco_metric import dense_coco_metric
from repvit_dense.errors import InputError
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


def build_dense(tmp_path, truth, **settings):
    file = tmp_path / 'truth.json'
    file.write_text(json.dumps(truth))
    return dense_coco_metric(ann_file=str(file), metric=['bbox', 'segm'], **settings)


def names(truth):
    return [category['name'] for category in truth['categories']]


def scores(metrics, classes, results):
    """Return the result of each metric."""
    for metric in metrics:
        metric.dataset_meta = {'classes': classes}
    return [metric.compute_metrics(list(results)) for metric in metrics]


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


@pytest.mark.parametrize('settings', [{'metric': 'proposal'}, {'use_mp_eval': True}], ids=str)
def test_settings_of_coco_metric_are_accepted(tmp_path, drawn, settings):
    truth, results = drawn
    expected, actual = scores(build(tmp_path, truth, **settings), names(truth), results)
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
IDS = {
    'text': lambda n: f'image {n}',
    'zero': lambda n: n - 1,
    'negative': lambda n: -n,
    'huge': lambda n: 2**70 - n,
    'sparse': lambda n: 1_000_003 * n,
    'mixed': lambda n: [n, f'{n - 1}', -n][n % 3],
}


def with_ids(rename, truth, results):
    """Return ground truth and results whose ids are `rename(old id)`."""
    truth = {
        'images': [{**each, 'id': rename(each['id'])} for each in truth['images']],
        'categories': [{**each, 'id': rename(each['id'])} for each in truth['categories']],
        'annotations': [
            {**each, **{key: rename(each[key]) for key in ('id', 'image_id', 'category_id')}}
            for each in truth['annotations']
        ],
    }
    return truth, [(size, {**each, 'img_id': rename(each['img_id'])}) for size, each in results]


@pytest.mark.parametrize('kind', IDS)
def test_ids_of_any_kind_give_the_same_scores(tmp_path, drawn, kind):
    truth, results = drawn
    (expected,) = scores(build(tmp_path, truth)[:1], names(truth), results)
    truth, results = with_ids(IDS[kind], truth, results)
    (actual,) = scores([build_dense(tmp_path, truth)], names(truth), results)
    assert actual == expected
    assert actual['bbox_mAP'] > 0.02


def box_of(x, y, width, height):
    return {'bbox': [x, y, width, height], 'segmentation': [[x, y, x + width, y, x + width, y + height, x, y + height]]}


def exact(truth):
    """Return the annotations as detections, with boxes and masks as CocoMetric stores them."""
    labels = {category['id']: number for number, category in enumerate(truth['categories'])}
    results = []
    for image in truth['images']:
        size = image['height'], image['width']
        found = [a for a in truth['annotations'] if a['image_id'] == image['id']]
        boxes = np.array([a['bbox'] for a in found], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [a['segmentation'] for a in found]
        masks = [codec.merge(codec.frPyObjects(m, *size)) if isinstance(m, list) else m for m in masks]
        masks = [codec.frPyObjects(m, *size) if isinstance(m['counts'], list) else m for m in masks]
        arrays = {'bboxes': boxes, 'labels': np.array([labels[a['category_id']] for a in found], int)}
        ranks = np.linspace(0.9, 0.1, len(found))
        results.append(({}, {'img_id': image['id'], 'scores': ranks, 'masks': masks, **arrays}))
    return results


@pytest.fixture
def objects():
    """Return few objects without `iscrowd` and `area`, an image without objects and a class without objects."""
    image = {'file_name': '', 'height': 80, 'width': 100}
    boxes = [box_of(5, 5, 30, 20), box_of(40, 10, 12, 50), box_of(7, 7, 28, 18)]
    return {
        'images': [{'id': number, **image} for number in (1, 2, 3)],
        'categories': [{'id': number, 'name': f'class {number}'} for number in (1, 2, 3)],
        'annotations': [
            {'id': 3 * image + number, 'image_id': image, 'category_id': 1 + number % 2, **box}
            for image in (1, 3)
            for number, box in enumerate(boxes, 1)
        ],
    }


def change_nothing(truth):
    pass


def add_a_crowd(truth):
    runs = [200, 3000, 80 * 100 - 3200]
    crowd = {'iscrowd': 1, 'bbox': [2, 0, 38, 80], 'segmentation': {'size': [80, 100], 'counts': runs}}
    truth['annotations'].append({'id': 50, 'image_id': 1, 'category_id': 1, **crowd})


def compress_masks(truth):
    for each in truth['annotations']:
        rle = codec.merge(codec.frPyObjects(each['segmentation'], 80, 100))
        each['segmentation'] = {**rle, 'counts': rle['counts'].decode()}


def add_objects_without_area(truth):
    for number, size in enumerate([(0, 0), (9, 0), (0, 9)], 50):
        truth['annotations'].append({'id': number, 'image_id': 1, 'category_id': 1, **box_of(60, 60, *size)})


def add_a_sliver(truth):
    sliver = {'bbox': [60, 60, 8, 2], 'segmentation': [[60.2, 60.2, 60.4, 60.2, 60.4, 60.4]]}  # no pixel centre inside
    truth['annotations'].append({'id': 50, 'image_id': 1, 'category_id': 1, **sliver})


def keep_one_image(truth):
    truth['images'] = truth['images'][:1]
    truth['annotations'] = [each for each in truth['annotations'] if each['image_id'] == 1]


def give_many_objects(truth):
    boxes = [box_of(x, y, 3, 3) for x in range(0, 96, 6) for y in range(0, 78, 6)]
    truth['annotations'] = [
        {'id': number, 'image_id': 1, 'category_id': 1, **box} for number, box in enumerate(boxes, 1)
    ]


CHANGES = [
    change_nothing,
    add_a_crowd,
    compress_masks,
    add_objects_without_area,
    add_a_sliver,
    keep_one_image,
    give_many_objects,
]


@pytest.mark.parametrize('kind', IDS)
@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
def test_annotations_given_as_detections_score_one(tmp_path, objects, change, kind):
    change(objects)
    truth, results = with_ids(IDS[kind], objects, exact(objects))
    (actual,) = scores([build_dense(tmp_path, truth)], names(truth), results)
    assert {key: actual[key] for key in actual if key.endswith(('mAP', '_50', '_75', '_s'))} == {
        f'{kind}_mAP{suffix}': 1.0 for kind in ('bbox', 'segm') for suffix in ('', '_50', '_75', '_s')
    }


def test_more_objects_than_the_limit_are_announced(tmp_path, objects, capsys):
    give_many_objects(objects)
    scores([build_dense(tmp_path, objects)], names(objects), exact(objects))
    assert 'up to 208 objects of a class in an image, so mAP counts up to 1000 detections' in capsys.readouterr().out


@pytest.mark.parametrize('area', [None, 0, -5, 'large', float('nan')])
def test_the_area_of_an_object_is_that_of_its_mask(tmp_path, objects, area):
    """mAP of small, medium and large objects needs it; the masks of these have 100 to 600 pixels."""
    for each in objects['annotations']:
        each['area'] = area
    metric = build_dense(tmp_path, objects)
    assert [each['area'] for each in metric._coco_api.anns.values()] == [600, 600, 504] * 2


def test_objects_without_area_are_announced(tmp_path, objects, capsys):
    add_objects_without_area(objects)
    scores([build_dense(tmp_path, objects)], names(objects), exact(objects))
    printed = capsys.readouterr().out
    assert '3 objects without area (box) are left out of the bbox scores' in printed
    assert '3 objects without area (mask) are left out of the segm scores' in printed


def test_many_objects_of_a_class_that_is_not_evaluated_change_nothing(tmp_path, objects, capsys):
    give_many_objects(objects)
    scores(
        [build_dense(tmp_path, objects)],
        names(objects)[1:],
        [({}, {**exact(objects)[0][1], 'labels': np.zeros(208, int)})],
    )
    assert 'so mAP counts' not in capsys.readouterr().out


def test_detections_with_the_score_nan_are_left_out(tmp_path, objects, capsys):
    results = exact(objects)
    results[0][1]['scores'][0] = np.nan
    (actual,) = scores([build_dense(tmp_path, objects)], names(objects), results)
    assert 0.2 < actual['bbox_mAP'] == actual['segm_mAP'] < 0.9
    assert 'note: 1 detections have the score NaN and are left out' in capsys.readouterr().out


def test_a_missed_object_lowers_the_score(tmp_path, objects):
    results = exact(objects)
    for array in ('bboxes', 'scores', 'labels', 'masks'):
        results[0][1][array] = results[0][1][array][1:]
    (actual,) = scores([build_dense(tmp_path, objects)], names(objects), results)
    assert 0.2 < actual['bbox_mAP'] == actual['segm_mAP'] < 0.9


def test_detections_without_area_count_as_wrong_elsewhere(tmp_path, objects):
    _, detections = exact(objects)[0]
    detections['bboxes'] = np.concatenate([np.full((1, 4), 60.0), detections['bboxes']])
    detections['scores'] = np.concatenate([[0.99], detections['scores']])
    detections['labels'] = np.concatenate([[0], detections['labels']])
    objects['images'] = objects['images'][:1]
    expected, actual = (
        coco_evaluation.summaries(metric, names(objects), [({}, {k: v for k, v in detections.items() if k != 'masks'})])
        for metric in build(tmp_path, complete(objects), metric='bbox')
    )
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert actual[0, 0] < 0.9


def complete(truth):
    """Return the ground truth with the fields that pycocotools needs."""
    annotations = [{**a, 'iscrowd': 0, 'area': a['bbox'][2] * a['bbox'][3]} for a in truth['annotations']]
    return {**truth, 'annotations': annotations}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda truth: truth['annotations'][0].update(bbox=[1, 2, 3, 10**400]), 'annotation 4: bbox must be four'),
        (lambda truth: truth['annotations'][0].update(bbox='1 2 3 4'), 'annotation 4: bbox must be four'),
        (lambda truth: truth['images'][0].pop('id'), "not COCO annotations .KeyError.'id'"),
        (lambda truth: truth['images'][0].update(id=[1]), 'not COCO annotations .*unhashable'),
    ],
)
def test_annotations_that_cannot_be_used_are_refused(tmp_path, objects, change, message):
    change(objects)
    with pytest.raises(InputError, match=message):
        build_dense(tmp_path, objects)


@pytest.mark.parametrize(
    'mask',
    [
        {'size': [80, 100], 'counts': [0, 10**9]},
        {'size': [80, 100], 'counts': [-3, 8003]},
        {'size': [80, 100], 'counts': 'abc\xff'},
        {'size': [80, 90], 'counts': [0, 7200]},
        {'counts': [0, 8000]},
        {'size': [80, 100]},
        [[5, 5, 'x', 9, 9, 9]],
        'mask',
    ],
    ids=str,
)
def test_a_mask_that_cannot_be_decoded_is_refused_for_masks_only(tmp_path, objects, mask):
    objects['annotations'][4]['segmentation'] = mask
    results = exact({**objects, 'annotations': []})
    results[0] = exact({**objects, 'annotations': objects['annotations'][:3]})[0]
    metric = build_dense(tmp_path, objects)
    with pytest.raises(InputError, match='annotation 11: the mask cannot be decoded'):
        scores([metric], names(objects), results)
    metric = build_dense(tmp_path, objects)
    metric.metrics = ['bbox']
    assert scores([metric], names(objects), results)[0]['bbox_mAP'] > 0.1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r'^\S*/none.json: cannot be read'):
        dense_coco_metric(ann_file=str(tmp_path / 'none.json'))


def test_detections_of_an_image_that_the_file_does_not_list(tmp_path, objects):
    results = exact(objects)
    results[0][1]['img_id'] = 'other'
    with pytest.raises(InputError, match="no image with id 'other', which the data set has"):
        scores([build_dense(tmp_path, objects)], names(objects), results)


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
