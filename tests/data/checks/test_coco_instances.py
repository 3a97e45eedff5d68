import json

import numpy as np
import pytest

from repvit_dense.data import checks
from repvit_dense.data.checks import coco_instances
from repvit_dense.errors import InputError


def test_valid_annotations_have_no_findings(coco):
    assert coco.check() == []


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'bbox': [1, 2, 3]}, '1 boxes are not four finite numbers'),
        ({'bbox': [1, 2, 3, None]}, '1 boxes are not four finite numbers'),
        ({'bbox': [1, 2, float('nan'), 4]}, '1 boxes are not four finite numbers'),
        ({'category_id': 7}, '1 annotations have a category that the file does not list'),
        ({'segmentation': None}, '1 objects have no mask, which this config trains'),
        ({'segmentation': []}, '1 objects have no mask, which this config trains'),
        ({'segmentation': [[1, 2, 3, 4, 5, float('nan')]]}, '1 objects have a mask that is not made of finite numbers'),
        ({'segmentation': [['1'] * 6]}, '1 objects have a mask that is not made of finite numbers'),
        ({'segmentation': 'x'}, '1 objects have a mask that is not made of finite numbers'),
        ({'segmentation': {'size': [10, 8], 'counts': 'x'}}, '1 masks (RLE) do not have the size'),
        ({'segmentation': {'size': [8, 10], 'counts': [3]}}, '1 masks (RLE) do not have the size'),
        ({'segmentation': {'size': [8, 10]}}, '1 masks (RLE) do not have the size'),
    ],
)
def test_errors_of_an_annotation(coco, changes, message):
    errors = [text for level, text in coco.check_first(**changes) if level == 'error']
    assert any(text.startswith(message) for text in errors), errors


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'annotations': lambda a: [a[0], {**a[1], 'id': 1}]}, '1 annotation ids are used more than once (1)'),
        ({'images': lambda images: [*images, images[0]]}, '1 image ids are used more than once (1)'),
        ({'categories': lambda c: [*c, {'id': 1, 'name': 'dog'}]}, '1 category ids are used more than once (1)'),
        ({'images': lambda i: [{**i[0], 'file_name': 'x.jpg'}, i[1]]}, '1 of the 2 images that it lists are not in'),
        ({'images': []}, 'the file lists no images'),
    ],
)
def test_errors_of_a_file(coco, changes, message):
    errors = [text for level, text in coco.check(**changes) if level == 'error']
    assert any(text.startswith(message) for text in errors), errors


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'bbox': [7, 2, 4.1, 4]}, '1 boxes reach outside their image (annotation 1)'),
        ({'bbox': [-1.1, 2, 4, 4]}, '1 boxes reach outside their image (annotation 1)'),
        ({'bbox': [2, 2, 0, 4], 'iscrowd': 1}, '1 boxes are narrower than a pixel'),
        ({'image_id': 9}, '1 annotations have an image that the file does not list'),
        ({'iscrowd': 1}, '1 of the 2 images have no object, or only crowds (1.jpg)'),
        ({'segmentation': [[2, 2, 6, 2, 6, 6], [1, 2, 3, 4]]}, '1 objects have a polygon of under 3 points'),
        ({'segmentation': [[2, 2, 6, 2, 6, 6, 2]]}, '1 objects have a polygon of under 3 points or an odd count'),
        ({'segmentation': [[1, 1, 5, 5, 3, 3]]}, '1 objects have a polygon without area'),
    ],
)
def test_warnings_of_an_annotation(coco, changes, message):
    findings = coco.check_first(**changes)
    assert {level for level, _ in findings} == {'warning'}
    assert any(text.startswith(message) for _, text in findings), findings


def test_images_without_objects_are_named(coco):
    message = '1 of the 2 images have no object, or only crowds (2.jpg)'
    assert coco.check(annotations=[coco.annotation(1)]) == [('warning', message)]


def test_images_below_the_minimum_size_are_named(coco):
    message = '2 images have a side under 9 pixels and are left out (filter_cfg.min_size) (1.jpg, 2.jpg)'
    assert coco.check(min_size=9) == [('warning', message)]


@pytest.mark.parametrize(
    'changes',
    [
        {'bbox': [-1, 2, 12, 4]},  # rounded outwards
        {'segmentation': {'size': [8, 10], 'counts': [79, 1]}},
        {'segmentation': {'size': [8, 10], 'counts': 'abc'}},
    ],
)
def test_annotations_that_loaders_read_have_no_findings(coco, changes):
    assert coco.check_first(**changes) == []


def test_masks_are_not_checked_for_a_detector(coco):
    annotations = [coco.annotation(1, segmentation='x'), coco.annotation(2, image=2)]
    assert coco.check(masks=False, annotations=annotations) == []


def test_incomplete_entries_are_named_and_the_others_are_checked(coco):
    complete = coco.annotation(3, image=2, category_id=7)
    incomplete = {key: value for key, value in coco.annotation(1).items() if key not in ('area', 'bbox')}
    errors = [text for level, text in coco.check(annotations=[incomplete, complete]) if level == 'error']
    assert errors == [
        '1 of the 2 annotations are incomplete (number 0 lacks bbox, area)',
        '1 annotations have a category that the file does not list (annotation 3: 7)',
    ]


@pytest.mark.parametrize('key', ['id', 'image_id', 'category_id', 'bbox', 'area'])
@pytest.mark.parametrize('value', [None, {}])
def test_an_annotation_with_a_value_of_another_type_is_incomplete(coco, key, value):
    errors = [text for level, text in coco.check_first(**{key: value}) if level == 'error']
    assert errors == [f'1 of the 2 annotations are incomplete (number 0 lacks {key})']


@pytest.mark.parametrize('key', ['id', 'file_name', 'height', 'width'])
def test_an_image_with_a_value_of_another_type_is_incomplete(coco, key):
    findings = coco.check(images=lambda images: [{**images[0], key: []}, images[1]])
    assert ('error', f'1 of the 2 images are incomplete (number 0 lacks {key})') in findings


def test_a_file_without_objects_is_an_error_if_images_without_objects_are_left_out(coco):
    assert [level for level, _ in coco.check(annotations=[])] == ['warning']
    assert [level for level, _ in coco.check(annotations=[], filter_empty=True)] == ['error']


def test_two_categories_with_the_same_name_are_refused(coco):
    with pytest.raises(InputError, match='two categories are called cat; labels would shift'):
        coco.check(categories=lambda c: [*c, {'id': 2, 'name': 'cat'}])


@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
def test_entries_that_are_not_objects_are_refused(coco, key):
    with pytest.raises(InputError, match=f'coco.json: not COCO annotations, an entry of {key}'):
        coco.check(**{key: [1]})


def test_a_hundred_thousand_annotations(coco, tmp_path):
    """Check every vectorised step, with polygons in more than one chunk."""
    number, rng = 100_000, np.random.default_rng(0)
    images = [{'id': i, 'file_name': f'{i}.jpg', 'width': 100, 'height': 100} for i in range(1000)]
    corners = rng.uniform(0, 50, (number, 2)).round(1).tolist()
    annotations = [
        coco.annotation(i, i % 1000, bbox=[x, y, 9, 9], segmentation=[[x, y, x + 9, y, x, y + 9]])
        for i, (x, y) in enumerate(corners)
    ]
    annotations[99_998]['bbox'] = [95, 0, 9, 9]
    annotations[99_999]['segmentation'] = [[0, 0, 4, 4, 8, 8], [0, 0, 4, 0, 4, 4]]
    content = {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'cat'}]}
    (tmp_path / 'a.json').write_text(json.dumps(content))
    for image in images:
        (tmp_path / image['file_name']).touch()
    report = checks.instances(tmp_path / 'a.json', tmp_path, ['cat'], masks=True)
    assert report.summary == '1,000 images, 100,000 objects, 1 classes'
    assert [finding.offenders for finding in report.findings] == [['annotation 99998'], ['annotation 99999']]


def test_areas_of_regular_polygons(monkeypatch):
    monkeypatch.setattr(coco_instances, 'CHUNK', 3)
    polygons, expected = [], []
    for sides in range(3, 10):
        angle = 2 * np.pi * np.arange(sides) / sides
        polygons.append(np.stack([300 + 5 * np.cos(angle), 200 + 5 * np.sin(angle)], 1).ravel().tolist())
        expected.append(sides / 2 * 25 * np.sin(2 * np.pi / sides))
    np.testing.assert_allclose(coco_instances._areas(polygons), expected)
    assert coco_instances._areas([]).shape == (0,)
