import json

import pytest

from repvit_dense.data import checks, shapes
from repvit_dense.data.checks import Report
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
    assert check(drawn) == Report('3 images, 8 things and 4 stuff, all 3 maps checked', [])


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
        (lambda c: segment(c).pop('area'), 'segments of 1 images lack one of area, bbox, category_id, id (image 2)'),
        (
            lambda c: c['annotations'][1]['segments_info'].append(segment(c)),
            '1 images have two segments with the same id',
        ),
        (lambda c: c['images'][0].update(height=65), '1 maps do not have the size of their image (000000000001.png)'),
        (lambda c: c['images'][0].update(file_name='x.png'), '1 of the 3 maps are not in '),
        (lambda c: c['annotations'].append(c['annotations'][0]), '1 annotated image ids are used more than once'),
        (lambda c: c['annotations'].pop(), '1 images have no annotation (000000000003.png)'),
    ],
)
def test_faults(drawn, change, message):
    findings = [str(finding) for finding in check(drawn, change).findings]
    assert any(text.startswith(message) for text in findings), findings


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
