"""Images and label files that are paired by their names: labelling tools' files, folders and lists of the splits."""

import json

import pytest

BOX, TRIANGLE = [2, 1, 5, 4], [2, 1, 7, 1, 2, 5]  # of 8x6 pixels
VOC = (
    '<annotation><object><name>cat</name><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>7</xmax><ymax>5</ymax></bndbox>'
    '</object></annotation>'
)
YOLO = '0 0.5625 0.5 0.625 0.666667\n'  # BOX


def labelme(kind='rectangle', points=((7, 1), (2, 5)), label='cat', **values):
    shape = {'label': label, 'shape_type': kind, 'points': points, **values}
    return {'version': '5', 'flags': {}, 'shapes': [shape], 'imagePath': 'x.jpg', 'imageHeight': 6, 'imageWidth': 8}


def supervisely(kind='rectangle', points=((2, 1), (6, 4)), holes=()):
    item = {'classTitle': 'cat', 'geometryType': kind, 'points': {'exterior': points, 'interior': holes}}
    return {'description': '', 'tags': [], 'size': {'height': 6, 'width': 8}, 'objects': [item]}


def cvat(element='<box label="cat" xtl="2" ytl="1" xbr="7" ybr="5"/>', names=('a', 'b'), folder=''):
    images = (f'<image id="0" name="{folder}{n}.png" width="8" height="6">{element}</image>' for n in names)
    return f'<?xml version="1.0"?><annotations><version>1.1</version><meta/>{"".join(images)}</annotations>'


def via(shape=None, attributes=None, names=('a', 'b'), project=False):
    shape = shape or {'name': 'rect', 'x': 2, 'y': 1, 'width': 5, 'height': 4}
    region = {'shape_attributes': shape, 'region_attributes': {'class': 'cat'} if attributes is None else attributes}
    images = {f'{n}.png99': {'filename': f'{n}.png', 'size': 99, 'regions': [region]} for n in names}
    return {'_via_settings': {}, '_via_img_metadata': images} if project else images


def label_studio(value=None, names=('a', 'b'), start='/data/upload/1/0123abcd-', small=False, **region):
    value = value or {
        'x': 25,
        'y': 100 / 6,
        'width': 62.5,
        'height': 400 / 6,
        'rotation': 0,
        'rectanglelabels': ['cat'],
    }
    region = {'original_width': 8, 'original_height': 6, 'image_rotation': 0, **region}
    if small:
        return [{'id': 1, 'image': f'{start}{n}.png', 'label': [{**region, **value}]} for n in names]
    regions = [{**region, 'type': 'rectanglelabels', 'value': value}]
    return [
        {'id': 1, 'data': {'image': f'{start}{n}.png'}, 'annotations': [{'result': regions, 'was_cancelled': False}]}
        for n in names
    ]


@pytest.fixture
def write(folder):
    """Return a function that writes images of 8x6 pixels, which differ, and files."""

    def write(files, images=('a.png', 'b.png')):
        for number, name in enumerate(images, 8):
            folder.image(name, (8, 6)).touch()
            folder.image(name, (8, 6)).write_bytes((folder.root / name).read_bytes() + bytes(number))
        for name, content in files.items():
            folder.write(name, content)
        return folder

    return write


def contents(folder, task='detection'):
    source = folder.find(task)
    return source, *(folder.read(part) for part in (source.train, source.val))


def names(content):
    return sorted(image['file_name'] for image in content['images'])


@pytest.mark.parametrize(
    'name, images, files',
    [
        ('Pascal VOC', 'images/{}.png', {f'annotations/{n}.xml': VOC for n in 'ab'}),
        ('Pascal VOC', '{}.png', {f'{n}.xml': VOC for n in 'ab'}),
        ('YOLO', 'images/{}.png', {'labels/a.txt': YOLO, 'labels/b.txt': YOLO, 'classes.txt': 'cat\ndog\n'}),
        ('YOLO', '{}.png', {'a.txt': YOLO, 'b.txt': YOLO, 'obj.names': 'cat\ndog'}),
        ('LabelMe', '{}.png', {f'{n}.json': labelme() for n in 'ab'}),
        ('LabelMe', 'imgs/{}.png', {f'json/{n}.json': labelme() for n in 'ab'}),
        ('Supervisely', 'img/{}.png', {f'ann/{n}.png.json': supervisely() for n in 'ab'} | {'meta.json': {}}),
        ('CVAT', 'images/{}.png', {'annotations.xml': cvat()}),
        ('CVAT', 'images/{}.png', {'annotations.xml': cvat(folder='more/')}),
        ('VGG Image Annotator', '{}.png', {'via_region_data.json': via()}),
        ('VGG Image Annotator', 'photos/{}.png', {'via.json': via(project=True)}),
        ('Label Studio', 'images/{}.png', {'project.json': label_studio()}),
        ('Label Studio', '{}.png', {'min.json': label_studio(small=True, start='s3://b/')}),
        ('Label Studio', 'x/{}.png', {'p.json': label_studio(start='/data/local-files/?d=x/')}),
    ],
)
def test_formats(write, name, images, files):
    folder = write(files, [images.format(n) for n in 'ab'])
    before = folder.files()
    source, train, val = contents(folder)
    assert source.classes == (('cat', 'dog') if name == 'YOLO' else ('cat',))
    assert sorted(names(train) + names(val)) == [images.format(n) for n in 'ab']
    for content in (train, val):
        [entry] = content['annotations']
        assert entry['bbox'] == pytest.approx(BOX, abs=1e-3)
        assert (entry['area'], entry['category_id'], entry['iscrowd']) == (pytest.approx(20, abs=1e-3), 0, 0)
        assert 'segmentation' not in entry
    assert f'{name} labels, converted to {folder.store}: 2 objects' in ' '.join(source.notes)
    assert 'there is no val split, so 1 images are held out for evaluation' in source.notes[-1]
    assert folder.files() == before


SQUARE = {'y': 100 / 6, 'labels': ['cat']}
PAIRS = ((2, 1), (7, 1), (2, 5))
PERCENT = [[25, 100 / 6], [87.5, 100 / 6], [25, 500 / 6]]


@pytest.mark.parametrize(
    'files',
    [
        {f'{n}.json': labelme('polygon', PAIRS) for n in 'ab'},
        {f'{n}.json': labelme(None, PAIRS) for n in 'ab'},
        {f'{n}.png.json': supervisely('polygon', PAIRS) for n in 'ab'},
        {'c.xml': cvat('<polygon label="cat" points="2.0,1.0;7.0,1.0;2.0,5.0"/><points label="cat" points="1,1"/>')},
        {'v.json': via({'name': 'polygon', 'all_points_x': [2, 7, 2], 'all_points_y': [1, 1, 5]})},
        {'l.json': label_studio({'points': PERCENT, 'polygonlabels': ['cat']})},
    ],
    ids=lambda files: next(iter(files)),
)
def test_polygons(write, files):
    _, train, val = contents(write(files), 'instance')
    for content in (train, val):
        [entry] = content['annotations']
        assert entry['segmentation'] == [pytest.approx(TRIANGLE)]
        assert (entry['bbox'], entry['area']) == (pytest.approx(BOX), pytest.approx(10))


ELLIPSE = {'x': 50, 'y': 50, 'radiusX': 25, 'radiusY': 100 / 3, 'ellipselabels': ['cat']}


@pytest.mark.parametrize(
    'files',
    [
        {f'{n}.json': labelme('circle', ((4, 3), (4, 5))) for n in 'ab'},
        {'c.xml': cvat('<ellipse label="cat" cx="4" cy="3" rx="2" ry="2"/>')},
        {'v.json': via({'name': 'circle', 'cx': 4, 'cy': 3, 'r': 2})},
        {'l.json': label_studio(ELLIPSE)},
    ],
    ids=lambda files: next(iter(files)),
)
def test_circles_become_polygons(write, files):
    _, train, _ = contents(write(files), 'instance')
    [entry] = train['annotations']
    assert entry['bbox'] == pytest.approx([2, 1, 4, 4])
    assert entry['area'] == pytest.approx(3.14159 * 4, rel=0.01)


def test_masks_of_cvat(write):
    mask = '<mask label="cat" rle="1,3,1,1" left="2" top="1" width="3" height="2"/>'
    _, train, _ = contents(write({'c.xml': cvat(mask)}), 'instance')
    [entry] = train['annotations']
    assert (entry['bbox'], entry['area']) == ([2, 1, 3, 2], 4)
    from pycocotools import mask as codec

    pixels = codec.decode(entry['segmentation'])
    assert pixels.shape == (6, 8)
    assert pixels[1:3, 2:5].tolist() == [[0, 1, 1], [1, 0, 1]]


def test_polygons_of_a_group_are_one_object(write):
    parts = [labelme('polygon', [(x, 1), (x + 2, 1), (x, 3)], group_id=7)['shapes'][0] for x in (1, 5)]
    other = labelme('polygon', PAIRS)['shapes'][0]
    _, train, _ = contents(write({f'{n}.json': {**labelme(), 'shapes': [*parts, other]} for n in 'ab'}), 'instance')
    joined, single = train['annotations']
    assert (joined['bbox'], joined['area'], len(joined['segmentation'])) == ([1, 1, 6, 2], 4, 2)
    assert len(single['segmentation']) == 1


@pytest.mark.parametrize(
    'files',
    [
        {'c.xml': cvat('<box label="cat" xtl="2" ytl="2" xbr="6" ybr="4" rotation="90"/>')},
        {'l.json': label_studio({**SQUARE, 'x': 62.5, 'width': 50, 'height': 100 / 3, 'rotation': 90})},
    ],
)
def test_a_rotated_box_is_replaced_by_the_upright_box_around_it(write, files):
    source, train, _ = contents(write(files))
    assert train['annotations'][0]['bbox'] == pytest.approx([3, 1, 2, 4])
    assert '2 boxes are rotated, the upright box around each is taken' in source.notes[0]


@pytest.mark.parametrize(
    'files, message',
    [
        ({'a.json': {**labelme(), 'imageWidth': 6, 'imageHeight': 8}}, 'a.json: is for an image of 6x8 pixels'),
        ({'a.json': labelme(points=[[1, 'x']])}, "a.json: object 1: 'x' is not a finite number"),
        ({'a.json': labelme(label=' ')}, "object 1: has ' ' as class; give it a name of plain text"),
        ({'a.json': labelme(label=None)}, 'object 1: has None as class'),
        ({'a.json': labelme('polygon', [[1, 2]])}, 'object 1: has fewer than two points'),
        ({'a.json': {**labelme(), 'shapes': [{}]}}, "object 1: is not written as expected (KeyError('points'))"),
        ({'a.json': labelme('mask', PAIRS, mask='')}, 'object 1: its mask cannot be decoded'),
        ({'a.json': '{"shapes": [], '}, 'a.json: not valid JSON'),
        ({'a.png.json': supervisely('polygon', PAIRS, [[1]])}, 'with a hole'),
        ({'c.xml': cvat('<box label="cat" xtl="2"/>')}, "object 1: ytl is '', not a finite number"),
        ({'c.xml': cvat('<mask label="cat" rle="99" left="0" top="0" width="3" height="2"/>')}, 'do not fit its box'),
        ({'c.xml': cvat() + 'x'}, 'c.xml: cannot be read as XML'),
        ({'c.xml': cvat(names=('a', 'x'))}, '1 of its 2 images are not in '),
        ({'c.xml': '<annotations><track/></annotations>'}, "export a video from CVAT as 'COCO'"),
        ({'c.xml': cvat(), 'd.xml': cvat()}, 'a.png: is labelled twice, in '),
        ({'v.json': via(attributes={'a': 1, 'b': 2})}, "have the attributes a, b; call the one with the class 'class'"),
        ({'v.json': via({'name': 'rect', 'x': float('inf')})}, 'object 1: '),
        ({'v.json': via(attributes={'class': {'a': True, 'b': True}})}, 'object 1: has 2 classes (a, b)'),
        ({'a.txt': '10000 .5 .5 .1 .1'}, 'class 10000, but the classes are 0 to 9999'),
        ({'l.json': label_studio({'rle': [1], 'format': 'rle', 'brushlabels': ['cat']})}, 'is painted with the brush'),
        ({'l.json': [{**label_studio()[0], 'data': 'a.png'}]}, 'l.json: task 0: expected a JSON object'),
        ({'l.json': label_studio(image_rotation=90)}, 'was labelled on a rotated image'),
        ({'l.json': label_studio(original_width=9)}, 'is for an image of 9x6 pixels, but the image has 8x6'),
    ],
)
def test_faults_are_named(write, files, message):
    assert message in write(files).refusal('detection')


@pytest.mark.parametrize('attributes, label', [({}, 'object'), ({'kind': {'cat': True, 'dog': False}}, 'cat')])
def test_classes_of_via(write, attributes, label):
    assert write({'v.json': via(attributes=attributes)}).find('detection').classes == (label,)


def test_of_several_annotations_the_first_one_that_was_finished_counts(write):
    tasks = label_studio()
    other = {'result': [], 'was_cancelled': False}
    for task in tasks:
        task['annotations'] = [{**other, 'was_cancelled': True}, *task['annotations'], other]
    tasks.append({'data': {'image': 'never.png'}, 'annotations': []})
    source, train, _ = contents(write({'l.json': tasks}))
    assert len(train['annotations']) == 1
    assert '2 images have several annotations, of which the first one is taken' in source.notes[0]


def test_yolo_classes_without_names_are_numbered(write):
    source, *_ = contents(write({'a.txt': YOLO, 'b.txt': '2' + YOLO[1:]}))
    assert source.classes == ('0', '1', '2')
    assert 'there is no classes.txt or obj.names, so the classes are called by their numbers' in ' '.join(source.notes)


@pytest.mark.parametrize(
    'files, message',
    [
        ({'classes.txt': 'cat', 'b.txt': '2' + YOLO[1:]}, 'b.txt: class 2, but the classes are 0 to 0'),
        ({'classes.txt': 'cat', 'x/obj.names': 'dog'}, 'lists other classes than'),
        ({'classes.txt': 'cat\n\ndog'}, 'has an empty line'),
        ({'classes.txt': 'cat\ncat'}, "has the class 'cat' twice"),
        ({'b.txt': '0 1 1'}, 'b.txt: line 1: 3 numbers'),
    ],
)
def test_classes_of_yolo_that_are_not_valid(write, files, message):
    assert message in write({'a.txt': YOLO, 'b.txt': YOLO, **files}).refusal('detection')


@pytest.mark.parametrize(
    'images, labels, train, val',
    [
        ('{s}/images/{n}.png', '{s}/labels/{n}.txt', 'train', 'valid'),
        ('images/{s}/{n}.png', 'labels/{s}/{n}.txt', 'Train', 'val'),
        ('{s}/{n}.png', '{s}/{n}.txt', 'train', 'val'),
        ('{s}_images/{n}.png', '{s}_labels/{n}.txt', 'train', 'val'),
        ('images/{n}.png', '{s}/{n}.txt', 'train', 'val'),
    ],
)
def test_folders_tell_the_splits(write, images, labels, train, val):
    splits = [('a', train), ('b', val), ('c', 'test')]
    folder = write(
        {labels.format(s=s, n=n): YOLO for n, s in splits} | {'classes.txt': 'cat'},
        [images.format(s=s, n=n) for n, s in splits],
    )
    source, *parts = contents(folder)
    assert [names(part) for part in parts] == [[images.format(s=s, n=n)] for n, s in splits[:2]]
    assert [len(part['annotations']) for part in parts] == [1, 1]
    assert names(folder.read(source.test)) == [images.format(s='test', n='c')]
    assert '1 images of a test split are not trained on' in source.notes[-1]


def test_lists_tell_the_splits(write):
    lists = {
        'train.txt': 'data/obj_train_data/a.png\n',
        'valid.txt': 'data\\obj_train_data\\b.png\r\n',
        'test.txt': 'c',
    }
    files = {f'obj_train_data/{n}.txt': YOLO for n in 'abc'} | {'obj.names': 'cat', 'obj.data': 'classes = 1'} | lists
    folder = write(files, [f'obj_train_data/{n}.png' for n in 'abc'])
    source, train, val = contents(folder)
    assert names(folder.read(source.test)) == ['obj_train_data/c.png']
    assert (names(train), names(val)) == (['obj_train_data/a.png'], ['obj_train_data/b.png'])
    assert source.test_files == {'instances': source.test['ann_file']}
    assert '1 images of a test split are not trained on' in source.notes[-1]


def test_lists_of_another_machine_above_the_only_folder(write):
    files = {f'data/Bilder 1/{n}.txt': YOLO for n in 'abc'} | {'classes.names': 'cat', 'test.txt': 'c'}
    lists = {'train.txt': 'D:\\me\\data\\Bilder 1\\a.PNG\r\n', 'val.txt': 'D:\\me\\data\\Bilder 1\\b.PNG'}
    source, train, val = contents(write(files | lists, [f'data/Bilder 1/{n}.PNG' for n in 'abc']))
    assert (names(train), names(val)) == (['data/Bilder 1/a.PNG'], ['data/Bilder 1/b.PNG'])
    assert 'train.txt: its images are found as data/Bilder 1/a.PNG for D:' in ' '.join(source.notes)


def test_a_long_embedded_image_does_not_hide_the_format(write):
    files = {f'{n}.json': {'imageData': 'A' * 200_000, **labelme()} for n in 'ab'}
    assert write(files).find('detection').classes == ('cat',)


def test_label_files_beside_coco_annotations_are_said(write):
    folder = write({'a.txt': YOLO, 'b.txt': YOLO})
    folder.coco('result.json', ['a.png', 'b.png'])
    notes = folder.find('detection').notes
    assert f'{folder.root}: also has labels of YOLO (a.txt), which are not used' in notes


def test_folders_tell_the_splits_of_one_annotation_file(write):
    folder = write({}, ['images/train/a.png', 'images/val/a.png', 'images/test/a.png'])
    folder.coco('all.json', ['train/a.png', 'val/a.png', 'test/a.png'])
    source, train, val = contents(folder)
    assert (names(train), names(val)) == (['train/a.png'], ['val/a.png'])
    assert names(folder.read(source.test)) == ['test/a.png']
    assert '1 images of train, 1 images of val, 1 images of test' in source.notes[0]


def test_images_of_no_split_are_not_used_beside_a_validation_split(write):
    files = {f'{n}.txt': YOLO for n in ('a', 'train/b', 'val/c')}
    source, train, val = contents(write(files, ['a.png', 'train/b.png', 'val/c.png']))
    assert (names(train), names(val)) == (['train/b.png'], ['val/c.png'])
    assert '1 images are in no folder of a split and are not used: a.png' in ' '.join(source.notes)


def test_a_class_that_is_called_train_is_no_split(write):
    """Folders of classes, with one of vehicles: there is neither a validation nor a test split."""
    source, train, val = contents(write({'bus/a.txt': YOLO, 'train/b.txt': YOLO}, ['bus/a.png', 'train/b.png']))
    assert sorted(names(train) + names(val)) == ['bus/a.png', 'train/b.png']


def test_only_a_test_split_is_refused(write):
    assert 'has no images to train on, only 1 of a test split' in write({'test/a.txt': YOLO}, ['test/a.png']).refusal()


def test_images_in_folders_without_labels_are_no_background(write):
    files = {'images/a.txt': YOLO, 'images/b.txt': ''}
    images = ['images/a.png', 'images/b.png', 'images/c.png', 'drawn/a.jpg', 'more/d.png']
    source, train, val = contents(write(files, images))
    assert sorted(names(train) + names(val)) == images[:3]
    assert len(train['annotations']) + len(val['annotations']) == 1
    notes = ' '.join(source.notes)
    assert '1 images without a label file count as images without objects' in notes
    assert '2 images have no labels, nor has any image in their folder, and are not used: drawn/a.jpg, more/d' in notes


def test_a_label_file_with_two_images_is_refused(write):
    folder = write({'labels/a.txt': YOLO}, ['x/a.png', 'y/a.png'])
    assert f'{folder.root}/y/a.png: {folder.root}/x/a.png has the same name' in folder.refusal('detection')


def test_the_first_of_two_formats_is_read_and_said(write):
    files = {f'xml/{n}.xml': VOC for n in 'ab'} | {f'txt/{n}.txt': YOLO for n in 'ab'}
    source = write(files, ['images/a.png', 'images/b.png']).find('detection')
    assert source.classes == ('cat',)
    assert 'also has labels of YOLO (txt/a.txt), which are not used' in source.notes[-2]


def test_exports_side_by_side_are_named(write):
    files = {'voc/labels/a.xml': VOC, 'yolo/labels/a.txt': YOLO}
    folder = write(files, ['voc/images/a.png', 'yolo/images/a.png'])
    assert folder.refusal('detection') == f'{folder.root}: holds 2 data sets, in voc, yolo; name one of these folders'


def test_lists_in_a_folder_below_are_not_passed_over(write):
    folder = write({'a.xml': VOC, 'x/a2.xml': VOC, 'x/ImageSets/Main/test.txt': 'a2'}, ['a.png', 'x/a2.png'])
    assert 'name the folder with ImageSets' in folder.refusal('detection')


def test_copies_are_held_out_together(folder):
    sources = ['a', 'b', 'c', 'd']
    for number, name in enumerate(sources):
        for version in ('0a', '1b'):
            folder.image(f'images/{name}_jpg.rf.{version}.jpg', (10 + number, 8))
            folder.write(f'labels/{name}_jpg.rf.{version}.txt', YOLO)
    source, train, val = contents(folder)
    assert len(names(val)) == 2
    assert len({name.partition('.rf.')[0] for name in names(val)}) == 1
    assert 'held out for evaluation; 8 copies stay with their originals' in source.notes[-1]
    assert json.dumps(contents(folder)[2]) == json.dumps(val)
