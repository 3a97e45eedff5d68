import pytest

OBJECT = '<object><name>{}</name><difficult>{}</difficult>{}</object>'
BOX = '<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>'
POLYGON = '<polygon><x1>3</x1><y1>5</y1><x2>13</x2><y2>5</y2><x3>13</x3><y3>15</y3></polygon>'


def annotation(*objects, size=''):
    return f'<annotation>{size}{"".join(objects)}</annotation>'


DOG, CAT = OBJECT.format('dog', 0, BOX.format(3, 5, 12, 14)), OBJECT.format('cat', 1, BOX.format(1, 1, 40, 20))


@pytest.fixture
def voc(folder):
    """Return a folder with three images of 40x20 pixels; boxes are one-based and inclusive, as in VOC."""
    for stem in ('a', 'b', 'c'):
        folder.image(f'JPEGImages/{stem}.jpg', (40, 20))
        folder.write(f'Annotations/{stem}.xml', annotation(DOG, CAT))
    folder.write('ImageSets/Main/train.txt', 'a\nb\n')
    folder.write('ImageSets/Main/val.txt', 'c  1\n')
    return folder


def names(folder, arguments):
    return sorted(image['file_name'].removeprefix('JPEGImages/') for image in folder.read(arguments)['images'])


def objects(folder, *content, size=''):
    """Return the objects of image a with this label file."""
    folder.write('Annotations/a.xml', annotation(*content, size=size))
    content = folder.read(folder.find('detection').train)
    [image] = [image['id'] for image in content['images'] if image['file_name'] == 'JPEGImages/a.jpg']
    return [entry for entry in content['annotations'] if entry['image_id'] == image]


def test_boxes(voc):
    source = voc.find('detection')
    assert source.classes == ('cat', 'dog')
    assert (names(voc, source.train), names(voc, source.val)) == (['a.jpg', 'b.jpg'], ['c.jpg'])
    content = voc.read(source.val)
    dog, cat = content['annotations']
    classes = {category['id']: category['name'] for category in content['categories']}
    assert [classes[entry['category_id']] for entry in (dog, cat)] == ['dog', 'cat']
    assert dog['bbox'] == [2, 4, 10, 10]
    assert cat['bbox'] == [0, 0, 40, 20]
    assert [entry['iscrowd'] for entry in (dog, cat)] == [0, 1]
    assert content['images'][0] == {'id': 1, 'file_name': 'JPEGImages/c.jpg', 'width': 40, 'height': 20}
    assert source.notes == (
        f'{voc.root}: Pascal VOC labels, converted to {voc.store}: 6 objects, the first pixel has the coordinate 1; '
        '3 are difficult, which count neither in training nor in evaluation',
    )


def test_all_splits_have_the_same_categories(voc):
    voc.write('Annotations/c.xml', annotation(OBJECT.format('ant', 0, BOX.format(1, 1, 5, 5))))
    source = voc.find('detection')
    assert source.classes == ('ant', 'cat', 'dog')
    assert voc.read(source.train)['categories'] == voc.read(source.val)['categories']


def remove_lists(folder):
    for split in ('train', 'val'):
        (folder.root / f'ImageSets/Main/{split}.txt').unlink()
    return folder


def test_a_tenth_is_held_out_if_there_are_no_lists(voc):
    source = remove_lists(voc).find('detection')
    assert len(names(voc, source.train)) == 2
    assert '1 images are held out' in source.notes[-1]


def test_images_in_a_test_folder_are_not_trained_on(voc):
    voc.image('JPEGImages/test/d.jpg')
    source = remove_lists(voc).find('detection')
    assert sorted(names(voc, source.train) + names(voc, source.val)) == ['a.jpg', 'b.jpg', 'c.jpg']
    assert 'its test split is left out: none of its 1 images has labels' in source.notes[-1]


@pytest.mark.parametrize(
    'lists, train, val',
    [
        ({'Main/trainval': 'abc', 'Main/test': 'd'}, 'abc', ''),
        ({'Main/trainval': 'abc', 'Main/val': 'c', 'Main/test': 'd'}, 'ab', 'c'),
        ({'Main/train': 'abc', 'Main/val': 'bd', 'Main/test': 'd'}, 'ac', 'bd'),
        ({'Main/train': 'ab', 'Main/val': 'ab', 'Main/test': 'd'}, 'ab', 'ab'),
        ({'Main/default': 'ab', 'Main/x_train': 'd'}, 'ab', ''),
        ({'Main/Train': 'a', 'Main/trainval': 'abc', 'Main/Validation': 'b'}, 'a', 'b'),
        ({'Segmentation/train': 'a', 'Segmentation/val': 'b', 'Layout/train': 'c'}, 'a', 'b'),
        ({'trainval': 'ab'}, 'ab', ''),
    ],
)
def test_lists_of_images(voc, lists, train, val):
    remove_lists(voc)
    voc.image('JPEGImages/d.jpg')
    for name, stems in lists.items():
        voc.write(f'ImageSets/{name}.txt', '\n'.join(stems))
    source = voc.find('detection')
    parts = names(voc, source.train), names(voc, source.val)
    if val:
        assert parts == ([f'{stem}.jpg' for stem in train], [f'{stem}.jpg' for stem in val])
    else:
        assert sorted(sum(parts, [])) == [f'{stem}.jpg' for stem in train]
    texts = ('not used: ', 'its lists are used', 'test split')
    assert any(text in note for note in source.notes for text in texts)
    shared = [note for note in source.notes if 'validation images are training images, too' in note]
    assert len(shared) == (train == val)


@pytest.mark.parametrize('lists', [('test',), ('val',), ('cat_train', 'cat_val'), ('subset',)])
def test_lists_without_one_of_training_images_are_refused(voc, lists):
    remove_lists(voc)
    for name in lists:
        voc.write(f'ImageSets/Main/{name}.txt', 'a')
    message = voc.refusal('detection')
    assert f'has {lists[0]}.txt' in message
    assert 'no list of training images; expected train.txt, training.txt, trainval.txt, default.txt' in message


def test_lists_in_another_folder_are_not_passed_over(voc):
    remove_lists(voc)
    voc.write('ImageSets/Action/train.txt', 'a')
    assert 'ImageSets/Action/train.txt, but not in its folder Main' in voc.refusal('detection')


@pytest.mark.parametrize(
    'line',
    [
        *['IMG 0', 'IMG 0 -1', 'IMG 0.JPG', 'sub\\IMG 0', './sub/IMG 0.JPG', 'JPEGImages/sub/IMG 0.JPG  1'],
        *['\ufeffIMG 0\r\n\r\n# comment', 'VOC2007/JPEGImages/sub/IMG 0.JPG'],
    ],
)
def test_lines_of_a_list(voc, line):
    voc.image('JPEGImages/sub/IMG 0.JPG', (40, 20))
    voc.write('Annotations/sub/IMG 0.XML', annotation(DOG))
    voc.write('ImageSets/Main/train.txt', line)
    content = voc.read(voc.find('detection').train)
    assert [image['file_name'] for image in content['images']] == ['JPEGImages/sub/IMG 0.JPG']
    assert len(content['annotations']) == 1


@pytest.mark.parametrize('line', ['nowhere', 'a\0', 'x' * 5000, '1 a', 'a b c', '/etc/passwd'])
def test_a_listed_image_that_does_not_exist_is_named(voc, line):
    voc.write('ImageSets/Main/train.txt', f'a\n{line}')
    assert 'train.txt: names ' in voc.refusal('detection')
    assert 'which is not in ' in voc.refusal('detection')


def test_repeated_lines_of_a_list_are_counted(voc):
    voc.write('ImageSets/Main/train.txt', 'a\nb\na\na.jpg')
    source = voc.find('detection')
    assert names(voc, source.train) == ['a.jpg', 'b.jpg']
    assert source.notes[1].endswith('train.txt: 2 repeated lines are left out')


def test_two_images_for_one_label_file_are_refused(voc):
    voc.image('JPEGImages/a.png')
    assert 'a.png: a.jpg has the same name but for its suffix' in voc.refusal('detection')


def test_folders_with_other_capitals(voc):
    for old, new in (('JPEGImages', 'jpegimages'), ('Annotations', 'ANNOTATIONS'), ('ImageSets', 'Imagesets')):
        (voc.root / old).rename(voc.root / new)
    assert len(voc.read(voc.find('detection').train)['images']) == 2


def test_files_without_a_counterpart_are_counted(voc):
    (voc.root / 'Annotations/a.xml').unlink()
    voc.write('Annotations/z.xml', annotation(DOG))
    notes = voc.find('detection').notes
    assert '1 images without a label file count as images without objects' in notes[0]
    assert '1 label files have no image and are not used: z.xml' in notes[1]


def test_a_folder_without_any_label_file_is_refused(voc):
    for stem in 'abc':
        (voc.root / f'Annotations/{stem}.xml').rename(voc.root / f'Annotations/{stem}2.xml')
    assert 'has no label file for any of the 3 images' in voc.refusal('detection')


@pytest.mark.parametrize(
    'edges, bbox',
    [
        ((0, 0, 12, 14), [0, 0, 12, 14]),
        ((' 1.5 ', 2, 12, 14), [0.5, 1, 11.5, 13]),
        ((5, 5, 5, 5), [4, 4, 1, 1]),
        ((-20, 2, 50, 14), [0, 1, 40, 13]),
    ],
)
def test_edges_of_boxes(voc, edges, bbox):
    [entry] = objects(voc, OBJECT.format('dog', 0, BOX.format(*edges)))
    assert (entry['bbox'], entry['area']) == (bbox, bbox[2] * bbox[3])


def test_boxes_that_are_cut_off_are_counted(voc):
    voc.write('Annotations/a.xml', annotation(OBJECT.format('dog', 0, BOX.format(3, 3, 50, 14)), DOG))
    assert '1 reach outside their image and are cut off at its border' in voc.find('detection').notes[0]


def test_polygons(voc):
    for stem in 'abc':
        voc.write(f'Annotations/{stem}.xml', annotation(OBJECT.format('dog', 0, BOX.format(3, 5, 12, 14) + POLYGON)))
    source = voc.find('instance')
    [entry] = voc.read(source.val)['annotations']
    assert (entry['segmentation'], entry['bbox'], entry['area']) == ([[2, 4, 12, 4, 12, 14]], [2, 4, 10, 10], 50)
    assert '3 have polygons' in source.notes[0]


def test_a_polygon_without_a_box_has_the_box_around_it(voc):
    [entry] = objects(voc, OBJECT.format('dog', 'False', POLYGON))
    assert entry['bbox'] == [2, 4, 10, 10]


@pytest.mark.parametrize('text, crowd', [('1', 1), (' True ', 1), ('0', 0), ('', 0), ('Unspecified', 0)])
def test_difficult(voc, text, crowd):
    [entry] = objects(voc, OBJECT.format('dog', text, BOX.format(3, 5, 12, 14)))
    assert entry['iscrowd'] == crowd


def test_a_size_of_zero_is_not_compared(voc):
    for size in ('<size><width>0</width><height></height></size>', '<size><width>40.0</width></size>'):
        assert len(objects(voc, '<part/>', f'<objects>{DOG}</objects>', size=size)) == 1


NAMELESS = OBJECT.format('', 0, BOX.format(1, 1, 2, 2))


@pytest.mark.parametrize(
    'text, message',
    [
        ('<annotation>', 'cannot be read as XML (no element found'),
        ('', 'cannot be read as XML'),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', 'cannot be read as XML (unknown encoding'),
        ('<html><body>404</body></html>', 'its first element is <html>, not <annotation>'),
        (annotation('<object></object>'), 'object 1: has no <name>'),
        (annotation(DOG, NAMELESS), 'object 2: has no <name>'),
        (annotation(OBJECT.format('dog', 0, '')), 'object 1: has no bndbox/xmin'),
        (annotation(OBJECT.format('dog', 2, '')), "<difficult> is '2', neither 0 nor 1"),
        (annotation(OBJECT.format('dog', 0, BOX.format('x', 1, 2, 2))), "<xmin> is 'x', not a finite number"),
        (annotation(OBJECT.format('dog', 0, BOX.format(1, 'nan', 2, 2))), "<ymin> is 'nan', not a finite number"),
        (annotation(OBJECT.format('dog', 0, BOX.format(1, 1, '1e999', 2))), "<xmax> is '1e999', not a finite"),
        (annotation(OBJECT.format('dog', 0, BOX.format(9, 1, 2, 2))), 'its box is inverted'),
        (annotation(OBJECT.format('dog', 0, BOX.format(60, 1, 70, 2))), 'the box is outside the image'),
        (annotation(OBJECT.format('dog', 0, BOX.format(1, 1, 1e9, 2))), 'a coordinate is far outside the image'),
        (annotation('<Object/>'), 'has <Object> for <object>'),
        (annotation(OBJECT.format('dog', 0, POLYGON.replace('y3', 'y4'))), '<polygon> needs x1, y1, x2, y2'),
        (annotation(OBJECT.format('dog', 0, '<polygon></polygon>')), '<polygon> needs x1, y1, x2, y2'),
        (annotation(DOG, size='<size><width>80</width><height>40</height></size>'), 'for an image of 80x40 pixels'),
        (annotation(DOG, size='<size><width>a</width></size>'), 'for an image of ax pixels'),
    ],
)
def test_an_invalid_label_file_is_named(voc, text, message):
    voc.write('Annotations/a.xml', text)
    refusal = voc.refusal('detection')
    assert 'Annotations/a.xml: ' in refusal
    assert message in refusal


def test_entities_in_xml_are_refused(voc):
    """A few lines of nested entities could fill the memory."""
    voc.write('Annotations/a.xml', '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>')
    assert 'Annotations/a.xml: cannot be read as XML' in voc.refusal('detection')


def test_the_message_for_a_missing_package_has_the_command_that_installs_it(voc, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'defusedxml.ElementTree', None)
    assert 'pip install repvit_dense[convert]' in voc.refusal('detection')


def test_images_that_cannot_be_read_are_all_named(voc):
    for stem in ('a', 'c'):
        voc.write(f'JPEGImages/{stem}.jpg', '')
    assert voc.refusal('detection').count('the file is empty, 0 bytes') == 2


def test_labels_are_for_the_turned_image(voc):
    voc.image('JPEGImages/a.jpg', (20, 40), orientation=6)
    assert '1 images are turned or mirrored by their EXIF orientation' in voc.find('detection').notes[0]
