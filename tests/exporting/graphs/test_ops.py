"""Building blocks of detectors, compared with those of mmdet and torchvision."""

import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms

from repvit_dense.errors import InputError
from repvit_dense.exporting.graphs import ops

IMG_HW = torch.tensor([[90.0, 128.0], [70.0, 111.0]])


def sorted_scores(batch, count):
    return torch.rand(batch, count).sort(descending=True).values


def test_topk_padded_fills_missing_entries():
    values, index = ops.topk_padded(torch.tensor([[1.0, 3.0, 2.0]]), 5, fill=-7)
    assert values.tolist() == [[3, 2, 1, -7, -7]]
    assert index.tolist() == [[1, 2, 0, 0, 0]]


@pytest.mark.parametrize('plain', [False, True])
@pytest.mark.parametrize('k', [5, 40, 400])
def test_topk_pairs_are_the_best_of_all_pairs(k, plain):
    scores = torch.randn(2, 60, 4)
    best, prior, label = ops.topk_pairs(scores, k, plain)
    expected = scores.flatten(1).sort(descending=True).values[:, :k]
    count = expected.shape[1]
    assert torch.equal(best[:, :count], expected)
    assert (best[:, count:] == ops.PAD_LOGIT).all()
    pairs = torch.stack([image[p, c] for image, p, c in zip(scores, prior, label, strict=True)])
    assert torch.equal(pairs[:, :count], expected)


def test_decoding_agrees_with_mmdet(random_boxes):
    from mmdet.models.task_modules import DeltaXYWHBBoxCoder

    coder = DeltaXYWHBBoxCoder(target_means=(0.1, 0.0, 0.0, -0.1), target_stds=(0.1, 0.2, 0.3, 3.0))
    priors, deltas = random_boxes(IMG_HW, 50), 2 * torch.randn(2, 50, 4)
    boxes = ops.decode_boxes(coder, priors, deltas, IMG_HW)
    for i, shape in enumerate(IMG_HW.tolist()):
        torch.testing.assert_close(boxes[i], coder.decode(priors[i], deltas[i], max_shape=shape), atol=1e-4, rtol=0)


def test_drop_small_keeps_boxes_above_the_size():
    boxes = torch.tensor([[[0.0, 0, 0, 9], [0, 0, 1, 9], [0, 0, 2, 2]]])
    assert ops.drop_small(boxes, torch.ones(1, 3), 1).tolist() == [[0, 0, 1]]
    assert ops.drop_small(boxes, torch.ones(1, 3), -1).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize('plain', [False, True])
@pytest.mark.parametrize('threshold', [0.3, 0.6])
def test_nms_agrees_with_torchvision(random_boxes, plain, threshold):
    boxes, scores, labels = random_boxes(IMG_HW, 200, 40), sorted_scores(2, 200), torch.randint(3, (2, 200))
    scores[:, ::7] = 0  # padding neither survives nor suppresses
    surviving = ops.nms(boxes, scores, threshold, plain, labels, classes=3)
    for i in range(2):
        valid = scores[i].nonzero()[:, 0]
        index = valid[batched_nms(boxes[i, valid], scores[i, valid], labels[i, valid], threshold)]
        expected = torch.zeros(200).index_copy(0, index, scores[i, index])
        assert 10 < len(index) < len(valid) - 10
        assert torch.equal(surviving[i], expected)


@pytest.mark.parametrize('length', [2, 9, ops.PASSES])
def test_plain_nms_resolves_chains(length):
    start = torch.arange(length) * 3.0  # each overlaps only its neighbours, with IoU 7 / 13
    boxes = torch.stack((start, start * 0, start + 10, start * 0 + 10), dim=1)[None]
    surviving = ops.nms(boxes, torch.linspace(1, 0.5, length)[None], 0.5, plain=True) > 0
    assert surviving[0].tolist() == [i % 2 == 0 for i in range(length)]


def test_a_limit_on_candidates_keeps_the_best_detections(random_boxes, monkeypatch):
    monkeypatch.setattr(ops, 'CANDIDATES', 60)
    boxes, scores, labels = random_boxes(IMG_HW, 200), torch.rand(2, 200), torch.randint(3, (2, 200))
    cfg = {'nms': {'type': 'nms', 'iou_threshold': 0.5}, 'max_per_img': 10}
    selected = ops.select_detections(boxes, scores, labels, cfg, 3, plain=False)
    for i in range(2):
        index = batched_nms(boxes[i], scores[i], labels[i], 0.5)[:10]
        assert torch.equal(selected[3][i], index)
        assert torch.equal(selected[0][i], boxes[i, index])
        assert torch.equal(selected[2][i], labels[i, index])


@pytest.mark.parametrize('cfg', [{'type': 'soft_nms', 'iou_threshold': 0.5}, {'iou_threshold': 1, 'class_agnostic': 1}])
def test_other_kinds_of_nms_are_refused(cfg):
    with pytest.raises(InputError, match='test_cfg.nms'):
        ops.iou_threshold({'nms': cfg})


class _NMS(nn.Module):
    outputs = ('scores',)

    def forward(self, images, img_hw):
        scores, order = images[:, 0, 0].topk(32)
        boxes = ops.gather_rows(images[:, 1:].flatten(2).transpose(1, 2), order)
        return ops.nms(boxes, scores, 0.5, False, order % 3, 3)


def test_nms_in_onnx_runtime(random_boxes, run_onnx):
    boxes = random_boxes(IMG_HW, 64, 50)
    images = torch.cat((torch.rand(2, 64, 1), boxes), dim=2).transpose(1, 2)[:, :, None]
    images[1, 0] = 0  # an image without boxes
    scores = run_onnx(_NMS(), (images, IMG_HW))(images, IMG_HW)[0]
    assert torch.equal(scores, _NMS()(images, IMG_HW))
    assert 3 < (scores[0] > 0).sum() < 30


@pytest.mark.parametrize('scores', [[[0.0, 0.5], [0.2, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_scatter_back_undoes_valid_indices(scores):
    scores = torch.tensor(scores)
    index = ops.valid_indices(scores, plain=False)
    assert set(scores.flatten().nonzero()[:, 0].tolist()) <= set(index.tolist())
    assert torch.equal(ops.scatter_back(scores.flatten()[index], index, 4), scores.flatten())
