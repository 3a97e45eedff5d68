import re
from types import SimpleNamespace

import pytest

from repvit_dense.data import layouts
from repvit_dense.data.source import TASKS, Source
from repvit_dense.errors import InputError


@pytest.mark.parametrize(
    'name, task, suitable, others',
    [
        ('ade20k', 'instance', 'semantic', 'coco, shapes'),
        ('coco', 'panoptic', 'detection and instance', 'coco-panoptic, shapes'),
        ('coco-panoptic', 'semantic', 'panoptic', 'ade20k, cityscapes, voc, shapes'),
    ],
)
def test_a_name_without_the_labels_is_refused(name, task, suitable, others):
    with pytest.raises(InputError) as refused:
        layouts.find(name, task, 'work')
    assert str(refused.value) == f'--data {name} suits {suitable} configs; for this {task} config: {others}, or a path'


def test_an_unknown_name_lists_the_known_names():
    with pytest.raises(
        InputError, match='--data ccoo: no such folder and no data set of this name; known: coco, coco-'
    ):
        layouts.find('ccoo', 'instance', 'work')


@pytest.mark.parametrize('name', ['', 'a\0b', 'x' * 5000, '\ud800'])
def test_an_impossible_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='no such folder and no data set of this name'):
        layouts.find(name, 'instance', 'work')


def test_a_file_is_not_a_data_set(folder):
    with pytest.raises(InputError, match=r'data\.yaml: a file; name the folder of the data set'):
        layouts.find(str(folder.write('data.yaml', 'names: [a]')), 'detection', 'work')


def test_a_folder_that_must_not_be_read(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr(layouts.yolo, 'recognise', refuse)
    assert folder.refusal('detection') == f'{folder.root}: cannot be read or written (Permission denied)'


def test_a_folder_with_the_name_of_a_data_set_is_written_as_a_path(tmp_path, monkeypatch):
    (tmp_path / 'coco').mkdir()
    monkeypatch.chdir(tmp_path)
    assert layouts.find('coco', 'instance', 'work').classes[0] == 'person'
    with pytest.raises(InputError, match='coco: no data set for this instance config'):
        layouts.find('./coco', 'instance', 'work')


@pytest.mark.parametrize('task', TASKS)
def test_an_empty_folder_lists_the_layouts_of_the_task(folder, task):
    message = folder.refusal(task)
    assert f'no data set for this {task} config' in message
    for layout in layouts.LAYOUTS:
        assert (layout.EXPECTED in message) == (task in layout.TASKS)


def test_layouts_are_tried_in_the_order_of_the_table(folder):
    """A folder with YOLO and COCO labels is read as YOLO."""
    folder.image('images/train/1.png')
    folder.coco('annotations.json', ['1.png'])
    folder.write('data.yaml', 'names: [a]\nval: images/train')
    assert 'data.yaml: names no training images' in folder.refusal()


def test_one_row_of_the_table_adds_a_layout(folder, monkeypatch):
    source = Source('CocoDataset', ('cat',), 1, {}, {})
    layout = SimpleNamespace(
        TASKS=('detection',),
        EXPECTED='labels.csv (CSV)',
        recognise=lambda root: (root / 'labels.csv').is_file(),
        read=lambda root, task, store: source if (root, task, store) == (folder.root, 'detection', folder.store) else 0,
    )
    monkeypatch.setattr(layouts, 'LAYOUTS', (*layouts.LAYOUTS, layout))
    assert '; or labels.csv (CSV)' in folder.refusal('detection')
    folder.write('labels.csv', 'a.jpg,cat,1,1,5,5')
    assert folder.find('detection') is source
    assert 'CSV' not in folder.refusal('instance')


@pytest.mark.parametrize('inner', ['export', 'archive/VOC 2007'])
def test_a_data_set_in_a_folder_below_is_read(folder, inner):
    for split in ('train', 'val'):
        folder.image(f'{inner}/{split}/1.png')
        folder.coco(f'{inner}/annotations/instances_{split}.json', ['1.png'])
    folder.write('README.md', 'text')
    source = folder.find()
    assert source.train['data_root'] == str(folder.root / inner)
    assert source.notes == (f'{folder.root}: the data set in its folder {inner} is read',)


def test_several_data_sets_in_folders_below_are_named(folder):
    for name in ('a', 'b'):
        folder.image(f'{name}/1.png')
        folder.coco(f'{name}/result.json', ['1.png'])
    assert folder.refusal() == f'{folder.root}: holds 2 data sets, in a, b; name one of these folders'


@pytest.mark.parametrize('name', ['test', '.hidden', 'val2017', 'labels'])
def test_a_part_of_a_data_set_is_none(folder, name):
    folder.image(f'{name}/1.png')
    folder.coco(f'{name}/annotations/all.json', ['1.png'])
    assert re.search('no (data set|annotations of a train split)', folder.refusal())


def test_an_archive_is_to_be_unpacked(folder):
    with pytest.raises(InputError, match=r'data\.tar\.gz: a file; unpack it and name the folder'):
        layouts.find(str(folder.write('data.tar.gz', '')), 'detection', 'work')


def test_the_notes_of_a_labelling_tool_are_no_annotations(folder):
    folder.write('notes.json', {'categories': []})
    assert 'Expected: data.yaml' in folder.refusal()
