"""RoIAlign of the graphs, compared with that of mmdet."""

import pytest
import torch

from repvit_dense.errors import InputError
from repvit_dense.exporting.graphs import roi_align


def make_extractor(ratio, size=3):
    from mmdet.models.roi_heads import SingleRoIExtractor

    layer = {'type': 'RoIAlign', 'output_size': size, 'sampling_ratio': ratio}
    return SingleRoIExtractor(layer, out_channels=4, featmap_strides=[4, 8, 16, 32], finest_scale=14)


@pytest.mark.parametrize(('ratio', 'plain'), [(0, False), (2, False), (2, True)])
def test_pooling_agrees_with_mmdet(random_boxes, ratio, plain, monkeypatch):
    from mmdet.structures.bbox import bbox2roi

    monkeypatch.setattr(roi_align, 'PLAIN_ROI_FLOATS', 4000)  # several parts
    extractor = make_extractor(ratio)
    levels = [torch.randn(2, 4, 96 // s, 128 // s) for s in (4, 8, 16, 32)]
    boxes = random_boxes(torch.tensor([[96.0, 128.0], [96.0, 128.0]]), 60, 1)
    boxes[:, 0] = torch.tensor([0.0, 0, 128, 96])
    expected = extractor(tuple(levels), bbox2roi(list(boxes)))
    pyramid = roi_align.Pyramid(levels, extractor, plain)
    pooled = pyramid.pool(boxes, extractor.roi_layers[0], None)
    torch.testing.assert_close(pooled, expected, atol=2e-5, rtol=1e-4)
    if not plain:
        index = torch.tensor([3, 70])
        assert torch.equal(pyramid.pool(boxes, extractor.roi_layers[0], index), pooled[index])


def test_samples_more_than_a_pixel_outside_the_map_have_no_weight():
    width, height = 40, 24
    beyond = torch.tensor([1e-4, 1e-3, 0.01, 0.5, 3, 300])
    sides = [torch.cat((-1 - beyond, side + beyond)) for side in (width, height)]
    outside = roi_align._axis_weights(torch.stack(sides)[None, None], width, height, 2 * len(beyond), 1)
    assert all(not weights.any() for weights in outside)
    sides = [torch.tensor([-1, -0.5, 0, 0.25, side - 1, side - 0.25, side]) for side in (width, height)]
    for weights in roi_align._axis_weights(torch.stack(sides)[None, None], width, height, 7, 1):
        torch.testing.assert_close(weights.sum(3), torch.ones(1, 1, 7))


def test_a_box_without_extent_is_pooled_to_zeros():
    extractor = make_extractor(0)
    levels = [torch.ones(1, 4, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    boxes = torch.tensor([[[5.0, 5, 5, 9], [0, 0, 0, 0], [5, 5, 9, 9]]])
    pooled = roi_align.Pyramid(levels, extractor, plain=False).pool(boxes, extractor.roi_layers[0], None)
    assert pooled.flatten(1).amax(1).tolist() == [0, 0, 1]


def test_plain_pooling_needs_a_fixed_number_of_samples():
    roi_align.check_pooling(make_extractor(2), True, 'here')
    with pytest.raises(InputError, match='here.roi_layer.*sampling_ratio=2'):
        roi_align.check_pooling(make_extractor(0), True, 'here')
