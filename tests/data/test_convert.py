"""YOLO and Pascal VOC labels as COCO; supervision reads them."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as codec

from repvit_dense.data import convert, sources
from repvit_dense.errors import InputError

SIZE = (40, 20)
YAML = 'train: images/train\nval: images/val\nnames: [cat, dog]\n'


def picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size).save(path)


def yolo(root, labels='1 0.5 0.5 0.25 0.5\n', text=YAML, name='data.yaml'):
    for split in ('train', 'val'):
        picture(root / f'images/{split}/{split}.png')
        (root / f'labels/{split}').mkdir(parents=True)
        (root / f'labels/{split}/{split}.txt').write_text(labels)
    (root / name).write_text(text)
    return root


def find(root, task='detection'):
    return sources.find(str(root), task, root.parent / 'work')


def annotations(source, split='train'):
    return json.loads(Path(getattr(source, split)['ann_file']).read_text())['annotations']


# --- YOLO ---


def test_yolo_boxes(tmp_path):
    source = find(yolo(tmp_path / 'data'))
    assert (source.type, source.classes) == ('CocoDataset', ('cat', 'dog'))
    for split in ('train', 'val'):
        [box] = annotations(source, split)
        assert box['bbox'] == pytest.approx([15, 5, 10, 10])
        assert (box['category_id'], box['area'], box['iscrowd']) == (1, pytest.approx(100), 0)
        assert 'segmentation' not in box
        arguments = getattr(source, split)
        name = json.loads(Path(arguments['ann_file']).read_text())['images'][0]['file_name']
        assert Path(arguments['data_root'], arguments['data_prefix']['img'], name).is_file()
    assert 'YOLO labels, converted to' in source.notes[0]


def test_yolo_polygons(tmp_path):
    """A triangle with legs of 20 and 10 pixels; its mask is that to within the pixels of its outline."""
    source = find(yolo(tmp_path / 'data', '0 0.25 0.25 0.75 0.25 0.25 0.75\n'), 'instance')
    [triangle] = annotations(source)
    mask = codec.decode(triangle['segmentation'])
    expected = np.add.outer(2 * (np.arange(20) - 5), np.arange(40) - 10) <= 20
    expected &= (np.arange(20)[:, None] >= 5) & (np.arange(40) >= 10)
    assert mask.shape == (20, 40)
    assert mask.sum() == triangle['area']
    assert (mask != expected).sum() <= 10
    assert triangle['bbox'] == pytest.approx([10, 5, 20, 10])


def test_yolo_boxes_do_not_suit_instance_configs(tmp_path):
    with pytest.raises(InputError, match='boxes but no masks'):
        find(yolo(tmp_path / 'data'), 'instance')


def test_an_image_without_labels_has_no_objects(tmp_path):
    root = yolo(tmp_path / 'data')
    (root / 'labels/train/train.txt').unlink()
    assert annotations(find(root)) == []


@pytest.mark.parametrize('layout', ['split first', 'labels beside', 'list of files', 'path', 'dots', 'two folders'])
def test_layouts_of_yolo(tmp_path, layout):
    root = yolo(tmp_path / 'data')
    text = YAML
    if layout == 'split first':
        for split in ('train', 'val'):
            for kind in ('images', 'labels'):
                (root / split).mkdir(exist_ok=True)
                (root / kind / split).rename(root / split / kind)
        text = 'train: train/images\nval: val/images\nnames: [cat, dog]'
    elif layout == 'labels beside':
        for split in ('train', 'val'):
            (root / f'labels/{split}/{split}.txt').rename(root / f'images/{split}/{split}.txt')
    elif layout == 'list of files':
        (root / 'train.txt').write_text('./images/train/train.png\n')
        text = YAML.replace('images/train', 'train.txt')
    elif layout == 'path':
        text = f'path: {root}\n{YAML}'
    elif layout == 'dots':  # as Roboflow exports it
        text = YAML.replace('images/', '../images/')
    else:
        text = YAML.replace('images/train', '[images/train, images/val]')
    (root / 'data.yaml').write_text(text)
    assert len(annotations(find(root))) == (2 if layout == 'two folders' else 1)


def test_yolo_without_val_holds_images_out(tmp_path):
    root = yolo(tmp_path / 'data', text='train: images\nnames: {0: cat, 1: dog}')
    source = find(root)
    assert [len(annotations(source, split)) for split in ('train', 'val')] == [1, 1]


@pytest.mark.parametrize(
    'labels, words',
    [('0 0.5 0.5\n', 'Invalid YOLO annotation line'), ('x 0.5 0.5 0.1 0.1\n', 'Invalid class id')],
)
def test_broken_yolo_labels_are_named(tmp_path, labels, words):
    with pytest.raises(InputError, match=f'labels/train/train.txt: {words}'):
        find(yolo(tmp_path / 'data', labels))


@pytest.mark.parametrize(
    'text, words',
    [
        ('train: images/train', "'names' must list the classes"),
        ('names: {0: a, 2: b}\ntrain: images/train', "'names' must list the classes"),
        ('names: [a]\ntrain: nowhere', 'nowhere is not there'),
        ('names: [a]\nval: images/val', 'names no training images'),
        ('names: [a]\nkpt_shape: [17, 3]\ntrain: images/train', 'a data set of poses'),
        ('- a', 'not the description of a YOLO data set'),
        ('a: [', 'cannot be read as YAML'),
    ],
)
def test_broken_yaml(tmp_path, text, words):
    with pytest.raises(InputError, match=f'data.yaml: .*{words}'):
        find(yolo(tmp_path / 'data', text=text))


def test_nothing_in_a_yaml_file_is_executed(tmp_path):
    text = f'names: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{tmp_path / "x"}]]'
    with pytest.raises(InputError, match='cannot be read as YAML'):
        find(yolo(tmp_path / 'data', text=text))
    assert not (tmp_path / 'x').exists()


def test_without_the_package_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith('supervision'):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(InputError, match=r'pip install repvit_dense\[convert\]'):
        find(yolo(tmp_path / 'data'))


# --- Pascal VOC ---


def voc(root, objects=(('dog', 3, 5, 12, 14, 0), ('cat', 1, 1, 40, 20, 1)), splits=True):
    """Boxes count pixels from 1 and include the last, as in the devkit."""
    for stem in ('a', 'b', 'c'):
        picture(root / f'JPEGImages/{stem}.jpg')
        (root / 'Annotations').mkdir(exist_ok=True)
        body = ''.join(
            f'<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>'
            f'<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>'
            for name, x1, y1, x2, y2, hard in objects
        )
        (root / f'Annotations/{stem}.xml').write_text(f'<annotation>{body}</annotation>')
    if splits:
        (root / 'ImageSets/Main').mkdir(parents=True)
        (root / 'ImageSets/Main/train.txt').write_text('a\nb\n')
        (root / 'ImageSets/Main/val.txt').write_text('c  1\n')
    return root


def test_voc(tmp_path):
    source = find(voc(tmp_path / 'data'))
    assert source.classes == ('cat', 'dog')
    assert [len(annotations(source, split)) for split in ('train', 'val')] == [4, 2]
    dog, cat = annotations(source, 'val')
    content = json.loads(Path(source.val['ann_file']).read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    assert [names[entry['category_id']] for entry in (dog, cat)] == ['dog', 'cat']
    assert dog['bbox'] == [2, 4, 10, 10]
    assert cat['bbox'] == [0, 0, 40, 20]
    assert [entry['iscrowd'] for entry in (dog, cat)] == [0, 1]
    assert content['images'][0]['file_name'] == 'JPEGImages/c.jpg'


def test_voc_numbers_classes_alike_in_all_splits(tmp_path):
    root = voc(tmp_path / 'data')
    text = (root / 'Annotations/c.xml').read_text()
    (root / 'Annotations/c.xml').write_text(text.replace('dog', 'ant').replace('cat', 'ant'))
    source = find(root)
    assert source.classes == ('ant', 'cat', 'dog')
    listed = [json.loads(Path(getattr(source, s)['ann_file']).read_text())['categories'] for s in ('train', 'val')]
    assert listed[0] == listed[1]


def test_voc_without_splits_holds_images_out(tmp_path):
    source = find(voc(tmp_path / 'data', splits=False))
    assert [len(annotations(source, split)) for split in ('train', 'val')] == [4, 2]
    assert any('1 images are held out' in note for note in source.notes)


@pytest.mark.parametrize('text', ['<annotation>', '<annotation><object></object></annotation>'])
def test_broken_voc_labels_are_named(tmp_path, text):
    root = voc(tmp_path / 'data')
    (root / 'Annotations/a.xml').write_text(text)
    with pytest.raises(InputError, match='Annotations/a.xml: '):
        find(root)


def test_entities_in_xml_are_refused(tmp_path):
    """A few lines of nested entities would fill the memory."""
    root = voc(tmp_path / 'data')
    (root / 'Annotations/a.xml').write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>')
    with pytest.raises(InputError, match='Annotations/a.xml: '):
        find(root)


def test_a_listed_image_that_is_not_there(tmp_path):
    root = voc(tmp_path / 'data')
    (root / 'JPEGImages/b.jpg').unlink()
    with pytest.raises(InputError, match='train.txt: names b, which is not in '):
        find(root)


def test_names_of_images_outside_the_folder_stay_whole(tmp_path):
    picture(tmp_path / 'elsewhere/a.png')
    content = convert._to_coco(tmp_path / 'data', [(tmp_path / 'elsewhere/a.png', None, [])], ['cat'])
    assert content['images'][0]['file_name'] == str(tmp_path / 'elsewhere/a.png')
