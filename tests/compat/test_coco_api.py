"""Annotations given as detections score 1, whatever the ids, masks and objects; unusable files are refused."""

import json

import numpy as np
import pytest
from pycocotools import mask as codec

from repvit_dense.compat.coco_metric import dense_coco_metric
from repvit_dense.errors import InputError
from tests.compat.scoring import names, scores


def build_dense(tmp_path, truth, **settings):
    file = tmp_path / 'truth.json'
    file.write_text(json.dumps(truth))
    return dense_coco_metric(ann_file=str(file), metric=['bbox', 'segm'], **settings)


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


@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
def test_annotations_given_as_detections_score_one(tmp_path, objects, change, renamed):
    change(objects)
    truth, results = renamed(objects, exact(objects))
    (actual,) = scores([build_dense(tmp_path, truth)], names(truth), results)
    assert {key: actual[key] for key in actual if key.endswith(('mAP', '_50', '_75', '_s'))} == {
        f'{kind}_mAP{suffix}': 1.0 for kind in ('bbox', 'segm') for suffix in ('', '_50', '_75', '_s')
    }


def test_more_objects_than_the_limit_are_announced(tmp_path, objects, capsys):
    give_many_objects(objects)
    scores([build_dense(tmp_path, objects)], names(objects), exact(objects))
    assert 'up to 208 objects of a class in an image, so mAP counts up to 1000 detections' in capsys.readouterr().err


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
    printed = capsys.readouterr().err
    assert '3 objects without area (box) are left out of the bbox scores' in printed
    assert '3 objects without area (mask) are left out of the segm scores' in printed


def test_many_objects_of_a_class_that_is_not_evaluated_change_nothing(tmp_path, objects, capsys):
    give_many_objects(objects)
    scores(
        [build_dense(tmp_path, objects)],
        names(objects)[1:],
        [({}, {**exact(objects)[0][1], 'labels': np.zeros(208, int)})],
    )
    assert 'so mAP counts' not in capsys.readouterr().err


def test_detections_with_the_score_nan_are_left_out(tmp_path, objects, capsys):
    results = exact(objects)
    results[0][1]['scores'][0] = np.nan
    (actual,) = scores([build_dense(tmp_path, objects)], names(objects), results)
    assert 0.2 < actual['bbox_mAP'] == actual['segm_mAP'] < 0.9
    assert 'note: 1 detections have the score NaN and are left out' in capsys.readouterr().err


def test_a_missed_object_lowers_the_score(tmp_path, objects):
    results = exact(objects)
    for array in ('bboxes', 'scores', 'labels', 'masks'):
        results[0][1][array] = results[0][1][array][1:]
    (actual,) = scores([build_dense(tmp_path, objects)], names(objects), results)
    assert 0.2 < actual['bbox_mAP'] == actual['segm_mAP'] < 0.9


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
