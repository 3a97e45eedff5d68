import pytest

from repvit_dense.data import checks
from repvit_dense.errors import InputError


def test_valid_annotations_have_no_findings(coco):
    assert coco.check() == []


@pytest.mark.parametrize(
    'changes, fault',
    [
        ({'bbox': [1, 2, 3]}, 'bbox is [1, 2, 3], not four numbers x, y, width, height in pixels'),
        ({'bbox': [1, 2, 3, None]}, 'bbox is [1, 2, 3, None], not'),
        ({'bbox': ['2', '2', '4', '4']}, "bbox is ['2', '2', '4', '4'], not"),
        ({'bbox': [True, 2, 4, 4]}, 'bbox is [True, 2, 4, 4], not'),
        ({'bbox': [1, 2, float('nan'), 4]}, 'bbox is [1, 2, nan, 4], not'),
        ({'bbox': [1, 2, 10**400, 4]}, 'bbox is [1, 2, 1'),
        ({'area': '16'}, "area is '16', not a number of square pixels"),
        ({'area': float('nan')}, 'area is nan, not'),
        ({'area': True}, 'area is True, not'),
        ({'iscrowd': '0'}, "iscrowd is '0', not 0 or 1"),
        ({'iscrowd': 2}, 'iscrowd is 2, not'),
        ({'iscrowd': []}, 'iscrowd is [], not'),
        (
            {'ignore': '0', 'area': None},
            "area is None, not a number of square pixels; ignore is '0', not 0 or 1",
        ),
    ],
)
def test_values_that_cannot_be_read(coco, changes, fault):
    [error] = [text for level, text in coco.check_first(**changes) if level == 'error']
    assert error.startswith('1 of the 2 annotations have missing or impossible values (id 1: ' + fault)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'category_id': 7}, '1 annotations have an unknown category_id, which no category has'),
        ({'category_id': '1'}, '1 annotations have a text as category_id, and the category has'),
        (
            {'image_id': '1'},
            '1 annotations have a text as image_id, and the image has',
        ),
        ({'bbox': [1e14, 2, 4, 4]}, '1 boxes reach outside their image by more than its own size (annotation 1)'),
        ({'bbox': [2, -9, 4, 14]}, '1 boxes reach outside their image by more than its own size (annotation 1)'),
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
        (
            {'images': lambda i: [{**i[0], 'width': 10**5, 'height': 10**5}, i[1]]},
            '1 images have more than 200,000,000',
        ),
        ({'annotations': lambda a: [{**e, 'bbox': [5, 4, 9, 7]} for e in a]}, 'bbox seems to hold left, top, right,'),
        ({'annotations': lambda a: [{**e, 'bbox': [2, 2, 6, 6]} for e in a]}, 'bbox seems to hold left, top, right,'),
        ({'annotations': lambda a: [{**e, 'bbox': [2, 2, 6, 6]} for e in a], 'masks': False}, 'bbox seems to hold'),
        ({'annotations': lambda a: [{**e, 'area': 0} for e in a]}, '2 objects have an area of 0 or less'),
        ({'annotations': lambda a: [{**e, 'ignore': 1} for e in a]}, 'no object is left to learn from'),
        ({'annotations': lambda a: [{**e, 'iscrowd': 1} for e in a]}, 'no object is left to learn from; 2 are crowds'),
        (
            {'annotations': lambda a: [{**e, 'bbox': [-3, 2, 13, 4]} for e in a]},
            '2 of 2 boxes reach outside their image; were',
        ),
        ({'min_size': 9}, '2 images have a side under 9 pixels and are left out'),
        ({'min_size': 9}, 'no image with objects and sides from 9 pixels is left'),
    ],
)
def test_errors_of_a_file(coco, changes, message):
    errors = [text for level, text in coco.check(**changes) if level == 'error']
    assert any(text.startswith(message) for text in errors), errors


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'bbox': [7, 2, 4.1, 4]}, '1 boxes reach outside their image and are cut (annotation 1)'),
        ({'bbox': [-1.1, 2, 4, 4]}, '1 boxes reach outside their image and are cut (annotation 1)'),
        ({'bbox': [2, 2, 0, 4], 'iscrowd': 1}, '1 boxes are narrower than a pixel'),
        ({'bbox': [2, 2, -1, 4]}, '1 boxes are narrower than a pixel'),
        ({'bbox': [12, 2, 4, 4]}, '1 boxes lie outside their image, and their objects are left out'),
        ({'area': 0}, '1 objects have an area of 0 or less and are left out'),
        ({'area': 200}, '1 areas fit neither box nor mask'),
        ({'ignore': 1}, "1 objects have the mark 'ignore' and are left out"),
        (
            {'image_id': 9},
            '1 annotations have an unknown image_id, which no image has, and are left out',
        ),
        ({'iscrowd': 1}, '1 of the 2 images have no object, or only crowds (1.jpg)'),
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
    message = '1 images have a side under 8 pixels and are left out (filter_cfg.min_size) (1.jpg)'
    assert coco.check(min_size=8, images=lambda i: [{**i[0], 'height': 7}, i[1]], masks=False) == [('warning', message)]


@pytest.mark.parametrize('changes', [{'bbox': [-1, 2, 12, 4]}, {'iscrowd': False}, {'iscrowd': None}, {'area': 5}])
def test_annotations_that_loaders_read_have_no_findings(coco, changes):
    assert coco.check_first(**changes) == []


def test_an_image_listed_twice(coco):
    findings = coco.check(images=lambda images: [images[0], {**images[1], 'file_name': '1.jpg'}])
    assert findings == [('warning', '1 image files are listed more than once, as different images (1.jpg)')]


def test_an_object_listed_twice(coco):
    findings = coco.check(annotations=lambda a: [*a, {**a[0], 'id': 3}])
    assert findings == [('warning', '1 objects have the class and box of another one in their image (annotation 3)')]


def test_ids_that_differ_in_type_only(coco):
    findings = coco.check(annotations=lambda a: [a[0], {**a[1], 'id': '1'}])
    assert findings == [('error', '1 annotation ids are used more than once (1)')]


def test_class_names_that_differ_in_spaces_and_capitals(coco):
    findings = coco.check(categories=[{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'Cat\u200b '}])
    message = (
        "1 class names differ only in spaces, capitals or invisibly; are they one class? ('cat' and 'Cat\\u200b ')"
    )
    assert findings == [('warning', message)]


def test_a_class_without_objects_in_the_training_data(coco):
    changes = {'categories': lambda c: [*c, {'id': 2, 'name': 'dog'}], 'classes': ('cat', 'dog')}
    assert coco.check(**changes) == []
    assert coco.check(**changes, training=True) == [('warning', '1 classes have no object to learn from (dog)')]


@pytest.mark.parametrize('name', ['', ' ', 'cat\r', '\ud83d', 'a\0b'])
def test_class_names_that_cannot_be_printed(coco, name):
    with pytest.raises(InputError, match='coco.json: the category 1 is called .*; give it a name of plain text'):
        coco.check(categories=[{'id': 1, 'name': name}])


def test_masks_are_not_checked_for_a_detector(coco):
    annotations = [coco.annotation(1, segmentation='x'), coco.annotation(2, image=2)]
    assert coco.check(masks=False, annotations=annotations) == []


def test_incomplete_entries_are_named_and_the_others_are_checked(coco):
    complete = coco.annotation(3, image=2, category_id=7)
    incomplete = {key: value for key, value in coco.annotation(1).items() if key not in ('area', 'bbox')}
    errors = [text for level, text in coco.check(annotations=[incomplete, complete]) if level == 'error']
    assert errors[:2] == [
        '1 of the 2 annotations have missing or impossible values '
        '(id 1: bbox is missing; area is missing (--data PATH adds it))',
        '1 annotations have an unknown category_id, which no category has (annotation 3: 7)',
    ]


@pytest.mark.parametrize('key', ['id', 'image_id', 'category_id'])
@pytest.mark.parametrize('value', [None, {}, [1], 1.0, True])
def test_ids_of_another_type_are_refused(coco, key, value):
    with pytest.raises(
        InputError, match=f'1 of the 2 annotations have neither a whole number nor text as {key}; number 0'
    ):
        coco.check_first(**{key: value})


@pytest.mark.parametrize(
    'key, value',
    [
        ('file_name', ''),
        ('file_name', 5),
        ('height', 0),
        ('height', 8.0),
        ('height', '8'),
        ('width', -1),
        ('width', float('nan')),
        ('width', 10**400),
        ('width', True),
    ],
)
def test_an_image_with_an_impossible_value(coco, key, value):
    [finding] = coco.check(images=lambda images: [{**images[0], key: value}, images[1]])
    assert finding[0] == 'error'
    assert finding[1].startswith(f'1 of the 2 images have missing or impossible values (id 1: {key} is ')


def test_a_file_without_objects_is_an_error_if_images_without_objects_are_left_out(coco):
    assert [level for level, _ in coco.check(annotations=[])] == ['warning']
    assert 'error' in [level for level, _ in coco.check(annotations=[], filter_empty=True)]
    assert 'error' in [level for level, _ in coco.check(annotations=[], training=True)]


def test_a_key_that_occurs_twice_is_refused(coco):
    coco.check()
    coco.file.write_text(coco.file.read_text().replace('"area": 16', '"area": 16, "area": 9', 1))
    with pytest.raises(InputError, match="the key 'area' occurs twice"):
        checks.instances(coco.file, coco.images, ['cat'])


def test_two_categories_with_the_same_name_are_refused(coco):
    with pytest.raises(InputError, match='two categories are called cat; labels would shift'):
        coco.check(categories=lambda c: [*c, {'id': 2, 'name': 'cat'}])


@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
def test_entries_that_are_not_objects_are_refused(coco, key):
    with pytest.raises(InputError, match=f'coco.json: not COCO annotations, an entry of {key}'):
        coco.check(**{key: [1]})


@pytest.mark.parametrize(
    'key, value, text',
    [('width', 10.0, '; write 10 without a fraction (--data'), ('width', 0.0, ''), ('width', 9.5, '')],
)
def test_a_whole_number_with_a_fraction_has_a_remedy(coco, key, value, text):
    [(level, message), *_] = coco.check(images=lambda images: [images[0] | {key: value}, images[1]])
    assert f'{key} is {value}, not a positive whole number of pixels{text}' in message
    assert ('without a fraction' in message) == bool(text)
