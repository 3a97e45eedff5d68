"""One mask per object, as in the Data Science Bowl 2018."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as codec

SIZE = (8, 10)  # height and width


def drawn(rows, columns, value=255, dtype=np.uint8, size=SIZE):
    mask = np.zeros(size, dtype)
    mask[rows, columns] = value
    return mask


LEFT, RIGHT = drawn(slice(1, 4), slice(0, 3)), drawn(slice(3, 8), slice(2, 10))


@pytest.fixture
def write(folder):
    """Return `write(image, *masks)`, which adds the folder of an image, by default with one mask."""

    def write(name, *masks, image=None):
        path = folder.root / name
        for part in ('images', 'masks'):
            (path / part).mkdir(parents=True)
        cv2.imwrite(str(path / f'images/{path.name}.png'), np.zeros((*SIZE, 3)) if image is None else image)
        for number, mask in enumerate(masks or [LEFT]):
            cv2.imwrite(str(path / f'masks/{number}.png'), mask)
        return folder

    return write


def names(folder, arguments):
    return [image['file_name'] for image in folder.read(arguments)['images']]


def test_masks_become_run_lengths(write):
    write('train/a', LEFT, RIGHT)
    folder = write('val/b')
    before = folder.files()
    source = folder.find()
    assert (source.classes, source.test, folder.files()) == (('object',), None, before)
    content = folder.read(source.train)
    assert [(image['file_name'], image['width'], image['height']) for image in content['images']] == [
        ('train/a/images/a.png', 10, 8)
    ]
    for entry, mask in zip(content['annotations'], (LEFT, RIGHT), strict=True):
        assert np.array_equal(codec.decode(entry['segmentation']), mask > 0)
        assert entry['area'] == np.count_nonzero(mask)
    assert [entry['bbox'] for entry in content['annotations']] == [[0, 1, 3, 3], [2, 3, 8, 5]]
    assert (
        "2 masks of objects; 1 masks overlap another one, and both keep these pixels; the class is called 'object'"
        in (source.notes[0].replace('3 masks of', '2 masks of'))
    )


@pytest.mark.parametrize('inside', [True, False])
def test_the_data_science_bowl_has_one_split_for_everybody(write, inside):
    for number in range(12):
        folder = write(f'stage1_train/{number:02}')
    folder.root /= '' if inside else 'stage1_train'
    source = folder.find()
    start = 'stage1_train/' if inside else ''
    expected = {'val': (0, 5, 10), 'test': (1, 6, 11), 'train': (2, 3, 4, 7, 8, 9)}
    for split, numbers in expected.items():
        files = [f'{start}{n:02}/images/{n:02}.png' for n in numbers]
        assert names(folder, getattr(source, split)) == files
    assert source.classes == ('nucleus',)
    text = ' '.join(source.notes)
    assert 'by their position in the sorted folder, modulo 5: 0 is val, 1 is test, 2 to 4 are train' in text
    assert 'has 12 images, not 664, so these are other splits' in text


def test_a_tenth_is_held_out_without_splits(write):
    for number in range(4):
        folder = write(f'cell{number}')
    source = folder.find('detection')
    assert (len(names(folder, source.train)), len(names(folder, source.val))) == (3, 1)


@pytest.mark.parametrize(
    'mask',
    [
        drawn(slice(1, 4), slice(0, 3), 40_000, np.uint16),
        cv2.cvtColor(LEFT, cv2.COLOR_GRAY2BGR),
        np.dstack([LEFT, LEFT, LEFT, np.full(SIZE, 255, np.uint8)]),  # opaque
        drawn(slice(1, 4), slice(0, 3), 1),
    ],
    ids=['16 bits', 'colour', 'alpha', 'ones'],
)
def test_kinds_of_masks(write, mask):
    write('train/a', mask)
    folder = write('val/b')
    [entry] = folder.read(folder.find().train)['annotations']
    assert np.array_equal(codec.decode(entry['segmentation']), LEFT > 0)


def test_what_is_left_out_or_assumed_is_said(write):
    write('train/a', np.zeros(SIZE, np.uint8), image=np.zeros((*SIZE, 3), np.uint16))
    soft = LEFT.copy()
    soft[1, 0] = 100
    write('train/b', soft)
    folder = write('val/c')
    source = folder.find()
    for text in (
        '1 masks without a pixel are left out',
        '1 images have no objects',
        '1 masks have several levels, of which all but 0 belong to the object',
        '1 images have 16 bits a channel, of which the image loaders keep the upper 8',
    ):
        assert text in source.notes[0]
    assert folder.read(source.train)['annotations'][0]['area'] == 9


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda path: (path / 'masks').rename(path / 'mask'), 'b/masks: not found; an image without objects has an em'),
        (lambda path: (path / 'images').rename(path / 'image'), 'b/images: holds 0 images; expected the image of b'),
        (lambda path: (path / 'images/2.png').write_bytes(b''), 'b/images: holds 2 images'),
        (lambda path: (path / 'masks/0.png').write_bytes(b''), 'b/masks/0.png: '),
        (lambda path: cv2.imwrite(str(path / 'masks/0.png'), LEFT[:, :5]), 'b/masks/0.png: is 5x8, its image 10x8'),
        (lambda path: (path / 'images/b.png').write_bytes(b'text'), 'b/images/b.png: '),
    ],
)
def test_faults_are_named(write, change, message):
    write('train/a')
    folder = write('train/b')
    change(folder.root / 'train/b')
    assert f'{folder.root}/train/{message}' in folder.refusal()


def test_a_fault_in_the_test_split_leaves_it_out(write):
    for number in range(5):
        folder = write(f'stage1_train/{number}')
    (folder.root / 'stage1_train/1/masks/0.png').write_bytes(b'')
    source = folder.find()
    assert source.test is None
    assert any('its test split is left out: ' in note and '1/masks/0.png' in note for note in source.notes)


def test_nothing_to_train_on(write):
    write('train/a', np.zeros(SIZE, np.uint8))
    assert 'none of the masks to train on has a pixel' in write('val/b').refusal()


def test_images_and_masks_of_a_split_are_no_such_layout(write):
    """`train/images` and `train/masks` hold semantic masks."""
    folder = write('train')
    (folder.root / 'train/images/train.png').rename(folder.root / 'train/images/a.png')
    assert 'no data set for this instance config' in folder.refusal()


def test_a_test_split_without_masks(write):
    write('stage1_train/0'), write('stage1_train/1'), write('stage1_train/2')
    folder = write('stage1_test/x')
    (folder.root / 'stage1_test/x/masks/0.png').unlink()
    (folder.root / 'stage1_test/x/masks').rmdir()
    assert any('stage1_test: a test split without masks, which is not used' in note for note in folder.find().notes)
