import pytest


@pytest.fixture
def voc(folder):
    """Return a folder with three images of 40x20 pixels; boxes are one-based and inclusive, as in VOC."""
    objects = (('dog', 3, 5, 12, 14, 0), ('cat', 1, 1, 40, 20, 1))
    body = ''.join(
        f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>'
        f'<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>'
        for name, x1, y1, x2, y2, difficult in objects
    )
    for stem in ('a', 'b', 'c'):
        folder.image(f'JPEGImages/{stem}.jpg', (40, 20))
        folder.write(f'Annotations/{stem}.xml', f'<annotation>{body}</annotation>')
    folder.write('ImageSets/Main/train.txt', 'a\nb\n')
    folder.write('ImageSets/Main/val.txt', 'c  1\n')
    return folder


def object_counts(folder, source):
    return [len(folder.read(arguments)['annotations']) for arguments in (source.train, source.val)]


def test_boxes(voc):
    source = voc.find('detection')
    assert source.classes == ('cat', 'dog')
    assert object_counts(voc, source) == [4, 2]
    content = voc.read(source.val)
    dog, cat = content['annotations']
    names = {category['id']: category['name'] for category in content['categories']}
    assert [names[entry['category_id']] for entry in (dog, cat)] == ['dog', 'cat']
    assert dog['bbox'] == [2, 4, 10, 10]
    assert cat['bbox'] == [0, 0, 40, 20]
    assert [entry['iscrowd'] for entry in (dog, cat)] == [0, 1]
    assert content['images'][0]['file_name'] == 'JPEGImages/c.jpg'
    assert 'Pascal VOC labels, converted to' in source.notes[0]


def test_all_splits_have_the_same_categories(voc):
    text = (voc.root / 'Annotations/c.xml').read_text()
    voc.write('Annotations/c.xml', text.replace('dog', 'ant').replace('cat', 'ant'))
    source = voc.find('detection')
    assert source.classes == ('ant', 'cat', 'dog')
    assert voc.read(source.train)['categories'] == voc.read(source.val)['categories']


def test_a_tenth_is_held_out_if_there_are_no_splits(voc):
    for split in ('train', 'val'):
        (voc.root / f'ImageSets/Main/{split}.txt').unlink()
    source = voc.find('detection')
    assert object_counts(voc, source) == [4, 2]
    assert any('1 images are held out' in note for note in source.notes)


@pytest.mark.parametrize('text', ['<annotation>', '<annotation><object></object></annotation>'])
def test_an_invalid_label_file_is_named(voc, text):
    voc.write('Annotations/a.xml', text)
    assert 'Annotations/a.xml: ' in voc.refusal('detection')


def test_entities_in_xml_are_refused(voc):
    """A few lines of nested entities could fill the memory."""
    voc.write('Annotations/a.xml', '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>')
    assert 'Annotations/a.xml: ' in voc.refusal('detection')


def test_a_listed_image_that_does_not_exist_is_named(voc):
    (voc.root / 'JPEGImages/b.jpg').unlink()
    assert 'train.txt: names b, which is not in ' in voc.refusal('detection')
