import json
from pathlib import Path

import pytest

PATHS = {
    'coco': ('annotations/instances_{}2017.json', '{}2017'),
    'plain names': ('annotations/{}.json', '{}'),
    'subfolders of images': ('annotations/{}.json', 'images/{}'),
    'annotations in the root': ('{}_annotations.json', 'images'),
    'annotations in the image folders': ('{}/labels.json', '{}'),
}


@pytest.mark.parametrize('paths', PATHS)
@pytest.mark.parametrize('val', ['val', 'valid'])
def test_variants(folder, paths, val):
    annotations, images = PATHS[paths]
    for split in ('train', val):
        folder.image(f'{images.format(split)}/{split}.png')
        folder.coco(annotations.format(split), [f'{split}.png'])
    before = folder.files()
    source = folder.find()
    assert (source.type, source.classes, source.things) == ('CocoDataset', ('cat', 'dog'), 2)
    for split, arguments in (('train', source.train), (val, source.val)):
        assert Path(arguments['data_root'], arguments['data_prefix']['img'], f'{split}.png').is_file()
        assert Path(arguments['ann_file']) == folder.root / annotations.format(split)
    assert source.ann_files == {'instances': source.val['ann_file']}
    assert source.notes == ()
    assert folder.files() == before
    assert not folder.store.exists()


def test_files_with_other_labels_are_ignored(folder):
    for split in ('train', 'val'):
        folder.image(f'{split}/1.png')
        folder.coco(f'annotations/instances_{split}.json', ['1.png'])
        for kind in ('captions', 'person_keypoints', 'panoptic'):
            folder.write(f'annotations/{kind}_{split}.json', {})
    assert folder.find().train['ann_file'].endswith('annotations/instances_train.json')


def test_two_files_for_one_split_are_refused(folder):
    for name in ('train_a', 'train_b', 'val'):
        folder.coco(f'annotations/{name}.json', ['1.png'])
    assert 'several files for the train split: train_a.json, train_b.json. Leave one' in folder.refusal()


def test_files_without_a_split_in_their_names_are_refused(folder):
    for name in ('train', 'more'):
        folder.coco(f'annotations/{name}.json', ['1.png'])
    assert 'no annotations of a val split. Expected: annotations/*train*.json' in folder.refusal()


def test_missing_images_are_named(folder):
    folder.coco('one.json', ['1.png', '2.png'])
    assert 'its images (1.png, 2.png, ...) are in none of' in folder.refusal()


@pytest.fixture
def single(folder):
    """Return a folder with 25 images and one annotation file."""
    names = [f'{i}.png' for i in range(25)]
    for name in names:
        folder.image(f'pictures/{name}')
    folder.coco('all.json', names)
    return folder


def test_a_tenth_is_held_out_if_there_is_no_val_split(single):
    before = single.files()
    source = single.find()
    train, val = single.read(source.train), single.read(source.val)
    names = [{image['file_name'] for image in part['images']} for part in (train, val)]
    assert [len(part) for part in names] == [23, 2]
    assert names[0] | names[1] == {f'{i}.png' for i in range(25)}
    for part in (train, val):
        assert {a['image_id'] for a in part['annotations']} == {image['id'] for image in part['images']}
        assert len(part['annotations']) == 2 * len(part['images'])
    assert [note for note in source.notes if '2 images are held out' in note]
    assert source.ann_files['instances'] == source.val['ann_file'] == str(single.store / 'val.json')
    assert single.files() == before


def test_the_order_of_the_file_does_not_change_the_held_out_images(single):
    first = single.read(single.find().val)['images']
    content = json.loads((single.root / 'all.json').read_text())
    content['images'].reverse()
    single.write('all.json', content)
    assert single.read(single.find().val)['images'] == first


def test_a_single_image_cannot_be_held_out(folder):
    folder.image('1.png')
    folder.coco('all.json', ['1.png'])
    assert 'there is no val split, and too few images (1)' in folder.refusal()


def test_an_interrupted_write_leaves_no_partial_file(single, monkeypatch):
    single.find()

    def fail(*args):
        raise OSError('disk')

    monkeypatch.setattr(Path, 'replace', fail)
    with pytest.raises(OSError, match='disk'):
        single.find()
    assert sorted(path.name for path in single.store.iterdir()) == ['train.json', 'val.json']


def test_boxes_without_masks_suit_detection_only(folder):
    for split in ('train', 'val'):
        folder.image(f'{split}/1.png')
        folder.coco(f'annotations/{split}.json', ['1.png'], masks=False)
    assert folder.find('detection').classes == ('cat', 'dog')
    assert 'boxes but no masks, so it suits detection configs' in folder.refusal('instance')


@pytest.mark.parametrize('name', ['animals', 'cat'])
def test_the_placeholder_of_roboflow_shifts_no_class(folder, name):
    """Category 0 has no objects; its name may even be that of a class."""
    for split in ('train', 'valid', 'test'):
        folder.image(f'{split}/a.png')
        content = folder.coco(f'{split}/_annotations.coco.json', ['a.png'])
        content['categories'].insert(0, {'id': 0, 'name': name, 'supercategory': 'none'})
        folder.write(f'{split}/_annotations.coco.json', content)
    before = folder.files()
    source = folder.find()
    assert source.classes == ('cat', 'dog')
    assert [category['id'] for category in folder.read(source.train)['categories']] == [5, 10]
    assert source.val['data_prefix'] == {'img': 'valid'}
    assert folder.files() == before


def test_a_category_without_supercategory_that_has_objects_is_a_class(folder):
    for split in ('train', 'val'):
        folder.image(f'{split}/a.png')
        content = folder.coco(f'{split}/a.json', ['a.png'])
        content['categories'][0]['supercategory'] = 'none'
        folder.write(f'{split}/a.json', content)
    assert folder.find().classes == ('cat', 'dog')
