import shutil

import pytest

from repvit_dense.data.shapes import STUFF_CLASSES, THING_CLASSES, generate


@pytest.fixture
def drawn(folder):
    """Return a folder with the data set `shapes`."""
    generate(folder.root, num_train=2, num_val=1, size=(64, 64))
    return folder


def test_a_panoptic_folder(drawn):
    source = drawn.find('panoptic')
    assert source.classes == THING_CLASSES + STUFF_CLASSES
    assert source.things == 8
    assert source.metainfo['stuff_classes'] == STUFF_CLASSES
    assert source.train['data_prefix'] == {'img': 'train2017', 'seg': 'annotations/panoptic_train2017'}
    assert source.ann_files == {
        'panoptic': str(drawn.root / 'annotations/panoptic_val2017.json'),
        'maps': str(drawn.root / 'annotations/panoptic_val2017'),
        'instances': str(drawn.root / 'annotations/instances_val2017.json'),
    }


def test_instance_annotations_are_optional(drawn):
    (drawn.root / 'annotations/instances_val2017.json').unlink()
    assert 'instances' not in drawn.find('panoptic').ann_files


def test_a_missing_annotation_file_is_refused(drawn):
    (drawn.root / 'annotations/panoptic_val2017.json').unlink()
    message = drawn.refusal('panoptic')
    assert 'trains panoptic labels, which need one annotations/panoptic_val*.json' in message


def test_missing_maps_are_refused(drawn):
    maps = drawn.root / 'annotations/panoptic_train2017'
    shutil.rmtree(maps)
    assert f'{maps}: not found' in drawn.refusal('panoptic')
