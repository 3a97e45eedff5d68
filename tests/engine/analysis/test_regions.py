"""Confusions and worst images of semantic and panoptic labels."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import PixelData

from repvit_dense.engine.analysis.regions import Pixels, Segments
from repvit_dense.engine.analysis.worst import LIMIT, Worst


def sample(truth, predicted, path):
    maps = {'gt_sem_seg': truth, 'pred_sem_seg': predicted}
    maps = {name: PixelData(data=torch.tensor(values)[None]) for name, values in maps.items()}
    return DetDataSample(**maps, metainfo={'img_path': path})


def test_pixels_are_counted_by_true_and_predicted_class():
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 3, (2, 4, 10, 12))
    truth[:, :2] = 255
    pixels = Pixels(['a', 'b', 'c'], 4)
    for number in range(4):
        pixels.add(sample(truth[number].astype(np.uint8), predicted[number], f'{number}.png'))
    worst = pixels.gather()
    expected = [[((truth == i) & (predicted == j)).sum() for j in range(3)] for i in range(3)]
    assert pixels.confusion().counts.tolist() == expected
    wrong = [(t != p)[t != 255].mean() for t, p in zip(truth, predicted, strict=True)]
    assert [image.path for image in worst] == [f'{number}.png' for number in np.argsort(wrong)[::-1]]
    assert worst[0].text.startswith(f'{max(wrong):.1%} of the pixels wrong')
    number = int(np.argmax(wrong))
    assert (worst[0].sides[0]['seg'] == truth[number]).all() and (worst[0].sides[1]['seg'] == predicted[number]).all()


def test_an_image_without_labels_or_errors_is_not_bad():
    pixels = Pixels(['a', 'b'], 2)
    pixels.add(sample(np.full((4, 4), 255), np.zeros((4, 4), int), 'a.png'))
    pixels.add(sample(np.ones((4, 4), int), np.ones((4, 4), int), 'b.png'))
    assert pixels.gather() == []


def test_images_that_a_distributed_test_repeats_are_left_out():
    pixels = Pixels(['a', 'b'], 1)
    for name in ('a.png', 'b.png'):
        pixels.add(sample(np.ones((2, 2), int), np.zeros((2, 2), int), name))
    assert pixels.confusion().counts.sum() == 4
    assert [image.path for image in pixels.gather()] == ['a.png']


def test_segments_are_counted_by_pair():
    class Fixed(Segments):
        pass

    segments = Fixed(['a', 'b'], 3)
    part = PixelData(sem_seg=torch.zeros(1, 4, 4, dtype=torch.long))
    for path, pairs in {
        '1.png': [(0, 0), (1, 0), (1, None)],
        '2.png': [(None, 1), (0, None), (1, 0)],
        '3.png': [(1, 1)],
    }.items():
        empty = PixelData(sem_seg=torch.zeros(1, 4, 4, dtype=torch.long))
        image = DetDataSample(pred_panoptic_seg=part, gt_sem_seg=empty, metainfo={'img_path': path})
        segments.add(image, pairs)
    assert segments.confusion().counts.tolist() == [[1, 0, 1], [2, 1, 1], [0, 1, 0]]
    assert [(image.path, image.text) for image in segments.gather()] == [
        ('2.png', '1 missed, 1 of another class, 1 false'),
        ('1.png', '1 missed, 1 of another class'),
    ]


def test_predictions_of_few_images_are_kept():
    worst, kept = Worst(), []
    for number in range(100):
        worst.offer(number % 50, f'{number}', '', lambda: kept.append(1) or ({}, {}))
    assert [image.path for image in worst.images()] == [f'{49 - n // 2 + 50 * (n % 2)}' for n in range(LIMIT)]
    assert len(kept) < 80
