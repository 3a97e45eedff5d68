"""Test splits: read in every layout, never trained on, and left out if they do not suit the other splits."""

import json

import pytest

YAML = 'train: images/train\nval: images/val\ntest: {}\nnames: [cat, dog]'
VOC = '<annotation><object><name>{}</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>6</xmax><ymax>6</ymax></bndbox>{}'


def files(folder, arguments):
    return [image['file_name'] for image in folder.read(arguments)['images']]


def left_out(source):
    """Return the reason that there is no test split."""
    [note] = [note for note in source.notes if 'its test split is left out: ' in note]
    assert source.test is None
    assert source.test_files == {}
    return note


@pytest.fixture
def yolo(folder):
    """Return `yolo(entry, label)`, which writes a data set with this entry and label of the test split."""

    def write(entry='images/test', label='0 0.5 0.5 0.1 0.1'):
        for split in ('train', 'val', 'test'):
            folder.image(f'images/{split}/{split}.png')
            folder.write(f'labels/{split}/{split}.txt', label if split == 'test' else '1 0.5 0.5 0.5 0.5')
        folder.write('data.yaml', YAML.format(entry))
        return folder

    return write


@pytest.mark.parametrize(
    ('entry', 'label', 'reason'),
    [
        ('images/none', '', 'images/none does not exist'),
        ('images/test', '7 0.5 0.5 0.1 0.1', 'but the classes are 0 to 1'),
        ('images/test', '', 'none of its 1 images has labels'),
    ],
)
def test_labels_that_cannot_be_read_stop_no_training(yolo, entry, label, reason):
    assert reason in left_out(yolo(entry, label).find('detection'))


def test_boxes_do_not_suit_a_config_that_trains_masks(yolo):
    folder = yolo()
    for split in ('train', 'val'):
        folder.write(f'labels/{split}/{split}.txt', '0 0.1 0.1 0.5 0.1 0.5 0.5')
    assert 'its objects have boxes but no masks' in left_out(folder.find('instance'))


def test_images_of_the_test_list_are_not_trained_on(yolo):
    folder = yolo()
    (folder.root / 'data.yaml').unlink()
    for name, words in (('train', 'train test'), ('val', 'val'), ('test', 'test')):
        folder.write(f'{name}.txt', words.replace(' ', '\n'))
    source = folder.find('detection')
    assert files(folder, source.train) == ['images/train/train.png']
    assert files(folder, source.test) == ['images/test/test.png']
    assert any('train.txt: 1 of its images are left for the test' in note for note in source.notes)


def test_a_class_of_the_test_split_only(folder):
    for split, name in (('train', 'cat'), ('val', 'cat'), ('test', 'yak')):
        folder.image(f'JPEGImages/{split}.png')
        folder.write(f'Annotations/{split}.xml', VOC.format(name, '</object></annotation>'))
        folder.write(f'ImageSets/Main/{split}.txt', split)
    source = folder.find('detection')
    assert source.classes == ('cat',)
    assert 'it has objects of yak, a class that nothing is trained on' in left_out(source)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (lambda content: content.update(annotations=[]), 'none of its 1 images has labels'),
        (lambda content: content['categories'].reverse(), 'it has the classes dog, cat, not cat, dog'),
        (lambda content: content.pop('images'), 'images'),
    ],
)
def test_coco_files(folder, change, reason):
    for split in ('train', 'val', 'test'):
        folder.image(f'{split}/{split}.png')
        content = folder.coco(f'annotations/instances_{split}.json', [f'{split}.png'])
    assert files(folder, folder.find().test) == ['test.png']
    change(content)
    folder.write('annotations/instances_test.json', content)
    assert reason in left_out(folder.find())


def test_panoptic_files(folder):
    categories = [{'id': 1, 'name': 'cat', 'isthing': 1}, {'id': 2, 'name': 'sky', 'isthing': 0}]
    for split in ('train', 'val', 'test'):
        folder.image(f'{split}/1.png')
        images = [{'id': 1, 'file_name': '1.png', 'width': 10, 'height': 8}]
        content = {'images': images, 'annotations': [], 'categories': categories}
        folder.write(f'annotations/panoptic_{split}.json', json.dumps(content))
        (folder.root / f'annotations/panoptic_{split}').mkdir()
    source = folder.find('panoptic')
    assert source.test_files['panoptic'].endswith('panoptic_test.json')
    assert source.ann_files['panoptic'].endswith('panoptic_val.json')
    (folder.root / 'annotations/panoptic_test').rmdir()
    assert 'panoptic_test: not found' in left_out(folder.find('panoptic'))


def test_masks_of_a_list_of_images(folder):
    for name in 'abc':
        folder.image(f'JPEGImages/{name}.jpg')
        folder.image(f'SegmentationClass/{name}.png')
    folder.write('classes.txt', 'sky\nsea')
    for split, name in zip(('train', 'val', 'test'), 'abc', strict=True):
        folder.write(f'ImageSets/Segmentation/{split}.txt', name)
    test = folder.find('semantic').test
    assert (folder.store / 'test.txt').read_text() == 'c'
    assert test['ann_file'] == str(folder.store / 'test.txt')
    (folder.root / 'SegmentationClass/c.png').unlink()
    assert 'no mask for c.jpg' in left_out(folder.find('semantic'))
