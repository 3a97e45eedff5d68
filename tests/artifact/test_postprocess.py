"""Postprocessing, compared with mmdet and torch on the same tensors."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch.nn import functional as F

from repvit_dense.artifact import postprocess, preprocess
from repvit_dense.artifact.postprocess import paste_masks


def logits_of_masks(*shape, seed=0):
    """Draw smooth masks with many pixels inside and outside and logits far from 0, as of trained networks."""
    noise = torch.rand(1, shape[0], 5, 5, generator=torch.Generator().manual_seed(seed)) * 80 - 40
    return F.interpolate(noise, size=shape[1:], mode='bilinear')[0].numpy()


def probabilities(*shape, seed=0):
    return 1 / (1 + np.exp(-logits_of_masks(*shape, seed=seed) / 7))


def patches(count, seed=0):
    """Draw mask logits `(count, 16, 16)`, each high around one point of a grid; some share a point."""
    rng = np.random.default_rng(seed)
    centres = np.stack(np.divmod(rng.integers(0, 12, count), 4), -1) * [5, 4] + rng.uniform(0, 3, (count, 2))
    grid = np.stack(np.mgrid[:16, :16], -1)
    distance = np.linalg.norm(grid - centres[:, None, None], axis=-1)
    return (-2 * (distance - 3)).astype(np.float32)


def test_box_masks_are_pasted_as_in_mmdet():
    """Boxes anywhere in the image, the whole image, thin boxes and empty boxes."""
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')

    image_hw = (97, 131)
    corners = np.random.default_rng(0).uniform(-20, 150, (30, 2, 2))
    drawn = np.concatenate([corners.min(1), corners.max(1)], 1).clip(0, [131, 97, 131, 97])
    special = [[0, 0, 131, 97], [10.5, 10.5, 11, 60], [20, 20, 20, 40], [5.3, 5, 5.3, 5]]
    boxes = np.concatenate([drawn, special]).astype(np.float32)
    masks = probabilities(len(boxes), 28, 28)
    results = InstanceData(bboxes=torch.from_numpy(boxes.copy()), labels=torch.zeros(len(boxes), dtype=torch.long))
    (expected,) = FCNMaskHead(num_convs=0, in_channels=1, conv_out_channels=1, num_classes=1).predict_by_feat(
        [torch.from_numpy(masks).logit()[:, None]],
        [results],
        [{'ori_shape': image_hw, 'scale_factor': (1.0, 1.0)}],
        ConfigDict(mask_thr_binary=0.5),
        rescale=True,
    )
    result = paste_masks(masks, boxes, image_hw, 0.5)
    assert (result != expected.masks.numpy()).sum() <= 3  # ties at the threshold
    assert result.any((1, 2)).sum() > 25


@pytest.mark.parametrize(
    'box', [[0, 0, np.nan, 5], [0, 0, np.inf, 5], [300, 300, 310, 320], [-50, -9, -5, -2], [0, 4, 9, -4]]
)
def test_a_box_outside_the_image_has_no_mask(box):
    assert not paste_masks(np.ones((1, 28, 28), np.float32), np.array([box], np.float32), (9, 9), 0.5).any()


@pytest.mark.parametrize('source, target', [((40, 40), (160, 160)), ((160, 160), (97, 131)), ((7, 9), (200, 31))])
def test_opencv_resizes_like_torch(source, target):
    masks = probabilities(3, *source)
    expected = F.interpolate(torch.from_numpy(masks)[None], target, mode='bilinear', align_corners=False)[0].numpy()
    for mask, expected_mask in zip(masks, expected, strict=True):
        result = cv2.resize(mask, target[::-1], interpolation=cv2.INTER_LINEAR)
        assert result == pytest.approx(expected_mask, abs=1e-5)


def image_masks(masks, options, true_hw, batch_hw, image_hw, scale=None, scores=None):
    canvas = postprocess.canvas_size(batch_hw, scale) if scale else None
    enlarged = (postprocess.resize_mask(mask, true_hw, batch_hw, image_hw, canvas) for mask in masks)
    scores = np.ones(len(masks), np.float32) if scores is None else scores
    return postprocess.finish_instances({'scores': scores, 'index': np.arange(len(masks))}, enlarged, image_hw, options)


def rtmdet_masks(logits, batch_hw, image_hw, scale_factor, kernels=None):
    """Return the masks of mmdet's head for mask logits at stride 8."""
    from mmdet.models.dense_heads import RTMDetInsHead

    head = RTMDetInsHead.__new__(RTMDetInsHead)
    torch.nn.Module.__init__(head)
    head.prior_generator = type('Generator', (), {'strides': [(8, 8)]})()
    head._mask_predict_by_feat_single = lambda feature, kernels, priors: logits[kernels[:, 0].long()]
    count = len(logits)
    results = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 9, 9]]).repeat(count, 1) + 50 * torch.arange(count)[:, None],
        scores=torch.linspace(0.9, 0.5, count),
        labels=torch.zeros(count, dtype=torch.long),
        kernels=torch.arange(count)[:, None].float(),
        priors=torch.zeros(count, 4),
    )
    cfg = ConfigDict(min_bbox_size=-1, nms={'type': 'nms', 'iou_threshold': 0.6}, max_per_img=100, mask_thr_binary=0.5)
    meta = {'scale_factor': scale_factor, 'ori_shape': image_hw}
    return head._bbox_mask_post_process(results, None, cfg, rescale=True, img_meta=meta).masks.numpy()


@pytest.mark.parametrize('image_hw', [(97, 131), (300, 401), (333, 100), (160, 160)])
def test_image_masks_equal_rtmdet(image_hw):
    recipe = {'scale': [160, 160], 'keep_ratio': True, 'multiple': None, 'pad_to': [160, 160], 'divisor': 32}
    steps = preprocess.geometry(image_hw, recipe)
    masks = logits_of_masks(5, 20, 20)
    scale = (steps.scaled[1] / image_hw[1], steps.scaled[0] / image_hw[0])
    expected = rtmdet_masks(torch.from_numpy(masks), steps.batch, image_hw, scale)
    result = image_masks(masks, {'mask_thr': 0.5}, steps.resized, steps.batch, image_hw, scale[::-1])['masks']
    assert result.shape == expected.shape
    assert np.mean(result != expected) < 1e-4
    assert 0.2 < result.mean() < 0.8


@pytest.fixture
def fusion():
    """Return `fusion(**test_cfg)`, which builds mmdet's fusion head for two things and three stuff classes."""
    from mmdet.models.seg_heads import MaskFormerFusionHead

    def make(**test_cfg):
        return MaskFormerFusionHead(num_things_classes=2, num_stuff_classes=3, test_cfg=ConfigDict(test_cfg))

    return make


def query_logits(scores, labels, num_classes=5):
    """Return class logits whose softmax is `scores` at `labels`; the remainder goes to 'no object'."""
    share = torch.zeros(len(scores), num_classes + 1)
    share[torch.arange(len(scores)), labels] = scores
    share[:, -1] += 1 - scores
    return share.clamp(min=1e-9).log()


@pytest.mark.parametrize('image_hw', [(97, 131), (64, 64), (130, 77)])
def test_image_masks_equal_mask2former(fusion, image_hw):
    """Masks are cropped to the true size, then resized; boxes enclose them."""
    true_hw, batch_hw, masks = (60, 50), (64, 64), logits_of_masks(6, 16, 16)
    masks[-1] = -9  # an empty one
    logits = F.interpolate(torch.from_numpy(masks)[None], batch_hw, mode='bilinear', align_corners=False)
    scores, labels = torch.linspace(0.9, 0.6, 6), torch.tensor([0, 1, 0, 1, 0, 1])
    meta = type('Sample', (), {'metainfo': {'img_shape': true_hw, 'ori_shape': image_hw}})
    head = fusion(panoptic_on=False, instance_on=True, max_per_image=6)
    (result,) = head.predict(query_logits(scores, labels)[None], logits, [meta], rescale=True)
    expected = result['ins_results']
    options = {'mask_thr': 0.5, 'boxes_from_masks': True, 'scores_from_masks': True}
    result = image_masks(masks, options, true_hw, batch_hw, image_hw, scores=scores.numpy())
    order = np.argsort(-expected.scores.numpy())
    assert result['scores'] == pytest.approx(expected.scores.numpy()[order], abs=1e-4)
    assert np.mean(result['masks'] != expected.masks.numpy()[order]) < 1e-3
    assert np.abs(result['boxes'] - expected.bboxes.numpy()[order]).max() <= 1
    assert labels.numpy()[result['index']].tolist() == expected.labels.numpy()[order].tolist()


@pytest.mark.parametrize('filter_low_score', [True, False])
@pytest.mark.parametrize('iou_thr', [0.3, 0.8])
@pytest.mark.parametrize('seed', range(3))
def test_merged_queries_equal_mask2former(fusion, seed, iou_thr, filter_low_score):
    generator = torch.Generator().manual_seed(seed)
    true_hw, batch_hw, image_hw = (60, 50), (64, 64), (97, 131)
    masks = patches(20, seed)
    scores = (torch.rand(20, generator=generator) * 0.5 + 0.5).sort(descending=True).values
    labels = torch.randint(0, 6, (20,), generator=generator)  # 5 is 'no object'
    logits = F.interpolate(torch.from_numpy(masks)[None], batch_hw, mode='bilinear', align_corners=False)
    meta = type('Sample', (), {'metainfo': {'img_shape': true_hw, 'ori_shape': image_hw}})
    options = {'object_mask_thr': 0.6, 'iou_thr': iou_thr, 'filter_low_score': filter_low_score, 'num_things': 2}
    head = fusion(**{name: value for name, value in options.items() if name != 'num_things'}, instance_on=False)
    (result,) = head.predict(query_logits(scores, labels)[None], logits, [meta], rescale=True)
    expected = result['pan_results'].sem_seg[0].numpy()

    outputs = {'scores': scores.numpy(), 'labels': labels.int().numpy(), 'masks': masks}
    result = postprocess.merge_queries(outputs, options, 5, true_hw, batch_hw, image_hw)
    numbers = result['segments']
    by_number = {part['number']: part for part in result['segment_info']}
    assert len(by_number) > 1
    assert sorted({*numbers.ravel()} - {0}) == sorted(by_number)
    ids = {0: 5}
    things = 0
    for number, part in by_number.items():
        things += part['is_thing']
        ids[number] = part['label'] + (1000 * things if part['is_thing'] else 0)
    labelled = np.vectorize(ids.get)(numbers)
    assert np.mean(labelled % 1000 != expected % 1000) < 1e-3
    # Things may be numbered differently, but must cover the same pixels.
    for theirs in {*expected[expected >= 1000].ravel()}:
        mask = expected == theirs
        ours = np.bincount(numbers[mask]).argmax()
        assert ((numbers == ours) & mask).sum() / ((numbers == ours) | mask).sum() > 0.99


def test_no_query_passes_the_threshold(fusion):
    outputs = {'scores': np.array([0.1], np.float32), 'labels': np.array([0]), 'masks': logits_of_masks(1, 8, 8)}
    options = {'object_mask_thr': 0.8, 'iou_thr': 0.8, 'filter_low_score': True, 'num_things': 2}
    result = postprocess.merge_queries(outputs, options, 5, (32, 32), (32, 32), (40, 50))
    assert result['segment_info'] == []
    assert not result['segments'].any()
    assert result['segments'].shape == (40, 50)
