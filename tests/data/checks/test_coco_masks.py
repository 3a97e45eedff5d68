import json

import numpy as np
import pytest
from pycocotools import mask as codec

from repvit_dense.data import checks
from repvit_dense.data.checks import coco_masks
from repvit_dense.data.checks.coco_masks import polygon_areas, read_masks


def encode(mask):
    """Return the compressed RLE of a mask `(H, W)` as in a JSON file."""
    encoded = codec.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {'size': encoded['size'], 'counts': encoded['counts'].decode()}


def square():
    mask = np.zeros((8, 10), np.uint8)
    mask[2:6, 2:6] = 1
    return mask


@pytest.mark.parametrize('mask', [encode(square()), {'size': [8, 10], 'counts': [18, 4, 4, 4, 4, 4, 4, 4, 34]}])
def test_run_lengths_have_no_findings(coco, mask):
    assert coco.check_first(segmentation=mask) == []


@pytest.mark.parametrize('mask', [None, [], {}])
def test_an_object_without_mask(coco, mask):
    [finding] = coco.check_first(segmentation=mask)
    assert finding == (
        'error',
        '1 objects have no mask, which this config trains; use a detection config (annotation 1)',
    )


@pytest.mark.parametrize(
    'mask',
    [
        'x',
        [2, 2, 6, 2, 6, 6],
        [[[2, 2], [6, 2], [6, 6]]],
        [['1'] * 6],
        [[True] * 6],
        [[1, 2, 3, 4, 5, None]],
        [[1, 2, 3, 4, 5, float('nan')]],
        [[1, 2, 3, 4, 5, float('inf')]],
        [{'size': [8, 10], 'counts': [40, 40]}],
    ],
)
def test_masks_that_are_no_polygons(coco, mask):
    [(level, text)] = coco.check_first(segmentation=mask)
    assert level == 'error'
    assert text.startswith('1 masks are not lists [[x, y, x, y, ...], ...] of finite numbers')


@pytest.mark.parametrize('size', [[10, 8], ['8', '10'], [8.0, 10], [8], None, [10**400, 10], 'x'])
def test_run_lengths_of_another_size(coco, size):
    findings = coco.check_first(segmentation={'size': size, 'counts': [40, 40]})
    text = '1 masks (RLE) do not have the size of their image, which is [height, width] in whole numbers'
    assert findings == [('error', f'{text} (annotation 1)')]


@pytest.mark.parametrize(
    'counts',
    [
        '',
        'abc',
        'o',
        'oooooooooooooooo0',
        'é',
        'P2\x00',
        None,
        {},
        5,
        [],
        [40, 39],
        [40, 41],
        [-1, 81],
        [40.0, 40],
        ['80'],
    ]
    + [[True, 79], [10**400, 40], [2**32 + 40, 40]],
)
def test_run_lengths_that_cannot_be_decoded(coco, counts):
    findings = coco.check_first(segmentation={'size': [8, 10], 'counts': counts})
    assert findings == [('error', '1 masks (RLE) cannot be decoded to all pixels of their image (annotation 1)')]


@pytest.mark.parametrize(
    'mask, message',
    [
        ([[2, 2, 6, 2, 6, 6], [1, 2, 3, 4]], '1 objects have a polygon of under 3 points'),
        ([[2, 2, 6, 2, 6, 6], [1, 2, 3, 4, 5, 6, 7]], '1 objects have a polygon of under 3 points or an odd count'),
        ([[2, 2, 6, 2, 6, 6], [1, 1, 5, 5, 3, 3]], '1 objects have a polygon without area'),
        ([[1, 1, 5, 5, 3, 3]], '1 objects have an empty mask'),
        ([[1, 2, 3, 4]], '1 objects have an empty mask'),
        ({'size': [8, 10], 'counts': [80]}, '1 objects have an empty mask'),
        ([[2, 2, 12, 2, 6, 6]], '1 masks reach outside their image and are cut'),
    ],
)
def test_masks_that_are_cut_or_dropped(coco, mask, message):
    findings = coco.check_first(segmentation=mask)
    assert {level for level, _ in findings} == {'warning'}
    assert any(text.startswith(message) for _, text in findings), findings


@pytest.mark.parametrize(
    'polygon', [[1e18] * 6, [2, 2, 1e18, 2, 6, -1e18], [20, 2, 29, 2, 25, 6], [2, 2, 10**400, 2, 6, 6]]
)
def test_masks_outside_the_image(coco, polygon):
    errors = [text for level, text in coco.check_first(segmentation=[polygon]) if level == 'error']
    assert errors == ['1 masks lie outside their image or exceed it by its own size (annotation 1)']


def test_a_polygon_that_takes_too_much_memory(coco, monkeypatch):
    monkeypatch.setattr(coco_masks, 'OUTLINE', 300)
    findings = coco.check_first(segmentation=[[2, 2, 6, 2, 6, 6, 2, 6] * 30])
    assert [level for level, _ in findings] == ['error']


def test_masks_of_another_scale_than_their_boxes(coco):
    small = [[0, 0, 1, 0, 1, 1, 0, 1]]
    [finding] = coco.check_first(segmentation=small)
    assert finding == ('warning', '1 masks do not lie in the box of their object (annotation 1)')
    findings = coco.check(annotations=lambda a: [{**entry, 'segmentation': small} for entry in a])
    assert [level for level, _ in findings] == ['error']


def test_masks_that_are_all_empty(coco):
    empty = {'size': [8, 10], 'counts': [80]}
    errors = [
        text
        for level, text in coco.check(annotations=lambda a: [{**e, 'segmentation': empty} for e in a])
        if level == 'error'
    ]
    assert errors == ['2 objects have an empty mask (annotation 1, annotation 2)', 'no object is left to learn from']


def test_run_lengths_that_a_data_set_of_polygons_drops(coco):
    coco.write(annotations=[coco.annotation(1, segmentation=encode(square())), coco.annotation(2, image=2)])
    [finding] = [
        finding
        for finding in checks.instances(coco.file, coco.images, ['cat'], masks=True, polygons_only=True).findings
        if 'RLE' in finding.message
    ]
    assert str(finding).startswith('1 objects have a mask in RLE and are left out; poly2mask=True')


def test_area_and_extent_of_run_lengths(monkeypatch):
    monkeypatch.setattr(coco_masks, 'CHUNK', 500)
    rng, masks = np.random.default_rng(0), []
    for density in (0, 0.05, 0.5, 1) * 30:
        masks.append(rng.random(rng.integers(1, 40, 2)) < density)
    encoded = [codec.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
    measured = read_masks([encode(mask) for mask in masks], np.array([mask.shape[::-1] for mask in masks]))
    assert measured.faults == {}
    np.testing.assert_array_equal(measured.areas, codec.area(encoded))
    left, top, right, bottom = np.nan_to_num(measured.corners).T
    np.testing.assert_array_equal(np.stack([left, top, right - left, bottom - top], 1), codec.toBbox(encoded))


def test_area_and_extent_of_polygons(monkeypatch):
    monkeypatch.setattr(coco_masks, 'CHUNK', 3)
    masks, areas, corners = [], [], []
    for sides in range(4, 13, 4):
        angle = 2 * np.pi * np.arange(sides) / sides
        points = np.stack([300 + 5 * np.cos(angle), 200 + 5 * np.sin(angle)], 1).ravel().tolist()
        masks.append([points, [0, 0, 1, 0, 1, 1]])
        areas.append(sides / 2 * 25 * np.sin(2 * np.pi / sides) + 0.5)
        corners.append([0, 0, 305, 205])
    measured = read_masks(masks, np.array([[640, 480]] * 3))
    np.testing.assert_allclose(measured.areas, areas)
    np.testing.assert_allclose(measured.corners, corners)
    assert polygon_areas(np.array([[0, 0], [2, 0], [0, 3]]), np.array([3])).tolist() == [3]


def test_many_annotations(coco, tmp_path, monkeypatch):
    """Check every vectorised step, with polygons in more than one chunk."""
    monkeypatch.setattr(coco_masks, 'CHUNK', 15_000)
    number, rng = 10_000, np.random.default_rng(0)
    images = [{'id': i, 'file_name': f'{i}.jpg', 'width': 100, 'height': 100} for i in range(100)]
    corners = rng.uniform(0, 50, (number, 2)).tolist()
    annotations = [
        coco.annotation(i, i % 100, bbox=[x, y, 9, 9], area=41, segmentation=[[x, y, x + 9, y, x, y + 9]])
        for i, (x, y) in enumerate(corners)
    ]
    annotations[9_998]['bbox'][0] = 95
    annotations[9_999]['segmentation'] = [[0, 0, 4, 4, 8, 8], [0, 0, 4, 0, 4, 4]]
    content = {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'cat'}]}
    (tmp_path / 'a.json').write_text(json.dumps(content))
    for image in images:
        (tmp_path / image['file_name']).touch()
    report = checks.instances(tmp_path / 'a.json', tmp_path, ['cat'], masks=True)
    assert report.summary == '100 images, 10,000 objects, 1 classes'
    assert {offender for finding in report.findings for offender in finding.offenders} == {
        'annotation 9998',
        'annotation 9999',
    }
