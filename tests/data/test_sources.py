"""A name or a folder becomes what a config needs, or is refused with what would do."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repvit_dense.data import shapes, sources
from repvit_dense.errors import InputError

BASES = Path(__file__).parents[2] / 'configs/_base_/datasets'


def picture(path, size=(10, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size).save(path)


def coco(names, classes=('cat', 'dog'), masks=True, first_id=1):
    """COCO content: an object of every class in every image."""
    images = [{'id': i, 'file_name': name, 'width': 10, 'height': 8} for i, name in enumerate(names, first_id)]
    categories = [{'id': 5 * i, 'name': name, 'supercategory': 'animal'} for i, name in enumerate(classes, 1)]
    pairs = [(image['id'], category['id']) for image in images for category in categories]
    annotations = [
        {'id': i, 'image_id': image, 'category_id': category, 'bbox': [2, 2, 4, 4], 'area': 16, 'iscrowd': 0}
        for i, (image, category) in enumerate(pairs, 1)
    ]
    for annotation in annotations if masks else ():
        annotation['segmentation'] = [[2, 2, 6, 2, 6, 6, 2, 6]]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def find(root, task='instance'):
    return sources.find(str(root), task, root.parent / 'work')


def refusal(root, task='instance'):
    with pytest.raises(InputError) as refused:
        find(root, task)
    assert '\n' not in str(refused.value)
    return str(refused.value)


def read(arguments):
    return json.loads((Path(arguments['data_root']) / arguments['ann_file']).read_text())


def untouched(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob('*') if path.is_file()}


# --- names ---


@pytest.mark.parametrize(
    'base, name, task',
    [
        ('coco_instance', 'coco', 'instance'),
        ('shapes_instance', 'shapes', 'instance'),
        ('shapes_semantic', 'shapes', 'semantic'),
        ('coco_panoptic_lsj', 'coco-panoptic', 'panoptic'),
        ('shapes_panoptic', 'shapes', 'panoptic'),
        ('ade20k', 'ade20k', 'semantic'),
        ('cityscapes', 'cityscapes', 'semantic'),
        ('voc', 'voc', 'semantic'),
    ],
)
def test_a_name_means_what_the_configs_of_that_name_say(base, name, task):
    from mmengine.config import Config

    cfg, source = Config.fromfile(BASES / f'{base}.py'), sources.find(name, task, 'work')
    assert cfg.get('embedded_data') == source.embedded
    for loader, arguments in ((cfg.train_dataloader, source.train), (cfg.val_dataloader, source.val)):
        dataset = loader.dataset
        given = {key: dataset[key] for key in dataset if key in {*arguments, 'ann_file', 'img_suffix'}}
        assert (dataset.type, given) == (source.type, arguments)
        if source.metainfo:
            assert tuple(dataset.metainfo.classes) == source.classes


@pytest.mark.parametrize('name, task', [(name, task) for name, tasks in sources.NAMES.items() for task in tasks])
def test_classes_of_names(name, task):
    source = sources.find(name, task, 'work')
    number = {'coco': 80, 'coco-panoptic': 133, 'ade20k': 150, 'cityscapes': 19, 'voc': 21}.get(name)
    assert len(source.classes) == (number or (12 if task in ('panoptic', 'semantic') else 8))
    assert source.things == {'coco-panoptic': 80, 'shapes': 8}.get(
        name if task == 'panoptic' else '', len(source.classes)
    )


def test_every_task_has_a_data_set_that_needs_no_download():
    assert set(sources.NAMES['shapes']) == set(sources.TASKS)


@pytest.mark.parametrize(
    'name, task, suits, others',
    [
        ('ade20k', 'instance', 'semantic', 'coco, shapes'),
        ('coco', 'panoptic', 'detection and instance', 'coco-panoptic, shapes'),
        ('coco-panoptic', 'semantic', 'panoptic', 'ade20k, cityscapes, voc, shapes'),
    ],
)
def test_data_without_the_labels_is_refused(name, task, suits, others):
    with pytest.raises(InputError) as refused:
        sources.find(name, task, 'work')
    assert str(refused.value) == f'--data {name} suits {suits} configs; for this {task} config: {others}, or a path'


def test_an_unknown_name_lists_the_known():
    with pytest.raises(InputError, match='--data ccoo: no folder, and no data set of this name; known: coco, coco-pan'):
        sources.find('ccoo', 'instance', 'work')


def test_a_folder_called_like_a_data_set_is_written_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / 'coco/train/1.png')
    picture(tmp_path / 'coco/val/2.png')
    for split, name in (('train', '1.png'), ('val', '2.png')):
        write(tmp_path / f'coco/annotations/{split}.json', coco([name]))
    assert sources.find('coco', 'instance', 'work').classes[0] == 'person'
    assert sources.find('./coco', 'instance', 'work').classes == ('cat', 'dog')


def test_colours_differ():
    assert len(set(sources.palette(150))) == 150
    assert all(0 <= value <= 255 for colour in sources.palette(150) for value in colour)


# --- COCO folders ---

LAYOUTS = {
    'coco': ('annotations/instances_{}2017.json', '{}2017'),
    'plain names': ('annotations/{}.json', '{}'),
    'images below images': ('annotations/{}.json', 'images/{}'),
    'annotations at the top': ('{}_annotations.json', 'images'),
    'annotations inside': ('{}/labels.json', '{}'),
}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('val', ['val', 'valid'])
def test_layouts_of_coco(tmp_path, layout, val):
    root = tmp_path / 'data'
    annotations, images = LAYOUTS[layout]
    for split in ('train', val):
        picture(root / images.format(split) / f'{split}.png')
        write(root / annotations.format(split), coco([f'{split}.png']))
    before = untouched(root)
    source = find(root)
    assert (source.type, source.classes, source.things) == ('CocoDataset', ('cat', 'dog'), 2)
    for split, arguments in (('train', source.train), (val, source.val)):
        assert Path(arguments['data_root'], arguments['data_prefix']['img'], f'{split}.png').is_file()
        assert Path(arguments['ann_file']) == root / annotations.format(split)
    assert source.ann_files == {'instances': source.val['ann_file']}
    assert source.notes == ()
    assert untouched(root) == before


def test_other_annotation_files_of_coco_are_passed_over(tmp_path):
    for split in ('train', 'val'):
        picture(tmp_path / f'data/{split}/1.png')
        for kind in ('captions', 'person_keypoints', 'panoptic', 'instances'):
            write(tmp_path / f'data/annotations/{kind}_{split}.json', coco(['1.png']) if kind == 'instances' else {})
    assert find(tmp_path / 'data').train['ann_file'].endswith('annotations/instances_train.json')


def test_several_files_of_a_split_are_not_chosen_from(tmp_path):
    for name in ('train_a', 'train_b', 'val'):
        write(tmp_path / f'data/annotations/{name}.json', coco(['1.png']))
    assert 'which is the train split, train_a.json, train_b.json?' in refusal(tmp_path / 'data')


def test_a_folder_with_nothing_known_says_what_is_expected(tmp_path):
    (tmp_path / 'data').mkdir()
    message = refusal(tmp_path / 'data')
    assert all(word in message for word in ('COCO', 'YOLO', 'Pascal VOC', 'train'))


def test_images_that_are_nowhere(tmp_path):
    write(tmp_path / 'data/one.json', coco(['1.png', '2.png']))
    assert 'its images (1.png, 2.png, ...) are in none of' in refusal(tmp_path / 'data')


@pytest.fixture
def single(tmp_path):
    root = tmp_path / 'data'
    names = [f'{i}.png' for i in range(25)]
    for name in names:
        picture(root / 'pictures' / name)
    write(root / 'all.json', coco(names))
    return root


def test_without_val_a_tenth_is_held_out(single):
    before = untouched(single)
    source = find(single)
    train, val = read(source.train), read(source.val)
    names = [{image['file_name'] for image in part['images']} for part in (train, val)]
    assert [len(part) for part in names] == [23, 2]
    assert names[0] | names[1] == {f'{i}.png' for i in range(25)}
    for part in (train, val):
        assert {a['image_id'] for a in part['annotations']} == {image['id'] for image in part['images']}
        assert len(part['annotations']) == 2 * len(part['images'])
    assert [note for note in source.notes if '2 images are held out' in note]
    assert source.ann_files['instances'] == source.val['ann_file'] == str(single.parent / 'work/coco/val.json')
    assert untouched(single) == before


def test_the_held_out_images_do_not_depend_on_the_order_of_the_file(single):
    first = read(find(single).val)['images']
    content = json.loads((single / 'all.json').read_text())
    content['images'].reverse()
    write(single / 'all.json', content)
    assert read(find(single).val)['images'] == first


def test_one_image_is_too_few_to_hold_one_out(tmp_path):
    picture(tmp_path / 'data/1.png')
    write(tmp_path / 'data/all.json', coco(['1.png']))
    assert 'there is no val split, and too few images (1)' in refusal(tmp_path / 'data')


def test_boxes_suit_detection_alone(tmp_path):
    for split in ('train', 'val'):
        picture(tmp_path / f'data/{split}/1.png')
        write(tmp_path / f'data/annotations/{split}.json', coco(['1.png'], masks=False))
    assert find(tmp_path / 'data', 'detection').classes == ('cat', 'dog')
    assert 'boxes but no masks, so it suits detection configs' in refusal(tmp_path / 'data', 'instance')


@pytest.mark.parametrize('name', ['animals', 'cat'])
def test_the_placeholder_of_roboflow_shifts_no_class(tmp_path, name):
    """Its category 0 has no objects; it may even be called like a class."""
    root = tmp_path / 'data'
    for split in ('train', 'valid', 'test'):
        picture(root / split / 'a.png')
        content = coco(['a.png'])
        content['categories'].insert(0, {'id': 0, 'name': name, 'supercategory': 'none'})
        write(root / split / '_annotations.coco.json', content)
    before = untouched(root)
    source = find(root)
    assert source.classes == ('cat', 'dog')
    assert [category['id'] for category in read(source.train)['categories']] == [5, 10]
    assert source.val['data_prefix'] == {'img': 'valid'}
    assert untouched(root) == before


def test_a_category_without_parent_that_has_objects_is_a_class(tmp_path):
    for split in ('train', 'val'):
        picture(tmp_path / f'data/{split}/a.png')
        content = coco(['a.png'])
        content['categories'][0]['supercategory'] = 'none'
        write(tmp_path / f'data/{split}/a.json', content)
    assert find(tmp_path / 'data').classes == ('cat', 'dog')


def test_no_half_written_file_is_left(single, monkeypatch):
    find(single)
    monkeypatch.setattr(Path, 'replace', lambda *args: (_ for _ in ()).throw(OSError('disk')))
    with pytest.raises(OSError, match='disk'):
        find(single)
    assert sorted(path.name for path in (single.parent / 'work/coco').iterdir()) == ['train.json', 'val.json']


# --- panoptic folders ---


@pytest.fixture
def drawn(tmp_path):
    return shapes.generate(tmp_path / 'data', num_train=2, num_val=1, size=(64, 64))


def test_a_panoptic_folder(drawn):
    source = find(drawn, 'panoptic')
    assert source.classes == shapes.THING_CLASSES + shapes.STUFF_CLASSES
    assert source.things == 8
    assert source.metainfo['stuff_classes'] == shapes.STUFF_CLASSES
    assert source.train['data_prefix'] == {'img': 'train2017', 'seg': 'annotations/panoptic_train2017'}
    assert source.ann_files == {
        'panoptic': str(drawn / 'annotations/panoptic_val2017.json'),
        'maps': str(drawn / 'annotations/panoptic_val2017'),
        'instances': str(drawn / 'annotations/instances_val2017.json'),
    }


def test_a_panoptic_folder_without_instances(drawn):
    (drawn / 'annotations/instances_val2017.json').unlink()
    assert 'instances' not in find(drawn, 'panoptic').ann_files


def test_a_folder_without_panoptic_labels(drawn):
    (drawn / 'annotations/panoptic_val2017.json').unlink()
    assert 'trains panoptic labels, which need annotations/panoptic_val*.json' in refusal(drawn, 'panoptic')


def test_panoptic_labels_without_maps(drawn):
    (drawn / 'annotations/panoptic_train2017').rename(drawn / 'maps')
    assert f'{drawn / "annotations/panoptic_train2017"}: not found' in refusal(drawn, 'panoptic')


# --- semantic folders ---

MASKS = {
    'images and annotations': ('images/{}', 'annotations/{}'),
    'images and labels': ('images/{}ing', 'labels/{}ing'),
    'inside the split': ('{}/images', '{}/masks'),
}


def semantic(root, layout='images and annotations', ending='.png', classes='road\ncar\n', file='classes.txt'):
    for split in ('train', 'val'):
        images, masks = (part.format(split) for part in MASKS[layout])
        picture(root / images / 'a.jpg')
        (root / masks).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 10), np.uint8)).save(root / masks / f'a{ending}')
    if classes is not None:
        write(root / file, classes)
    return root


@pytest.mark.parametrize('layout', MASKS)
@pytest.mark.parametrize('ending', ['.png', '_labels.png'])
def test_layouts_of_masks(tmp_path, layout, ending):
    source = find(semantic(tmp_path / 'data', layout, ending), 'semantic')
    assert (source.type, source.classes) == ('BaseSegDataset', ('road', 'car'))
    for arguments in (source.train, source.val):
        assert (arguments['img_suffix'], arguments['seg_map_suffix']) == ('.jpg', ending)
        assert arguments['reduce_zero_label'] is False
        for folder, name in (('img_path', 'a.jpg'), ('seg_map_path', f'a{ending}')):
            assert Path(arguments['data_root'], arguments['data_prefix'][folder], name).is_file()


@pytest.mark.parametrize(
    'listed, classes, reduced',
    [
        (['road', 'car'], ('road', 'car'), False),
        ({'0': 'road', '1': 'car'}, ('road', 'car'), False),
        ({'2': 'car', '1': 'road'}, ('road', 'car'), True),
        ({'10': 'k', **{str(i): f'c{i}' for i in range(10)}}, (*(f'c{i}' for i in range(10)), 'k'), False),
    ],
)
def test_class_lists(tmp_path, listed, classes, reduced):
    root = semantic(tmp_path / 'data', classes=listed, file='classes.json')
    source = find(root, 'semantic')
    assert source.classes == classes
    assert source.train['reduce_zero_label'] is reduced


@pytest.mark.parametrize('listed', [[], ['a', 'a'], {'0': 'a', '2': 'b'}, {'a': 0}, 'a', 3, '{'])
def test_class_lists_that_make_no_sense(tmp_path, listed):
    text = listed if listed == '{' else json.dumps(listed)
    assert 'classes.json: expected' in refusal(
        semantic(tmp_path / 'data', classes=text, file='classes.json'), 'semantic'
    )


def test_masks_without_class_list(tmp_path):
    assert 'needs its class names in classes.txt' in refusal(semantic(tmp_path / 'data', classes=None), 'semantic')


def test_semantic_folders_need_both_splits(tmp_path):
    root = semantic(tmp_path / 'data')
    (root / 'images/val').rename(root / 'images/more')
    assert 'no val split with masks is there' in refusal(root, 'semantic')


def test_images_of_two_types_are_refused(tmp_path):
    root = semantic(tmp_path / 'data')
    picture(root / 'images/train/b.png')
    assert 'holds .jpg, .png; images of one type' in refusal(root, 'semantic')


def test_no_mask_for_an_image(tmp_path):
    root = semantic(tmp_path / 'data')
    (root / 'annotations/train/a.png').rename(root / 'annotations/train/b.png')
    assert 'no mask for a.jpg; its name must begin with a' in refusal(root, 'semantic')
