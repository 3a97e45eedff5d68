"""Images for calibration and comparison."""

import numpy as np
import pytest

from repvit_dense import config
from repvit_dense.exporting import samples


def test_drawn_images_are_reproducible_and_have_structure():
    one, two = samples.drawn_images(2), samples.drawn_images(2)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], one[1])
    assert one[0].shape == (480, 640, 3) and one[0].std() > 30


@pytest.mark.parametrize('dynamic', [(), ('batch',), ('size',), ('batch', 'size')])
def test_compared_batches_vary_in_their_dynamic_axes_only(dynamic):
    shapes = samples.compared_shapes(1, (64, 96), dynamic, 32, 32)
    assert len(shapes) == 3 and shapes[0] == (1, (64, 96))
    assert (len({count for count, _ in shapes}) > 1) == ('batch' in dynamic)
    assert (len({size for _, size in shapes}) > 1) == ('size' in dynamic)
    assert all(side % 32 == 0 for _, size in shapes for side in size)


def test_no_compared_side_is_below_the_smallest():
    sizes = {size for _, size in samples.compared_shapes(1, (160, 160), ('size',), 32, 160)}
    assert sizes == {(160, 160), (192, 160)}


def test_images_are_spread_over_the_data_set(tmp_path):
    import cv2

    (tmp_path / 'val2017').mkdir()
    for i in range(10):
        cv2.imwrite(str(tmp_path / f'val2017/{i}.png'), np.full((4, 4, 3), i, np.uint8))
    (tmp_path / 'val2017/3.png').write_text('not an image')
    cfg = config.load('repvit_retinanet_coco')
    cfg.test_dataloader.dataset.data_root = str(tmp_path)
    assert [int(image[0, 0, 0]) for image in samples.dataset_images(cfg, 'test', 3)] == [0, 6]
    cfg.test_dataloader.dataset.data_root = str(tmp_path / 'missing')
    assert list(samples.dataset_images(cfg, 'test', 3)) == []
