import json

import pytest
from PIL import Image

from repvit_dense.data import checks, shapes
from repvit_dense.data.checks import coco_panoptic
from repvit_dense.errors import InputError


@pytest.fixture
def drawn(tmp_path):
    return shapes.generate(tmp_path / 'shapes', num_train=3, num_val=1, size=(64, 96))


def check(root, change=None):
    """Check the training split of `shapes`; `change` edits the content of its annotation file before that."""
    file = root / 'annotations/panoptic_train2017.json'
    if change:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    classes = shapes.THING_CLASSES + shapes.STUFF_CLASSES
    return checks.panoptic(file, root / 'train2017', file.with_suffix(''), classes, len(shapes.THING_CLASSES))


def test_a_valid_data_set_has_no_findings(drawn):
    report = check(drawn)
    assert (report.summary, report.findings) == ('3 images, 8 things and 4 stuff, all 3 maps checked', [])


def segment(content):
    return content['annotations'][1]['segments_info'][0]


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda c: segment(c).update(id=5_000_000),
            '1 segments have no pixel in their map (000000000002.png: 5000000)',
        ),
        (lambda c: segment(c).update(category_id=99), '1 segments have a category that the file does not list'),
        (
            lambda c: c['annotations'][1]['segments_info'].append(segment(c)),
            '1 images have two segments with the same id',
        ),
        (lambda c: c['images'][0].update(height=65), '1 maps do not have the size of their image (000000000001.png)'),
        (lambda c: c['images'][0].update(file_name='x.png'), '1 of the 3 maps are not in '),
        (lambda c: c['annotations'].append(c['annotations'][0]), '1 annotated image ids are used more than once'),
        (
            lambda c: c['annotations'].pop(),
            '1 images have no segments, and all their pixels are ignored (000000000003.png)',
        ),
    ],
)
def test_faults(drawn, change, message):
    findings = [str(finding) for finding in check(drawn, change).findings]
    assert any(text.startswith(message) for text in findings), findings


@pytest.mark.parametrize(
    'change, fault',
    [
        ({'area': None}, 'area is None, not a number'),
        ({'bbox': 'x'}, "bbox is 'x', not four numbers"),
        ({'bbox': [None] * 4}, 'bbox is [None, None, None, None], not four numbers'),
        ({'id': 256**3}, 'id is 16777216, not a whole number from 1 to 16,777,215'),
        ({'id': 0}, 'id is 0, not'),
        ({'id': '7'}, "id is '7', not"),
        ({'id': [7]}, 'id is [7], not'),
        ({'category_id': '1'}, "category_id is '1', not a whole number"),
        ({'category_id': {}}, 'category_id is {}, not a whole number'),
        ({'iscrowd': '0'}, "iscrowd is '0', not 0 or 1"),
    ],
)
def test_segments_that_cannot_be_read(drawn, change, fault):
    findings = [str(finding) for finding in check(drawn, lambda c: segment(c).update(change)).findings]
    prefix = '1 segments have missing or impossible values (image 2, segment number 0: '
    assert any(text.startswith(prefix + fault) for text in findings), findings


@pytest.mark.parametrize('segments', [[5], [None], 'x', None, {}])
def test_lists_of_segments_that_are_none(drawn, segments):
    report = check(drawn, lambda content: content['annotations'][1].update(segments_info=segments))
    assert 'error' in {finding.level for finding in report.findings}


@pytest.mark.parametrize(
    'change, level, message',
    [
        (
            lambda c: segment(c).update(bbox=[2, 2, 0.5, 4]),
            'warning',
            '1 segments are narrower than a pixel or have an',
        ),
        (lambda c: segment(c).update(bbox=[1e9, 2, 5, 4]), 'error', '1 boxes reach outside their image by more than'),
        (
            lambda c: segment(c).update(bbox=[1, 1, 1, 1]),
            'warning',
            '1 masks do not lie in the box of their object',
        ),
        (lambda c: segment(c).update(area=90_000), 'warning', '1 areas fit neither box nor mask'),
        (lambda c: c['annotations'][1].update(image_id='2'), 'error', '1 annotations have a text as image_id'),
        (
            lambda c: c['annotations'][1].update(image_id=9),
            'warning',
            '1 annotations have an unknown image_id, which no',
        ),
        (
            lambda c: c['annotations'][1].update(file_name='x.png'),
            'warning',
            '1 annotations name another map than the one that',
        ),
    ],
)
def test_levels(drawn, change, level, message):
    findings = [(finding.level, str(finding)) for finding in check(drawn, change).findings]
    assert any(each == level and text.startswith(message) for each, text in findings), findings


def test_segments_that_are_all_dropped(drawn):
    def change(content):
        for annotation in content['annotations']:
            for entry in annotation['segments_info']:
                entry['area'] = 0

    errors = [str(finding) for finding in check(drawn, change).findings if finding.level == 'error']
    assert errors[0].endswith(' more)')
    assert errors[1:] == ['no segment is left to learn from']


def test_pixels_of_segments_that_are_not_listed(drawn):
    removed = []
    report = check(drawn, lambda content: removed.append(content['annotations'][1]['segments_info'].pop()))
    [finding] = report.findings
    assert finding.level == 'error'
    assert str(finding) == (
        f'1 segments in maps are not listed, and their pixels would be ignored (000000000002.png: {removed[0]["id"]})'
    )


@pytest.mark.parametrize(
    'mode, suffix, message',
    [
        ('RGB', 'JPEG', '1 maps are no PNG files; other formats may change the ids of the segments'),
        ('I;16', 'PNG', '1 maps have 16 bits per channel, of which the loader drops eight'),
        ('L', 'PNG', '000000000002.png (grey, read as R = G = B): '),
        ('P', 'PNG', '000000000002.png (with a palette, read as its colours): '),
    ],
)
def test_maps_of_another_format(drawn, mode, suffix, message):
    map_file = drawn / 'annotations/panoptic_train2017/000000000002.png'
    Image.new(mode, (96, 64), 3).save(map_file, suffix)
    text = ' '.join(str(finding) for finding in check(drawn).findings if finding.level == 'error')
    assert message in text


def test_a_damaged_map_is_named_and_the_others_are_checked(drawn):
    (drawn / 'annotations/panoptic_train2017/000000000002.png').write_bytes(b'')
    [finding] = [finding for finding in check(drawn).findings if finding.level == 'error']
    assert finding.message == '1 maps cannot be decoded'
    assert finding.offenders[0].endswith('000000000002.png: cannot be read as an image (the file is empty, 0 bytes)')


@pytest.mark.parametrize('mode', ['RGBA', 'P'])
def test_maps_of_another_format_with_the_same_colours(drawn, mode):
    map_file = drawn / 'annotations/panoptic_train2017/000000000002.png'
    Image.open(map_file).convert(mode, palette=Image.Palette.ADAPTIVE).save(map_file)
    assert check(drawn).findings == []


def test_an_image_without_segments(drawn):
    (drawn / 'annotations/panoptic_train2017/000000000002.png').unlink()
    Image.new('RGB', (96, 64)).save(drawn / 'annotations/panoptic_train2017/000000000002.png')
    [finding] = check(drawn, lambda content: content['annotations'][1].update(segments_info=[])).findings
    assert str(finding) == '1 images have no segments, and all their pixels are ignored (000000000002.png)'


def test_segment_ids_that_all_images_share(drawn, monkeypatch):
    monkeypatch.setattr(coco_panoptic, 'SLOW', 10)
    [finding] = check(drawn).findings
    assert finding.message.startswith('many images have the same segment ids')


@pytest.mark.parametrize('named', [True, False])
def test_a_map_that_the_loader_does_not_look_for(drawn, named):
    def change(content):
        content['images'][0].update(file_name='000000000001.JPEG')
        if not named:
            del content['annotations'][0]['file_name']

    image = drawn / 'train2017/000000000001.png'
    image.rename(image.with_suffix('.JPEG'))
    [finding] = check(drawn, change).findings
    assert finding.offenders == [
        '000000000001.JPEG: 000000000001.png exists, '
        'but the loader looks for the name of the image with .jpg replaced by .png'
    ]


def test_a_class_without_segments_in_the_training_data(drawn):
    file = drawn / 'annotations/panoptic_train2017.json'
    content = json.loads(file.read_text())
    used = {s['category_id'] for a in content['annotations'] for s in a['segments_info']}
    names = [category['name'] for category in content['categories'] if category['id'] not in used]
    classes = shapes.THING_CLASSES + shapes.STUFF_CLASSES
    [finding] = checks.panoptic(file, drawn / 'train2017', file.with_suffix(''), classes, 8, training=True).findings
    assert finding == ('warning', f'{len(names)} classes have no segment to learn from', names)


@pytest.mark.parametrize('value', ['0', 'false', None, 2, []])
def test_a_mark_of_things_that_is_neither_0_nor_1(drawn, value):
    with pytest.raises(InputError, match='isthing of the category circle is neither 0 nor 1'):
        check(drawn, lambda content: content['categories'][0].update(isthing=value))


def test_category_ids_that_are_text(drawn):
    findings = check(drawn, lambda content: content['categories'][0].update(id='1')).findings
    assert (
        str(findings[0])
        == "1 of the 12 categories have missing or impossible values (id 1: id is '1', not a whole number)"
    )


def test_stuff_before_things_is_refused(drawn):
    with pytest.raises(InputError, match='order the classes differently'):
        check(drawn, lambda content: content['categories'].reverse())


def test_things_that_differ_from_the_config_are_refused(drawn):
    with pytest.raises(InputError, match='its things are circle.*crescent, stripes; the config has circle'):
        check(drawn, lambda content: content['categories'][8].update(isthing=1))


def test_instance_annotations_are_refused(drawn):
    file = drawn / 'annotations/instances_train2017.json'
    with pytest.raises(InputError, match='not COCO panoptic annotations, a category lacks isthing'):
        checks.panoptic(file, drawn, drawn, shapes.THING_CLASSES, 8)
