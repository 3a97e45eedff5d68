"""Every fault is found and named, sound data passes, and neither takes long."""

import gc
import json
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from repvit_dense.data import checks, shapes
from repvit_dense.data.checks import Finding, Report
from repvit_dense.errors import InputError

SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]


def annotation(number, image=1, **changes):
    entry = {'id': number, 'image_id': image, 'category_id': 1, 'bbox': [2, 2, 4, 4], 'area': 16, 'iscrowd': 0}
    return {**entry, 'segmentation': [SQUARE], **changes}


@pytest.fixture
def coco(tmp_path):
    """`coco(**changes)` writes two images of 10x8 with an object each; returns what `checks.instances` found, as text.

    A change replaces a list of the file; a function is given the list instead.
    """

    def write(masks=True, filter_empty=False, min_size=0, classes=('cat',), **changes):
        content = {
            'images': [{'id': i, 'file_name': f'{i}.jpg', 'width': 10, 'height': 8} for i in (1, 2)],
            'annotations': [annotation(1), annotation(2, image=2)],
            'categories': [{'id': 1, 'name': 'cat'}],
        }
        for key, change in changes.items():
            content[key] = change(content[key]) if callable(change) else change
        (tmp_path / 'images').mkdir(exist_ok=True)
        for i in (1, 2):
            (tmp_path / f'images/{i}.jpg').touch()
        (tmp_path / 'coco.json').write_text(json.dumps(content))
        report = checks.instances(tmp_path / 'coco.json', tmp_path / 'images', classes, masks, filter_empty, min_size)
        return [(finding.level, str(finding)) for finding in report.findings]

    return write


def first(**changes):
    """Annotations of which the first is changed."""
    return [{**annotation(1), **changes}, annotation(2, image=2)]


# --- instances ---


def test_sound_annotations_pass(coco):
    assert coco() == []


@pytest.mark.parametrize(
    'changes, what',
    [
        ({'annotations': first(bbox=[1, 2, 3])}, '1 boxes are not four finite numbers'),
        ({'annotations': first(bbox=[1, 2, 3, None])}, '1 boxes are not four finite numbers'),
        ({'annotations': first(bbox=[1, 2, float('nan'), 4])}, '1 boxes are not four finite numbers'),
        ({'annotations': first(category_id=7)}, '1 annotations are of a category that the file does not list'),
        ({'annotations': [annotation(1), annotation(1, image=2)]}, '1 annotation ids are used more than once (1)'),
        ({'images': lambda images: [*images, images[0]]}, '1 image ids are used more than once (1)'),
        ({'categories': lambda c: [*c, {'id': 1, 'name': 'dog'}]}, '1 category ids are used more than once (1)'),
        ({'annotations': first(segmentation=None)}, '1 objects have no mask, which this config trains'),
        ({'annotations': first(segmentation=[])}, '1 objects have no mask, which this config trains'),
        ({'annotations': first(segmentation=[[1, 2, 3, 4, 5, float('nan')]])}, '1 objects have a mask that is not'),
        ({'annotations': first(segmentation=[['1'] * 6])}, '1 objects have a mask that is not made of finite numbers'),
        ({'annotations': first(segmentation='x')}, '1 objects have a mask that is not made of finite numbers'),
        ({'annotations': first(segmentation={'size': [10, 8], 'counts': 'x'})}, '1 masks (RLE) do not have the size'),
        ({'annotations': first(segmentation={'size': [8, 10], 'counts': [3]})}, '1 masks (RLE) do not have the size'),
        ({'annotations': first(segmentation={'size': [8, 10]})}, '1 masks (RLE) do not have the size'),
        (
            {'images': lambda images: [{**images[0], 'file_name': 'x.jpg'}, images[1]]},
            '1 of the 2 images that it lists',
        ),
        ({'images': []}, 'the file lists no images'),
    ],
)
def test_errors(coco, changes, what):
    errors = [text for level, text in coco(**changes) if level == 'error']
    assert any(text.startswith(what) for text in errors), errors


@pytest.mark.parametrize(
    'changes, what',
    [
        ({'annotations': first(bbox=[7, 2, 4.1, 4])}, '1 boxes reach outside their image (annotation 1)'),
        ({'annotations': first(bbox=[-1.1, 2, 4, 4])}, '1 boxes reach outside their image (annotation 1)'),
        ({'annotations': first(bbox=[2, 2, 0, 4], iscrowd=1)}, '1 boxes are narrower than a pixel'),
        ({'annotations': first(image_id=9)}, '1 annotations are of an image that the file does not list'),
        ({'annotations': first(iscrowd=1)}, '1 of the 2 images have no object, or only crowds (1.jpg)'),
        ({'annotations': [annotation(1)]}, '1 of the 2 images have no object, or only crowds (2.jpg)'),
        ({'annotations': first(segmentation=[SQUARE, [1, 2, 3, 4]])}, '1 objects have a polygon of under 3 points'),
        (
            {'annotations': first(segmentation=[SQUARE[:7]])},
            '1 objects have a polygon of under 3 points or an odd count',
        ),
        ({'annotations': first(segmentation=[[1, 1, 5, 5, 3, 3]])}, '1 objects have a polygon without area'),
        ({'min_size': 9}, '2 images have a side under 9 pixels'),
    ],
)
def test_warnings(coco, changes, what):
    found = coco(**changes)
    assert {level for level, _ in found} == {'warning'}
    assert any(text.startswith(what) for _, text in found), found


@pytest.mark.parametrize(
    'change',
    [
        {'bbox': [-1, 2, 12, 4]},  # rounded outwards
        {'segmentation': {'size': [8, 10], 'counts': [79, 1]}},
        {'segmentation': {'size': [8, 10], 'counts': 'abc'}},
    ],
)
def test_what_loaders_read_passes(coco, change):
    assert coco(annotations=first(**change)) == []


def test_masks_are_nothing_to_a_detector(coco):
    assert coco(masks=False, annotations=first(segmentation='x')) == []


def test_incomplete_entries_are_named_and_the_rest_is_looked_at(coco):
    whole = annotation(3, image=2, category_id=7)
    lame = {key: value for key, value in annotation(1).items() if key not in ('area', 'bbox')}
    errors = [text for level, text in coco(annotations=[lame, whole]) if level == 'error']
    assert errors == [
        '1 of the 2 annotations are incomplete (number 0 lacks bbox, area)',
        '1 annotations are of a category that the file does not list (annotation 3: 7)',
    ]


@pytest.mark.parametrize('key', ['id', 'image_id', 'category_id', 'bbox', 'area'])
@pytest.mark.parametrize('value', [None, {}])
def test_values_of_another_type_are_an_error(coco, key, value):
    errors = [text for level, text in coco(annotations=first(**{key: value})) if level == 'error']
    assert errors == [f'1 of the 2 annotations are incomplete (number 0 lacks {key})']


@pytest.mark.parametrize('key', ['id', 'file_name', 'height', 'width'])
def test_images_of_another_type_are_an_error(coco, key):
    found = coco(images=lambda images: [{**images[0], key: []}, images[1]])
    assert ('error', f'1 of the 2 images are incomplete (number 0 lacks {key})') in found


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / 'a.json').write_bytes(b'\xff\xfe')
    with pytest.raises(InputError, match='a.json: cannot be read as text'):
        checks.read_coco(tmp_path / 'a.json')


def test_nothing_to_train_on_is_an_error_where_empty_images_are_left_out(coco):
    assert [level for level, _ in coco(annotations=[])] == ['warning']
    assert [level for level, _ in coco(annotations=[], filter_empty=True)] == ['error']


def test_two_categories_of_one_name_are_refused(coco):
    with pytest.raises(InputError, match='two categories are called cat; labels would shift'):
        coco(categories=lambda c: [*c, {'id': 2, 'name': 'cat'}])


@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
def test_entries_that_are_no_objects_are_refused(coco, key):
    with pytest.raises(InputError, match=f'coco.json: not COCO annotations, an entry of {key}'):
        coco(**{key: [1]})


def test_a_hundred_thousand_annotations(tmp_path):
    """Every vectorised check, across chunk borders."""
    number, rng = 100_000, np.random.default_rng(0)
    images = [{'id': i, 'file_name': f'{i}.jpg', 'width': 100, 'height': 100} for i in range(1000)]
    corners = rng.uniform(0, 50, (number, 2)).round(1).tolist()
    annotations = [
        annotation(i, i % 1000, bbox=[x, y, 9, 9], segmentation=[[x, y, x + 9, y, x, y + 9]])
        for i, (x, y) in enumerate(corners)
    ]
    annotations[99_998]['bbox'] = [95, 0, 9, 9]
    annotations[99_999]['segmentation'] = [[0, 0, 4, 4, 8, 8]]
    content = {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'cat'}]}
    (tmp_path / 'a.json').write_text(json.dumps(content))
    for image in images:
        (tmp_path / image['file_name']).touch()
    report = checks.instances(tmp_path / 'a.json', tmp_path, ['cat'], masks=True)
    assert report.summary == '1,000 images, 100,000 objects, 1 classes'
    assert [finding.offenders for finding in report.findings] == [['annotation 99998'], ['annotation 99999']]


def test_areas_are_those_of_the_shoelace_formula(monkeypatch):
    """Regular polygons have a formula of their own."""
    monkeypatch.setattr(checks, 'CHUNK', 3)
    polygons, expected = [], []
    for sides in range(3, 10):
        angle = 2 * np.pi * np.arange(sides) / sides
        polygons.append(np.stack([300 + 5 * np.cos(angle), 200 + 5 * np.sin(angle)], 1).ravel().tolist())
        expected.append(sides / 2 * 25 * np.sin(2 * np.pi / sides))
    np.testing.assert_allclose(checks._areas(polygons), expected)
    assert checks._areas([]).shape == (0,)


@pytest.mark.parametrize('text', ['{"images": [], "annotations": [], "categories": []}', '{'])
def test_the_collector_is_on_again_after_reading(tmp_path, text):
    (tmp_path / 'a.json').write_text(text)
    with suppress(InputError):
        checks.read_coco(tmp_path / 'a.json')
    assert gc.isenabled()


# --- reports ---


def test_a_message_names_twenty_offenders_and_counts_the_rest():
    text = str(Finding('error', 'bad', [f'n{i}' for i in range(1022)]))
    assert text.startswith('bad (n0, n1, ')
    assert text.endswith(', n19 and 1,002 more)')


def test_all_errors_stop_at_once_and_no_warning_is_among_them():
    findings = [Finding('error', 'one', ['a']), Finding('warning', 'two', []), Finding('error', 'three', [])]
    with pytest.raises(InputError) as refused:
        checks.enforce('f.json', Report('', findings))
    assert str(refused.value) == 'f.json: one (a); three'


@pytest.mark.parametrize('rank, printed', [('0', 'warning: f.json: two (a)\n'), ('1', '')])
def test_warnings_are_printed_by_one_process(capsys, monkeypatch, rank, printed):
    monkeypatch.setenv('LOCAL_RANK', rank)
    checks.enforce('f.json', Report('', [Finding('warning', 'two', ['a'])]))
    assert capsys.readouterr().err == printed


# --- panoptic ---


@pytest.fixture
def drawn(tmp_path):
    return shapes.generate(tmp_path / 'shapes', num_train=3, num_val=1, size=(64, 96))


def panoptic(root, change=None):
    """What is found in the drawn data set; `change` is given the content of the annotation file first."""
    file = root / 'annotations/panoptic_train2017.json'
    if change:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    classes = shapes.THING_CLASSES + shapes.STUFF_CLASSES
    return checks.panoptic(file, root / 'train2017', file.with_suffix(''), classes, len(shapes.THING_CLASSES))


def test_a_sound_panoptic_data_set_passes(drawn):
    assert panoptic(drawn) == Report('3 images, 8 things and 4 stuff, all 3 maps looked at', [])


def segment(content):
    return content['annotations'][1]['segments_info'][0]


@pytest.mark.parametrize(
    'change, what',
    [
        (
            lambda c: segment(c).update(id=5_000_000),
            '1 segments have no pixel in their map (000000000002.png: 5000000)',
        ),
        (lambda c: segment(c).update(category_id=99), '1 segments are of a category that the file does not list'),
        (lambda c: segment(c).pop('area'), 'segments of 1 images lack one of area, bbox, category_id, id (image 2)'),
        (lambda c: c['annotations'][1]['segments_info'].append(segment(c)), '1 images have two segments of one id'),
        (lambda c: c['images'][0].update(height=65), '1 maps do not have the size of their image (000000000001.png)'),
        (lambda c: c['images'][0].update(file_name='x.png'), '1 of the 3 maps are not in '),
        (lambda c: c['annotations'].append(c['annotations'][0]), '1 annotated image ids are used more than once'),
        (lambda c: c['annotations'].pop(), '1 images have no annotation (000000000003.png)'),
    ],
)
def test_panoptic_faults(drawn, change, what):
    found = [str(finding) for finding in panoptic(drawn, change).findings]
    assert any(text.startswith(what) for text in found), found


def test_stuff_before_things_is_refused(drawn):
    with pytest.raises(InputError, match='order the classes differently|isthing 1 before the others'):
        panoptic(drawn, lambda content: content['categories'].reverse())


def test_another_set_of_things_is_refused(drawn):
    with pytest.raises(InputError, match='its things are circle.*crescent, stripes; the config has circle'):
        panoptic(drawn, lambda content: content['categories'][8].update(isthing=1))


def test_instances_are_no_panoptic_annotations(drawn):
    file = drawn / 'annotations/instances_train2017.json'
    with pytest.raises(InputError, match='not COCO panoptic annotations, a category lacks isthing'):
        checks.panoptic(file, drawn, drawn, shapes.THING_CLASSES, 8)


# --- semantic ---


@pytest.fixture
def pairs(tmp_path):
    """`pairs(labels, ...)` writes an image of 6x4 for each array of labels; a number fills the whole mask."""

    def write(*labels):
        written = []
        for number, label in enumerate(labels):
            image, mask = tmp_path / f'{number}.jpg', tmp_path / f'{number}.png'
            Image.new('RGB', (6, 4)).save(image)
            pixels = np.full((4, 6), label) if np.ndim(label) == 0 else label
            Image.fromarray(pixels.astype(np.uint8)).save(mask)
            written.append((image, mask))
        return written

    return write


@pytest.mark.parametrize('labels, reduced', [((0, 1, 2, 255), False), ((0, 1, 2, 3, 255), True)])
def test_sound_masks_pass(pairs, labels, reduced):
    report = checks.semantic(pairs(*labels), 3, reduce_zero_label=reduced)
    assert report == Report(f'{len(labels)} images, 3 classes, all {len(labels)} masks looked at', [])


@pytest.mark.parametrize(
    'label, reduced, what',
    [
        (3, False, '1 masks have values over 2, the last of 3 classes'),
        (4, True, '1 masks have values over 3, the last of 3 classes'),
        (np.zeros((6, 4)), False, '1 masks do not have the size of their image'),
        (np.zeros((4, 6, 3)), False, '1 masks have colours, where class numbers are expected'),
    ],
)
def test_wrong_masks(pairs, label, reduced, what):
    findings = checks.semantic(pairs(0, label), 3, reduce_zero_label=reduced).findings
    assert [(finding.level, str(finding).split(' (')[0]) for finding in findings] == [('error', what)]
    assert '1.png' in str(findings[0])


@pytest.mark.parametrize('place, what', [(0, 'images'), (1, 'masks')])
def test_missing_files_of_semantic_data(pairs, place, what):
    written = pairs(0, 1)
    written[1][place].unlink()
    findings = checks.semantic(written, 2).findings
    assert [str(finding) for finding in findings] == [f'1 of the 2 {what} are not there ({written[1][place]})']


def test_no_images_are_an_error():
    assert [finding.level for finding in checks.semantic([], 2).findings] == ['error']


def test_a_palette_does_not_make_a_mask_coloured(pairs):
    [(image, mask)] = pairs(2)
    indexed = Image.fromarray(np.full((4, 6), 2, np.uint8), mode='P')
    indexed.putpalette([i for i in range(256) for _ in range(3)])
    indexed.save(mask)
    assert checks.semantic([(image, mask)], 3).findings == []


def test_of_many_masks_the_same_few_are_looked_at(pairs, monkeypatch):
    monkeypatch.setattr(checks, 'SAMPLE', 4)
    written = pairs(*[7] * 9)
    report, again = checks.semantic(written, 3), checks.semantic(written, 3)
    assert report.summary == '9 images, 3 classes, 4 of 9 masks looked at'
    assert len(report.findings[0].offenders) == 4
    assert report == again


def test_a_broken_mask_is_named(pairs):
    [(image, mask)] = pairs(0)
    mask.write_bytes(b'no image')
    with pytest.raises(InputError, match='0.png: cannot be read as an image'):
        checks.semantic([(image, mask)], 3)


def test_an_image_that_lies_on_its_side_is_measured_as_loaders_see_it(tmp_path):
    import cv2

    image, exif = Image.new('RGB', (6, 4)), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / 'a.jpg', exif=exif)
    assert checks.image_size(tmp_path / 'a.jpg') == cv2.imread(str(tmp_path / 'a.jpg')).shape[1::-1] == (4, 6)
