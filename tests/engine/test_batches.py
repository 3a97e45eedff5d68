"""Pictures of the first training batches."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData

from repvit_dense.engine import batches
from repvit_dense.engine.batches import DenseBatchesHook, mosaic

META = {'classes': ('cat', 'dog'), 'palette': [[255, 0, 0], [0, 0, 255]]}


def make(kind='masks', value=200, size=(60, 80)):
    """Return an image `(3, H, W)` and a sample with a cat on its left half."""
    image = torch.full((3, *size), value, dtype=torch.uint8)
    left = np.zeros(size, np.uint8)
    left[:, : size[1] // 2] = 1
    if kind == 'seg':
        return image, DetDataSample(gt_sem_seg=PixelData(data=torch.tensor(255 * (1 - left))[None]))
    found = InstanceData(labels=torch.tensor([0]), bboxes=torch.tensor([[0.0, 0.0, size[1] / 2, size[0]]]))
    if kind == 'masks':
        found.masks = BitmapMasks(left[None], *size)
    return image, DetDataSample(gt_instances=found)


def batch(*pairs):
    return {'inputs': [image for image, _ in pairs], 'data_samples': [sample for _, sample in pairs]}


@pytest.mark.parametrize('kind', ['boxes', 'masks', 'seg'])
def test_labels_of_every_kind_are_drawn(kind):
    picture = mosaic(batch(make(kind)), META, 16).astype(int)
    height, width = picture.shape[:2]
    left, right = picture[:, : width // 2 - 8], picture[: height - 8, width // 2 + 12 : width - 8]
    red = left[..., 2] - left[..., 0] > 40
    assert (red.mean() > 0.8) == (kind != 'boxes')
    assert red.sum() > 500
    assert abs(right - 200).max() <= 1


def test_images_of_several_sizes_share_a_picture():
    picture = mosaic(batch(*(make(size=(60, 40 + 20 * i)) for i in range(5))), META, 4)
    assert picture.shape[0] == 2 * (picture.shape[0] // 2)
    assert max(picture.shape) <= batches.SIDE + 8


def test_normalised_images_are_stretched():
    image, sample = make()
    values = (image.float() - 100) / 50
    values[:, 0, 0] = -2
    assert mosaic(batch((values, sample)), META, 1)[:-8, -100:-10].max() == 255


@pytest.fixture
def runner(tmp_path):
    log = []
    return SimpleNamespace(
        iter=0,
        work_dir=str(tmp_path),
        train_dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=META)),
        logger=SimpleNamespace(info=lambda text, extra: log.append(text)),
        visualizer=SimpleNamespace(_vis_backends={}),
        log=log,
    )


def test_the_first_batches_are_drawn_and_no_random_number(runner, tmp_path):
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for runner.iter in range(10):
        DenseBatchesHook().before_train_iter(runner, 0, batch(make(), make()))
    assert sorted(path.name for path in (tmp_path / 'batches').iterdir()) == ['1.jpg', '2.jpg', '3.jpg', '4.jpg']
    assert cv2.imread(str(tmp_path / 'batches/1.jpg')) is not None
    assert len(runner.log) == 1 and str(tmp_path / 'batches') in runner.log[0]
    assert (torch.get_rng_state() == state[0]).all() and (np.random.get_state()[1] == state[1]).all()


def test_large_batches_need_few_pictures(runner, tmp_path):
    for runner.iter in range(3):
        DenseBatchesHook().before_train_iter(runner, 0, batch(*[make()] * 12))
    assert len(list((tmp_path / 'batches').iterdir())) == 2


def test_a_batch_that_cannot_be_drawn_ends_nothing(runner, tmp_path, capsys):
    image, sample = make()
    sample.gt_instances.labels[:] = 7
    DenseBatchesHook().before_train_iter(runner, 0, batch((image, sample)))
    assert '1.jpg: the batch cannot be drawn (IndexError' in capsys.readouterr().err


def test_other_data_and_a_resumed_training_draw_nothing(runner, tmp_path):
    hook = DenseBatchesHook()
    hook.before_train_iter(runner, 0, [torch.zeros(2, 3)])
    runner.iter = 4
    hook.before_train_iter(runner, 0, batch(make()))
    assert list(tmp_path.iterdir()) == [] and runner.log == []
