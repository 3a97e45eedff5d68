"""Training images are counted as the data sets of mmdet and mmseg do, without loading those."""

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from repvit_dense.config.images import Images, epoch_length, training_images, why_uncounted


def config_of(dataset, **loader):
    return Config({'train_dataloader': {'batch_size': 2, 'dataset': dataset, **loader}})


@pytest.fixture
def coco(tmp_path):
    """Return a data set of mmdet: 5 images, of which 1 has no object and 1 is too small."""
    images = [{'id': i, 'file_name': f'{i}.jpg', 'width': 100 * i, 'height': 50} for i in range(1, 6)]
    images[4]['height'] = 10
    annotations = [{'id': i, 'image_id': i} for i in (1, 2, 3, 5)]
    (tmp_path / 'a.json').write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': []}))
    return {'data_root': str(tmp_path), 'ann_file': 'a.json', 'filter_cfg': {'filter_empty_gt': True, 'min_size': 32}}


def test_filters_of_coco(coco):
    assert training_images(config_of(coco)) == Images(3, (200, 50))
    assert training_images(config_of({**coco, 'filter_cfg': None})).number == 5
    assert training_images(config_of({**coco, 'test_mode': True})).number == 5


@pytest.mark.parametrize(
    'wrap, number',
    [
        (lambda dataset: {'type': 'RepeatDataset', 'times': 4, 'dataset': dataset}, 12),
        (lambda dataset: {'type': 'ConcatDataset', 'datasets': [dataset, dataset]}, 6),
    ],
)
def test_wrappers(coco, wrap, number):
    assert training_images(config_of(wrap(coco))).number == number


def test_masks_in_a_folder_and_in_a_list(tmp_path):
    for folder in ('images', 'images/below'):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / 'a.png'), np.zeros((20, 30, 3), np.uint8))
    dataset = {'data_root': str(tmp_path), 'data_prefix': {'img_path': 'images'}, 'img_suffix': '.png'}
    assert training_images(config_of(dataset)) == Images(2, (30, 20))
    (tmp_path / 'train.txt').write_text('a\n\n')
    assert training_images(config_of({**dataset, 'ann_file': 'train.txt'})) == Images(1, (30, 20))


def test_an_epoch_of_several_processes(coco):
    assert [epoch_length(config_of(coco), processes) for processes in (1, 2, 3)] == [2, 1, 1]


def test_what_cannot_be_counted(coco):
    assert training_images(config_of(coco), largest=10) is None
    assert training_images(config_of({**coco, 'ann_file': 'none.json'})) is None
    assert epoch_length(config_of({'type': 'Own'})) is None
    assert training_images(Config({})) is None


@pytest.mark.parametrize(
    'dataset, words',
    [
        ({'ann_file': 'none.json'}, 'none.json: No such file'),
        ({'ann_file': '', 'data_prefix': {'img': 'none'}}, 'none: not found'),
        ({'ann_file': '', 'data_prefix': {}}, 'there are none'),
    ],
)
def test_the_reason(coco, dataset, words):
    assert words in why_uncounted(config_of({**coco, **dataset}))
