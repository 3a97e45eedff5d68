import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PATHS = {
    'images and annotations': ('images/{}', 'annotations/{}'),
    'images and labels': ('Images/{}_a', 'LABELS/{}-a'),
    'folders in the split': ('{}/images', '{}/masks'),
}


@pytest.fixture
def masks(folder):
    """Return a function that writes one image and its mask for each split, and a class list."""

    def write(paths='images and annotations', suffix='.png', classes='road\ncar\n', file='classes.txt'):
        for split in ('train', 'val'):
            images, labels = (path.format(split) for path in PATHS[paths])
            folder.image(f'{images}/a.jpg')
            (folder.root / labels).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((8, 10), np.uint8)).save(folder.root / labels / f'a{suffix}')
        if classes is not None:
            folder.write(file, classes)
        return folder

    return write


@pytest.mark.parametrize('paths', PATHS)
@pytest.mark.parametrize('suffix', ['.png', '_labels.png'])
def test_variants(masks, paths, suffix):
    source = masks(paths, suffix).find('semantic')
    assert (source.type, source.classes) == ('BaseSegDataset', ('road', 'car'))
    for arguments in (source.train, source.val):
        assert (arguments['img_suffix'], arguments['seg_map_suffix']) == ('.jpg', suffix)
        assert arguments['reduce_zero_label'] is False
        for key, name in (('img_path', 'a.jpg'), ('seg_map_path', f'a{suffix}')):
            assert Path(arguments['data_root'], arguments['data_prefix'][key], name).is_file()


@pytest.mark.parametrize(
    'content, classes, reduced',
    [
        (['road', 'car'], ('road', 'car'), False),
        ({'0': 'road', '1': 'car'}, ('road', 'car'), False),
        ({'2': 'car', '1': 'road'}, ('road', 'car'), True),
        ({'10': 'k', **{str(i): f'c{i}' for i in range(10)}}, (*(f'c{i}' for i in range(10)), 'k'), False),
    ],
)
def test_class_list_in_json(masks, content, classes, reduced):
    source = masks(classes=content, file='classes.json').find('semantic')
    assert source.classes == classes
    assert source.train['reduce_zero_label'] is reduced
    assert ('pixels of value 0 are ignored' in ' '.join(source.notes)) == reduced


@pytest.mark.parametrize(
    'content, classes, reduced, label_map',
    [
        (['road', 'void', 'car'], ('road', 'car'), False, ((1, 255), (2, 1))),
        (['Unlabeled', 'road', 'car'], ('road', 'car'), False, ((0, 255), (1, 0), (2, 1))),
        ({'0': 'road', '1': 'car', '255': 'void'}, ('road', 'car'), False, ()),
        ({'1': 'ignore', '2': 'road', '3': 'car'}, ('road', 'car'), True, ((1, 255), (2, 0), (3, 1))),
        ({'1': 'road', '2': 'car', '3': 'unlabelled'}, ('road', 'car'), True, ((3, 255),)),
        ({'0': 'road', '1': 'void', '2': 'void'}, ('road',), False, ((1, 255), (2, 255))),
    ],
)
def test_values_of_ignored_names(masks, content, classes, reduced, label_map):
    source = masks(classes=content, file='classes.json').find('semantic')
    assert (source.classes, source.train['reduce_zero_label'], source.label_map) == (classes, reduced, label_map)
    assert ' are ignored, because of the name' in source.notes[-1]


@pytest.mark.parametrize(
    'content, message',
    [
        *[(content, 'expected class names') for content in ([], [1, None], ['a', ''], ['a', True], ['a\tb'], [['a']])],
        *[(['a', 'a'], "two values have the name 'a'"), ({'0': 'a', '2': 'b'}, 'without a gap'), ({}, 'expected')],
        *[({'2': 'a', '3': 'b'}, 'without a gap'), (['void'], 'expected unique'), ([*map(str, range(256))], 'to 254')],
        *[({key: 'a'}, f'but a key is {key!r}') for key in ('a', '-1', '01', '1.0', '', '\u0662', '9' * 5000)],
        *[(content, 'expected a list of names') for content in ('a', 3, None)],
        *[('{', 'not valid JSON'), ('{"0": "a", "0": "b"}', 'occurs twice'), ('[' * 100_000, 'not valid JSON')],
    ],
)
def test_an_invalid_class_list_is_refused(masks, content, message):
    text = content if isinstance(content, str) and content[:1] in '{[' else json.dumps(content)
    refusal = masks(classes=text, file='classes.json').refusal('semantic')
    assert 'classes.json: ' in refusal
    assert message[:60] in refusal or '[...]' in refusal


@pytest.mark.parametrize(
    'text, classes',
    [
        ('\ufeffroad\r\ncar\r\n', ('road', 'car')),
        (' road \t\ncar\n\n \n', ('road', 'car')),
        ('road\rcar', ('road', 'car')),
        ('traffic light\na\x0cb', ('traffic light', 'a\x0cb')),
    ],
)
def test_class_list_in_a_text_file(masks, text, classes):
    folder = masks()
    (folder.root / 'classes.txt').write_bytes(text.encode())
    assert folder.find('semantic').classes == classes


@pytest.mark.parametrize(
    'text, message',
    [
        ('road\n\ncar', "line 2 is ''"),
        ('\nroad\ncar', "line 1 is ''"),
        ('# names\nroad', "line 1 is '# names'"),
        ('road\nroad', "two values have the name 'road'"),
        ('0\troad', 'without tabs'),
        ('', 'expected class names'),
    ],
)
def test_an_invalid_text_file_is_refused(masks, text, message):
    refusal = masks(classes=text).refusal('semantic')
    assert 'classes.txt: ' in refusal
    assert message in refusal


def test_a_second_class_list_is_not_used(masks):
    folder = masks()
    folder.write('classes.json', ['a', 'b'])
    assert folder.find('semantic').notes == (f'{folder.root}/classes.json: not used, because there is classes.txt',)


def test_masks_without_a_class_list_are_refused(masks):
    assert 'needs its class names in classes.txt' in masks(classes=None).refusal('semantic')


def test_a_missing_split_is_refused(masks):
    folder = masks()
    (folder.root / 'images/val').rename(folder.root / 'images/more')
    assert 'there is no val split with masks' in folder.refusal('semantic')


def test_images_of_two_types_are_refused(masks):
    folder = masks()
    folder.image('images/train/b.png')
    assert 'holds .jpg, .png; expected images of one type' in folder.refusal('semantic')


def test_two_folders_for_one_split_are_refused(masks):
    folder = masks()
    folder.image('images/train_more/b.jpg')
    assert 'several folders for the train split: train, train_more' in folder.refusal('semantic')


def test_an_image_without_a_mask_is_refused(masks):
    folder = masks()
    (folder.root / 'annotations/train/a.png').rename(folder.root / 'annotations/train/b.png')
    assert 'no mask for a.jpg; its name must begin with a' in folder.refusal('semantic')


def test_names_with_brackets_and_common_beginnings_are_paired(masks):
    folder = masks()
    for stem in ('[train] 1', '[train] 10', 'sub [x]/a', 'ab*'):
        folder.image(f'images/train/{stem}.jpg')
        folder.image(f'annotations/train/{stem}.png')
    source = folder.find('semantic')
    assert (source.train['seg_map_suffix'], source.notes) == ('.png', ())


def test_one_missing_mask_is_named(masks):
    folder = masks()
    for name in ('images/train/b.jpg', 'images/train/ab.jpg', 'annotations/train/ab.png'):
        folder.image(name)
    assert '1 of the 3 images have no mask, whose names would be b.png' in folder.refusal('semantic')


def test_links_to_folders_are_followed_once(masks, tmp_path):
    from mmseg.datasets import BaseSegDataset

    folder = masks()
    for kind, suffix in (('images', '.jpg'), ('annotations', '.png')):
        folder.image(f'../more/{kind}/b c{suffix}')
        (folder.root / kind / 'train/part').symlink_to(tmp_path / 'more' / kind)
    (folder.root / 'images/train/again').symlink_to('.')
    data = BaseSegDataset(**folder.find('semantic').train, lazy_init=True).load_data_list()
    names = [(Path(entry['img_path']).name, Path(entry['seg_map_path']).name) for entry in data]
    assert names == [('a.jpg', 'a.png'), ('b c.jpg', 'b c.png')]
    folder.image('../more/images/x .jpg')
    folder.image('../more/annotations/x .png')
    assert "'part/x ': such a name of an image needs a folder without links" in folder.refusal('semantic')


def test_hidden_images_are_left_out(masks):
    folder = masks()
    folder.image('images/train/.b.jpg')
    assert folder.find('semantic').notes == ()


def test_masks_without_image_are_said(masks):
    folder = masks()
    folder.image('annotations/train/b.png')
    [note] = folder.find('semantic').notes
    assert 'annotations/train: 1 files are not the mask of an image and are not used: b.png' in note


def test_a_test_split_is_not_trained_on(masks):
    folder = masks()
    folder.image('images/test/a.jpg')
    [note] = folder.find('semantic').notes
    assert note == f'{folder.root}/images/test: a test split without masks, which is not used'
    folder.image('annotations/test/a.png')
    [note] = folder.find('semantic').notes
    assert '1 images of a test split are not trained on' in note
    (folder.root / 'images/val').rename(folder.root / 'images/test_2')
    assert 'there is no val split with masks' in folder.refusal('semantic')


@pytest.mark.parametrize(
    'classes, note',
    [
        ('0 road\n1 car\n', "the value 0 is '0 road'"),
        ('1: road\n2: car\n', "the value 0 is '1: road'"),
        ('1 cent\n5 cent\n', ''),
        ('0\n1\n', ''),
    ],
)
def test_numbers_before_the_names_are_said(masks, classes, note):
    notes = masks(classes=classes).find('semantic').notes
    assert notes == (
        (f'{masks().root}/classes.txt: the numbers in the names are not used as values; {note}',) if note else ()
    )
