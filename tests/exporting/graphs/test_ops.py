"""The operators of the detectors, each against mmdet's, mmcv's or torchvision's own."""

import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms

from repvit_dense.errors import InputError
from repvit_dense.exporting.graphs import ops

IMG_HW = torch.tensor([[90.0, 128.0], [70.0, 111.0]])


def boxes_in(count, img_hw=IMG_HW, smallest=2.0):
    """Random boxes of all sizes, each inside its image: `(B, count, 4)`."""
    size = img_hw.flip(1)[:, None]
    corner = torch.rand(len(img_hw), count, 2) * (size - smallest)
    extent = smallest + torch.rand(len(img_hw), count, 2) * (size - corner - smallest)
    return torch.cat((corner, corner + extent), dim=2)


def ranked(batch, count):
    return torch.rand(batch, count).sort(descending=True).values


def test_top_fills_up():
    values, index = ops.top(torch.tensor([[1.0, 3.0, 2.0]]), 5, fill=-7)
    assert values.tolist() == [[3, 2, 1, -7, -7]]
    assert index.tolist() == [[1, 2, 0, 0, 0]]


@pytest.mark.parametrize('plain', [False, True])
@pytest.mark.parametrize('k', [5, 40, 400])
def test_best_of_level_is_the_best_of_all_pairs(k, plain):
    scores = torch.randn(2, 60, 4)
    best, prior, label = ops.best_of_level(scores, k, plain)
    expected = scores.flatten(1).sort(descending=True).values[:, :k]
    real = expected.shape[1]
    assert torch.equal(best[:, :real], expected)
    assert (best[:, real:] == ops.NOTHING).all()
    found = torch.stack([image[p, c] for image, p, c in zip(scores, prior, label, strict=True)])
    assert torch.equal(found[:, :real], expected)


def test_decode_is_mmdets():
    from mmdet.models.task_modules import DeltaXYWHBBoxCoder

    coder = DeltaXYWHBBoxCoder(target_means=(0.1, 0.0, 0.0, -0.1), target_stds=(0.1, 0.2, 0.3, 3.0))
    priors, deltas = boxes_in(50), 2 * torch.randn(2, 50, 4)
    found = ops.decode(coder, priors, deltas, IMG_HW)
    for i, shape in enumerate(IMG_HW.tolist()):
        torch.testing.assert_close(found[i], coder.decode(priors[i], deltas[i], max_shape=shape), atol=1e-4, rtol=0)


def test_drop_small_keeps_what_exceeds_the_size():
    boxes = torch.tensor([[[0.0, 0, 0, 9], [0, 0, 1, 9], [0, 0, 2, 2]]])
    assert ops.drop_small(boxes, torch.ones(1, 3), 1).tolist() == [[0, 0, 1]]
    assert ops.drop_small(boxes, torch.ones(1, 3), -1).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize('plain', [False, True])
@pytest.mark.parametrize('threshold', [0.3, 0.6])
def test_nms_is_torchvisions(plain, threshold):
    boxes, scores, labels = boxes_in(200, smallest=40), ranked(2, 200), torch.randint(3, (2, 200))
    scores[:, ::7] = 0  # no box: does not survive, and does not suppress
    found = ops.nms(boxes, scores, threshold, plain, labels, classes=3)
    for i in range(2):
        real = scores[i].nonzero()[:, 0]
        kept = real[batched_nms(boxes[i, real], scores[i, real], labels[i, real], threshold)]
        expected = torch.zeros(200).index_copy(0, kept, scores[i, kept])
        assert 10 < len(kept) < len(real) - 10
        assert torch.equal(found[i], expected)


@pytest.mark.parametrize('length', [2, 9, ops.PASSES])
def test_plain_nms_follows_chains(length):
    start = torch.arange(length) * 3.0  # each overlaps its neighbours only: 7 of 13
    boxes = torch.stack((start, start * 0, start + 10, start * 0 + 10), dim=1)[None]
    kept = ops.nms(boxes, torch.linspace(1, 0.5, length)[None], 0.5, plain=True) > 0
    assert kept[0].tolist() == [i % 2 == 0 for i in range(length)]


def test_nms_looks_at_enough_candidates(monkeypatch):
    monkeypatch.setattr(ops, 'CANDIDATES', 60)
    boxes, scores, labels = boxes_in(200), torch.rand(2, 200), torch.randint(3, (2, 200))
    cfg = {'nms': {'type': 'nms', 'iou_threshold': 0.5}, 'max_per_img': 10}
    found = ops.detections(boxes, scores, labels, cfg, 3, plain=False)
    for i in range(2):
        kept = batched_nms(boxes[i], scores[i], labels[i], 0.5)[:10]
        assert torch.equal(found[3][i], kept)
        assert torch.equal(found[0][i], boxes[i, kept])
        assert torch.equal(found[2][i], labels[i, kept])


@pytest.mark.parametrize('cfg', [{'type': 'soft_nms', 'iou_threshold': 0.5}, {'iou_threshold': 1, 'class_agnostic': 1}])
def test_other_nms_is_refused(cfg):
    with pytest.raises(InputError, match='test_cfg.nms'):
        ops.iou_threshold({'nms': cfg})


class _NMS(nn.Module):
    outputs = ('kept',)

    def forward(self, images, img_hw):
        scores, order = images[:, 0, 0].topk(32)
        boxes = ops.take(images[:, 1:].flatten(2).transpose(1, 2), order)
        return ops.nms(boxes, scores, 0.5, False, order % 3, 3)


def test_nms_in_onnx_runtime(run_onnx):
    boxes = boxes_in(64, smallest=50)
    images = torch.cat((torch.rand(2, 64, 1), boxes), dim=2).transpose(1, 2)[:, :, None]
    images[1, 0] = 0  # an image without any box
    found = run_onnx(_NMS(), (images, IMG_HW))(images, IMG_HW)[0]
    assert torch.equal(found, _NMS()(images, IMG_HW))
    assert 3 < (found[0] > 0).sum() < 30


def extractor_of(ratio, size=3):
    from mmdet.models.roi_heads import SingleRoIExtractor

    layer = {'type': 'RoIAlign', 'output_size': size, 'sampling_ratio': ratio}
    return SingleRoIExtractor(layer, out_channels=4, featmap_strides=[4, 8, 16, 32], finest_scale=14)


@pytest.mark.parametrize(('ratio', 'plain'), [(0, False), (2, False), (2, True)])
def test_pooling_is_mmdets(ratio, plain, monkeypatch):
    from mmdet.structures.bbox import bbox2roi

    monkeypatch.setattr(ops, 'PLAIN_ROI_FLOATS', 4000)  # in several parts
    extractor = extractor_of(ratio)
    levels = [torch.randn(2, 4, 96 // s, 128 // s) for s in (4, 8, 16, 32)]
    boxes = boxes_in(60, torch.tensor([[96.0, 128.0], [96.0, 128.0]]), smallest=1)
    boxes[:, 0] = torch.tensor([0.0, 0, 128, 96])
    expected = extractor(tuple(levels), bbox2roi(list(boxes)))
    pyramid = ops.Pyramid(levels, extractor, plain)
    found = pyramid.pool(boxes, extractor.roi_layers[0], None)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    if not plain:
        some = torch.tensor([3, 70])
        assert torch.equal(pyramid.pool(boxes, extractor.roi_layers[0], some), found[some])


def test_samples_beyond_a_pixel_outside_the_map_do_not_count():
    width, height = 40, 24
    beyond = torch.tensor([1e-4, 1e-3, 0.01, 0.5, 3, 300])
    sides = [torch.cat((-1 - beyond, side + beyond)) for side in (width, height)]
    outside = ops._axis_weights(torch.stack(sides)[None, None], width, height, 2 * len(beyond), 1)
    assert all(not weights.any() for weights in outside)
    sides = [torch.tensor([-1, -0.5, 0, 0.25, side - 1, side - 0.25, side]) for side in (width, height)]
    for weights in ops._axis_weights(torch.stack(sides)[None, None], width, height, 7, 1):
        torch.testing.assert_close(weights.sum(3), torch.ones(1, 1, 7))


def test_pooling_of_a_box_without_extent_gives_zeros():
    extractor = extractor_of(0)
    levels = [torch.ones(1, 4, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    boxes = torch.tensor([[[5.0, 5, 5, 9], [0, 0, 0, 0], [5, 5, 9, 9]]])
    found = ops.Pyramid(levels, extractor, plain=False).pool(boxes, extractor.roi_layers[0], None)
    assert found.flatten(1).amax(1).tolist() == [0, 0, 1]


def test_plain_pooling_needs_a_fixed_number_of_samples():
    ops.check_pooling(extractor_of(2), True, 'here')
    with pytest.raises(InputError, match='here.roi_layer.*sampling_ratio=2'):
        ops.check_pooling(extractor_of(0), True, 'here')


@pytest.mark.parametrize('scores', [[[0.0, 0.5], [0.2, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_spread_undoes_places(scores):
    scores = torch.tensor(scores)
    index = ops.places(scores, plain=False)
    assert set(scores.flatten().nonzero()[:, 0].tolist()) <= set(index.tolist())
    assert torch.equal(ops.spread(scores.flatten()[index], index, 4), scores.flatten())
