import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PATHS = {
    'images and annotations': ('images/{}', 'annotations/{}'),
    'images and labels': ('images/{}ing', 'labels/{}ing'),
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


@pytest.mark.parametrize('content', [[], ['a', 'a'], {'0': 'a', '2': 'b'}, {'a': 0}, 'a', 3, '{'])
def test_an_invalid_class_list_is_refused(masks, content):
    text = content if content == '{' else json.dumps(content)
    assert 'classes.json: expected' in masks(classes=text, file='classes.json').refusal('semantic')


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


def test_an_image_without_a_mask_is_refused(masks):
    folder = masks()
    (folder.root / 'annotations/train/a.png').rename(folder.root / 'annotations/train/b.png')
    assert 'no mask for a.jpg; its name must begin with a' in folder.refusal('semantic')
