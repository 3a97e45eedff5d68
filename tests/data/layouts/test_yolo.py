import builtins
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as codec

YAML = 'train: images/train\nval: images/val\nnames: [cat, dog]\n'


@pytest.fixture
def yolo(folder):
    """Return a function that writes one image of 40x20 pixels with its labels for each split, and a YAML file."""

    def write(labels='1 0.5 0.5 0.25 0.5\n', text=YAML):
        for split in ('train', 'val'):
            folder.image(f'images/{split}/{split}.png', (40, 20))
            folder.write(f'labels/{split}/{split}.txt', labels)
        folder.write('data.yaml', text)
        return folder

    return write


def annotations(folder, split='train', task='detection'):
    return folder.read(getattr(folder.find(task), split))['annotations']


def test_boxes(yolo):
    folder = yolo()
    source = folder.find('detection')
    assert (source.type, source.classes) == ('CocoDataset', ('cat', 'dog'))
    for arguments in (source.train, source.val):
        content = folder.read(arguments)
        [box] = content['annotations']
        assert box['bbox'] == pytest.approx([15, 5, 10, 10])
        assert (box['category_id'], box['area'], box['iscrowd']) == (1, pytest.approx(100), 0)
        assert 'segmentation' not in box
        name = content['images'][0]['file_name']
        assert Path(arguments['data_root'], arguments['data_prefix']['img'], name).is_file()
    assert 'YOLO labels, converted to' in source.notes[0]


def test_polygons(yolo):
    """The mask of a triangle with legs of 20 and 10 pixels differs from the triangle only along its outline."""
    [triangle] = annotations(yolo('0 0.25 0.25 0.75 0.25 0.25 0.75\n'), task='instance')
    mask = codec.decode(triangle['segmentation'])
    expected = np.add.outer(2 * (np.arange(20) - 5), np.arange(40) - 10) <= 20
    expected &= (np.arange(20)[:, None] >= 5) & (np.arange(40) >= 10)
    assert mask.shape == (20, 40)
    assert mask.sum() == triangle['area']
    assert (mask != expected).sum() <= 10
    assert triangle['bbox'] == pytest.approx([10, 5, 20, 10])


def test_boxes_do_not_suit_instance_configs(yolo):
    assert 'boxes but no masks' in yolo().refusal('instance')


def test_an_image_without_a_label_file_has_no_objects(yolo):
    folder = yolo()
    (folder.root / 'labels/train/train.txt').unlink()
    assert annotations(folder) == []


def split_first(root):
    for split in ('train', 'val'):
        for kind in ('images', 'labels'):
            (root / split).mkdir(exist_ok=True)
            (root / kind / split).rename(root / split / kind)
    return 'train: train/images\nval: val/images\nnames: [cat, dog]'


def labels_beside_images(root):
    for split in ('train', 'val'):
        (root / f'labels/{split}/{split}.txt').rename(root / f'images/{split}/{split}.txt')
    return YAML


def list_of_files(root):
    (root / 'train.txt').write_text('./images/train/train.png\n')
    return YAML.replace('images/train', 'train.txt')


@pytest.mark.parametrize(
    'change, number',
    [
        (split_first, 1),
        (labels_beside_images, 1),
        (list_of_files, 1),
        (lambda root: f'path: {root}\n{YAML}', 1),
        (lambda root: YAML.replace('images/', '../images/'), 1),  # the exports of Roboflow
        (lambda root: YAML.replace('images/train', '[images/train, images/val]'), 2),
    ],
    ids=['split first', 'labels beside images', 'list of files', 'path', 'dots', 'two folders'],
)
def test_variants(yolo, change, number):
    folder = yolo()
    folder.write('data.yaml', change(folder.root))
    assert len(annotations(folder)) == number


def test_a_tenth_is_held_out_if_there_is_no_val_split(yolo):
    folder = yolo(text='train: images\nnames: {0: cat, 1: dog}')
    assert [len(annotations(folder, split)) for split in ('train', 'val')] == [1, 1]
    assert [note.split(', ')[-1] for note in folder.find('detection').notes] == [
        f'converted to {folder.store}',
        'so 1 images are held out for evaluation',
    ]


@pytest.mark.parametrize(
    'labels, message',
    [('0 0.5 0.5\n', 'Invalid YOLO annotation line'), ('x 0.5 0.5 0.1 0.1\n', 'Invalid class id')],
)
def test_an_invalid_label_file_is_named(yolo, labels, message):
    assert f'labels/train/train.txt: {message}' in yolo(labels).refusal('detection')


@pytest.mark.parametrize(
    'text, message',
    [
        ('train: images/train', "'names' must list the classes"),
        ('names: {0: a, 2: b}\ntrain: images/train', "'names' must list the classes"),
        ('names: [a]\ntrain: nowhere', 'nowhere does not exist'),
        ('names: [a]\nval: images/val', 'names no training images'),
        ('names: [a]\nkpt_shape: [17, 3]\ntrain: images/train', 'a data set of poses'),
        ('- a', 'not the description of a YOLO data set'),
        ('a: [', 'cannot be read as YAML'),
    ],
)
def test_an_invalid_yaml_file_is_refused(yolo, text, message):
    refusal = yolo(text=text).refusal('detection')
    assert 'data.yaml: ' in refusal
    assert message in refusal


def test_code_in_a_yaml_file_is_not_executed(yolo, tmp_path):
    text = f'names: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{tmp_path / "x"}]]'
    assert 'cannot be read as YAML' in yolo(text=text).refusal('detection')
    assert not (tmp_path / 'x').exists()


def test_the_message_for_a_missing_package_has_the_command_that_installs_it(yolo, monkeypatch):
    original = builtins.__import__

    def import_without_supervision(name, *args, **kwargs):
        if name.startswith('supervision'):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', import_without_supervision)
    assert 'pip install repvit_dense[convert]' in yolo().refusal('detection')
