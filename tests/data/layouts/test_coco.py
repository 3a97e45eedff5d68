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
        raise OSError(28, 'disk')

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


@pytest.mark.parametrize('name, supercategory', [('animals', 'animals'), ('cat', 'cat')])
def test_the_placeholder_of_roboflow_shifts_no_class(folder, name, supercategory):
    """Category 0 has no objects; its name may even be that of a class."""
    for split in ('train', 'valid', 'test'):
        folder.image(f'{split}/{split}.png')
        content = folder.coco(f'{split}/_annotations.coco.json', [f'{split}.png'])
        for category in content['categories']:
            category['supercategory'] = supercategory
        content['categories'].insert(0, {'id': 0, 'name': name, 'supercategory': 'none'})
        folder.write(f'{split}/_annotations.coco.json', content)
    before = folder.files()
    source = folder.find()
    assert source.classes == ('cat', 'dog')
    assert [category['id'] for category in folder.read(source.train)['categories']] == [5, 10]
    assert source.val['data_prefix'] == {'img': 'valid'}
    assert source.test['data_prefix'] == {'img': 'test'}
    assert [category['id'] for category in folder.read(source.test)['categories']] == [5, 10]
    assert f"the category '{name}', Roboflow's placeholder without objects, is left out" in source.notes[0]
    assert folder.files() == before


@pytest.mark.parametrize(
    'change',
    [
        lambda cat, dog: cat.update(supercategory='none'),
        lambda cat, dog: (cat.update(supercategory='none'), dog.update(supercategory='none')),
        lambda cat, dog: dog.update(supercategory='none'),
        lambda cat, dog: (cat.update(supercategory='none', id=7), dog.update(supercategory='cat')),
    ],
    ids=['one without supercategory', 'none has one', 'the last one', 'it has objects'],
)
def test_every_other_category_is_a_class_with_or_without_objects(folder, change):
    for split in ('train', 'val'):
        folder.image(f'{split}/{split}.png')
        content = folder.coco(f'{split}/a.json', [f'{split}.png'])
        change(*content['categories'])
        content['annotations'] = [{**entry, 'category_id': 7} for entry in content['annotations']]
        folder.write(f'{split}/a.json', content)
    source = folder.find()
    assert source.classes == ('cat', 'dog')
    assert source.notes == ()


def two_splits(folder, change=lambda content: None, names=('train', 'val')):
    """Write one image and one file for each split, changed by a function of its content."""
    for name in names:
        folder.image(f'{name}/{name}.png')
        content = folder.coco(f'annotations/{name}.json', [f'{name}.png'])
        change(content)
        folder.write(f'annotations/{name}.json', content)
    return folder


@pytest.mark.parametrize('value', ['missing', None])
@pytest.mark.parametrize('mask', [True, False])
def test_missing_crowds_and_areas_are_completed_in_a_copy(folder, value, mask):
    def change(content):
        for entry in content['annotations']:
            entry.update({} if mask else {'segmentation': [], 'bbox': [2, 2, 5, 4]})
            for key in ('iscrowd', 'area'):
                entry.pop(key) if value == 'missing' else entry.update({key: value})

    two_splits(folder, change)
    before = folder.files()
    source = folder.find('detection')
    assert {(e['iscrowd'], e['area']) for e in folder.read(source.val)['annotations']} == {(0, 16 if mask else 20)}
    train, val = (f'{folder.root}/annotations/{split}.json: ' for split in ('train', 'val'))
    assert source.notes[:2] == (
        f"{train}2 annotations have no 'iscrowd', which is taken as 0",
        f"{train}2 annotations have no 'area', which is computed",
    )
    assert source.notes[-1] == f'{folder.root}: the changed annotations are written to {folder.store}'
    assert folder.files() == before


@pytest.mark.parametrize(
    'mask, area',
    [
        ({'size': [8, 10], 'counts': [10, 5, 60, 5]}, 10),
        ({'size': [8, 10], 'counts': '0`2'}, 80),
        ({'size': [8, 10], 'counts': 'o'}, 20),
        ({'size': 3, 'counts': 4}, 20),
        ([[0, 0, 4, 0, 4, 4], [5, 5, 6, 5, 6, 6]], 8.5),
        ([['a']], 20),
        ([[]], 20),
        ('text', 20),
        ([], 20),
    ],
)
def test_areas_of_masks(folder, mask, area):
    def change(content):
        del content['annotations'][1]['area']
        content['annotations'][1] |= {'segmentation': mask, 'bbox': [1, 1, 5, 4]}

    source = two_splits(folder, change).find('detection')
    assert folder.read(source.train)['annotations'][1].get('area') == area


def test_file_names_with_backslashes_and_other_folders(folder):
    def change(content):
        content['images'][0]['file_name'] = 'C:\\data\\' + content['images'][0]['file_name']

    source = two_splits(folder, change).find()
    assert folder.read(source.train)['images'][0]['file_name'] == 'train.png'
    assert 'its images are found as train.png for C:\\data\\train.png, and so on' in source.notes[0]


def test_file_names_that_only_differ_in_their_folder_are_refused(folder):
    folder.image('images/1.png')
    folder.coco('all.json', ['a/1.png', 'b/1.png'])
    assert 'but then several have the same name' in folder.refusal()


@pytest.mark.parametrize('change', [lambda c: c['categories'].pop(), lambda c: c['categories'].reverse()])
def test_both_splits_must_have_the_same_classes(folder, change):
    two_splits(folder)
    content = json.loads((folder.root / 'annotations/val.json').read_text())
    change(content)
    folder.write('annotations/val.json', content)
    assert 'both must list the same ones in the same order' in folder.refusal()


@pytest.mark.parametrize('names', [['train', 'test'], ['train_all', 'my_train_test']])
def test_a_test_split_is_not_trained_on(folder, names):
    two_splits(folder, names=names)
    folder.image('train/2.png')
    folder.coco(f'annotations/{names[0]}.json', ['train.png', '2.png'])
    folder.image('train/train.png')
    source = folder.find()
    used = [image['file_name'] for part in (source.train, source.val) for image in folder.read(part)['images']]
    assert sorted(used) == ['2.png', 'train.png']
    assert source.test['ann_file'] == source.test_files['instances'] == f'{folder.root}/annotations/{names[1]}.json'
    assert '1 images of a test split are not trained on; `test --split test` scores them' in source.notes[-1]


def test_a_test_file_alone_is_not_trained_on(folder):
    folder.image('test/1.png')
    folder.coco('annotations/instances_test.json', ['1.png'])
    assert 'no annotations of a train split' in folder.refusal()


def test_images_in_a_test_folder_are_not_trained_on(folder):
    names = ['a/1.png', 'a/2.png', 'test/3.png', 'b/testing\\4.png']
    for name in names:
        folder.image(name.replace('\\', '/'))
    folder.coco('all.json', names)
    source = folder.find()
    used = [image['file_name'] for part in (source.train, source.val) for image in folder.read(part)['images']]
    assert sorted(used) == ['a/1.png', 'a/2.png']
    assert [image['file_name'] for image in folder.read(source.test)['images']] == names[2:]


def test_a_validation_file_alone_is_split_and_a_note_says_so(folder):
    names = [folder.image(f'val/{i}.png').name for i in range(3)]
    folder.coco('annotations/instances_val.json', names)
    assert 'the only annotation file, so it is used for training too' in folder.find().notes[0]


@pytest.mark.parametrize('name', ['train2', 'train/more'])
def test_two_files_in_image_folders_are_refused(folder, name):
    for path in ('train/a', f'{name}/b' if name == 'train2' else name, 'val/a'):
        folder.coco(f'{path}.json', ['1.png'])
    assert folder.refusal()


@pytest.mark.parametrize('fraction', [0.0, 0.5])
def test_whole_numbers_with_a_fraction_are_completed_in_a_copy(folder, fraction):
    def change(content):
        for entry in (entry for entries in content.values() for entry in entries):
            numbers = {key: float(entry[key]) for key in entry if key in ('id', 'image_id', 'category_id', 'width')}
            entry.update(numbers)
        content['images'][0]['id'] += fraction

    two_splits(folder, change)
    if fraction:
        assert '1 of the 1 images have neither a whole number nor text as id; number 0 has 1.5' in folder.refusal()
        return
    source = folder.find()
    content = folder.read(source.val)
    assert {type(e[key]) for e in content['annotations'] for key in ('id', 'image_id', 'category_id')} == {int}
    assert [type(content['images'][0][key]) for key in ('id', 'width')] == [int, int]
    assert '10 ids and sizes such as 1.0 are taken as whole numbers such as 1' in source.notes[0]


def test_a_whole_number_that_may_have_lost_digits_is_refused(folder):
    two_splits(folder, lambda content: content['images'][0].update(id=2.0**53))
    assert 'has 9007199254740992.0; write 9007199254740992 without' in folder.refusal()


@pytest.mark.parametrize(
    'annotations, images',
    [
        ('annotations/instances_{}.json', 'images/default'),
        ('{}/labels.json', '{}/data'),
        ('{}/labels.json', '{}/images'),
    ],
)
def test_folders_of_images_in_folders(folder, annotations, images):
    for split in ('train', 'val'):
        folder.image(f'{images.format(split)}/{split}.png')
        folder.coco(annotations.format(split), [f'{split}.png'])
    source = folder.find()
    assert [part['data_prefix']['img'] for part in (source.train, source.val)] == [
        images.format(split) for split in ('train', 'val')
    ]


@pytest.mark.parametrize('annotations', ['annotations/{}.json', '{}/_annotations.coco.json'])
def test_images_of_the_other_split_do_not_replace_missing_ones(folder, annotations):
    names = ['1.png', '2.png']
    for split in ('train', 'val'):
        folder.coco(annotations.format(split), names)
        for name in names:
            folder.image(f'{split}/{name}')
    (folder.root / 'train/1.png').unlink()
    assert folder.find().train['data_prefix'] == {'img': 'train'}


def test_file_names_that_are_no_text_are_refused(folder):
    two_splits(folder, lambda content: content['images'][0].update(file_name=5))
    assert "none of its images has a text as 'file_name'" in folder.refusal()


def test_all_images_may_be_in_the_folder_of_one_split(folder):
    for split in ('train', 'val'):
        folder.image(f'train/{split}.png')
        folder.coco(f'annotations/{split}.json', [f'{split}.png'])
    assert folder.find().val['data_prefix'] == {'img': 'train'}


@pytest.mark.parametrize(
    'listed, name',
    [('a.jpg', 'a.JPG'), ('a', 'a.png'), ('a%20b.jpg', 'A b.jpg'), ('a.jpg ', 'a.png'), ('a.jpg', 'b/c/a.jpg')],
)
def test_a_message_names_a_file_with_a_similar_name(folder, listed, name):
    folder.image(f'train/{name}')
    folder.coco('annotations/train.json', [listed])
    assert folder.refusal().endswith(f'correct the file names: there is {folder.root}/train/{name}')
