"""Every op of the fallback against a definition of its own: loops over boxes and pixels, PyTorch's operators, autograd.

The tests call mmcv's public wrappers. Where mmcv has its compiled extension, the ops with a compiled CPU kernel are
tested in both implementations, by the same tests.
"""

import copy
import importlib.util
import inspect
import pickle
import sys
from multiprocessing import process

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.autograd import gradcheck

from repvit_dense.compat import mmcv_ops

mmcv_ops.install()

import mmcv._ext  # noqa: E402
import mmcv.ops as ops  # noqa: E402
from mmcv.ops.multi_scale_deform_attn import (  # noqa: E402
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

ms_deform_attn = MultiScaleDeformableAttnFunction.apply


def load_fallback():
    finder = next(finder for finder in sys.meta_path if isinstance(finder, mmcv_ops._Finder))
    module = importlib.util.module_from_spec(finder.find_spec('mmcv._ext'))
    module.__spec__.loader.exec_module(module)
    return module


IMPLEMENTATIONS = {'fallback': load_fallback()}
if getattr(mmcv._ext, '__file__', '').endswith(('.so', '.pyd')):
    IMPLEMENTATIONS['compiled'] = mmcv._ext

both = pytest.mark.parametrize('extension', IMPLEMENTATIONS, indirect=True)
# For ops without a compiled CPU kernel, and for what the fallback does beyond the kernels.
fallback = pytest.mark.parametrize('extension', ['fallback'], indirect=True)


@pytest.fixture
def extension(request, monkeypatch):
    implementation = IMPLEMENTATIONS[request.param]
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            monkeypatch.setattr(module, 'ext_module', implementation)
    return implementation


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random(*shape, low=0.0, high=1.0, dtype=torch.float64, grad=False):
    return (torch.rand(shape, dtype=torch.float64) * (high - low) + low).to(dtype).requires_grad_(grad)


def random_boxes(n, dtype=torch.float32):
    corner, size = random(n, 2, high=20), random(n, 2, low=2, high=14)
    return torch.cat((corner, corner + size), dim=1).to(dtype)


def bilinear(plane, y, x):
    """The value of a map at a point, with zeros all around it: every pixel weighs in with a tent of width 1."""
    rows, columns = np.arange(plane.shape[-2]), np.arange(plane.shape[-1])
    return np.maximum(0, 1 - abs(y - rows)) @ plane @ np.maximum(0, 1 - abs(x - columns))


# --- Boxes ------------------------------------------------------------------------------------------------------------


def iou(a, b, offset=0, mode='iou'):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    overlap = max(width, 0) * max(height, 0)
    area_a, area_b = ((box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b))
    return overlap / (area_a if mode == 'iof' else area_a + area_b - overlap)


@both
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.2, 0.4, 0.6])
def test_nms_keeps_what_no_better_box_overlaps(extension, threshold, offset):
    boxes, scores = random_boxes(60), random(60, dtype=torch.float32)
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    dets, indices = ops.nms(boxes, scores, threshold, offset=offset)
    assert indices.tolist() == kept and len(kept) < 60
    assert torch.equal(dets, torch.cat((boxes, scores[:, None]), dim=1)[kept])
    few = ops.nms(boxes, scores, threshold, offset=offset, score_threshold=0.4, max_num=5)[1]
    assert few.tolist() == [i for i in kept if scores[i] > 0.4][:5]


@both
def test_nms_threshold_is_a_float32(extension):
    # IoU 3/5: as float32 it is above the double 0.6, but not above the float32 0.6.
    boxes = torch.tensor([[0.0, 0, 4, 1], [1, 0, 5, 1]])
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1]) == 2
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.59)[1]) == 1


@both
def test_nms_of_nothing(extension):
    dets, indices = ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5) and indices.dtype == torch.long


@both
def test_batched_nms_works_class_by_class(extension):
    boxes, scores, labels = random_boxes(50), random(50, dtype=torch.float32), torch.randint(3, (50,))
    expected = [
        int(where[i])
        for where in ((labels == label).nonzero()[:, 0] for label in range(3))
        for i in torchvision.ops.nms(boxes[where], scores[where], 0.4)
    ]
    _, indices = ops.batched_nms(boxes, scores, labels, {'type': 'nms', 'iou_threshold': 0.4})
    assert sorted(indices.tolist()) == sorted(expected)


def soft_nms_by_definition(boxes, scores, threshold, sigma, min_score, method, offset):
    """Boxes wait in a list; the best goes to the front, and one that drops out gives its place to the last."""
    scores = scores.double().tolist()
    waiting, selected = list(range(len(scores))), []
    while waiting:
        best = max(range(len(waiting)), key=lambda i: scores[waiting[i]])
        waiting[0], waiting[best] = waiting[best], waiting[0]
        selected.append(first := waiting.pop(0))
        i = 0
        while i < len(waiting):
            overlap = iou(boxes[first], boxes[waiting[i]], offset)
            decayed = {'naive': 0, 'linear': 1 - overlap}.get(method, np.exp(-(overlap**2) / sigma))
            if method == 'gaussian' or overlap >= threshold:
                scores[waiting[i]] *= decayed
            if scores[waiting[i]] >= min_score:
                i += 1
            elif i == len(waiting) - 1:
                waiting.pop()
            else:
                waiting[i] = waiting.pop()  # and this one comes next
    return selected, [scores[i] for i in selected]


@both
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('ties', [False, True])
def test_soft_nms(extension, method, offset, ties):
    boxes, scores = random_boxes(40), random(40, dtype=torch.float32)
    if ties:
        scores = (scores * 4).ceil() / 4
    options = {'iou_threshold': 0.3, 'sigma': 0.5, 'min_score': 0.2, 'method': method, 'offset': offset}
    expected, decayed = soft_nms_by_definition(boxes, scores, 0.3, 0.5, 0.2, method, offset)
    dets, indices = ops.soft_nms(boxes, scores, **options)
    assert indices.tolist() == expected and len(expected) < 40
    assert torch.equal(dets[:, :4], boxes[expected])
    np.testing.assert_allclose(dets[:, 4], decayed, rtol=1e-5)


@both
def test_soft_nms_of_boxes_without_area_and_of_arrays(extension):
    boxes = np.array([[4, 3, 5, 3], [4, 3, 5, 4], [3, 1, 3, 1], [3, 1, 3, 1]], dtype=np.float32)
    dets, indices = ops.soft_nms(boxes, np.array([0.9, 0.8, 0.5, 0.0], dtype=np.float32), min_score=0.1)
    assert isinstance(dets, np.ndarray) and indices.tolist() == [0, 1, 2]
    dets, indices = ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5) and indices.shape == (0,)


@both
def test_nms_match_groups_boxes_under_the_one_that_suppresses_them(extension):
    dets = torch.cat((random_boxes(40), random(40, 1, dtype=torch.float32)), dim=1)
    waiting, expected = dets[:, 4].argsort(descending=True).tolist(), []
    while waiting:
        first, *rest = waiting
        group = [i for i in rest if iou(dets[first], dets[i]) >= 0.4]
        expected.append([first, *group])
        waiting = [i for i in rest if i not in group]
    groups = ops.nms_match(dets, 0.4)
    assert [group.tolist() for group in groups] == expected and 1 < len(expected) < 40
    assert [group.tolist() for group in ops.nms_match(dets.numpy(), 0.4)] == expected


@both
@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('offset', [0, 1])
def test_bbox_overlaps(extension, mode, offset):
    a, b = random_boxes(5), random_boxes(5)
    expected = np.array([[iou(p, q, offset, mode) for q in b] for p in a])
    assert (expected == 0).any()
    np.testing.assert_allclose(ops.bbox_overlaps(a, b, mode, offset=offset), expected, rtol=1e-4)
    np.testing.assert_allclose(ops.bbox_overlaps(a, b, mode, True, offset), expected.diagonal(), rtol=1e-4)
    assert ops.bbox_overlaps(a[:2], b, mode, offset=offset).shape == (2, 5)


# --- RoI pooling ------------------------------------------------------------------------------------------------------

FEATURES = (2, 3, 6, 7)
# Inside, across each border, one with a fraction of a pixel, one that takes all of the second image.
ROIS = [
    [0, 1.3, 2.1, 9.6, 8.2],
    [1, -3.7, 3.3, 5.1, 14.6],
    [0, 6.2, -2.6, 15.7, 6.4],
    [0, 5.1, 4.2, 5.4, 4.3],
    [1, 0, 0, 14, 12],
]


def roi_align_by_definition(features, rois, size, scale, ratio, mode, aligned):
    """Per bin a grid of points, each a bilinear sample; further than a pixel outside the map it is 0."""
    height, width = features.shape[2:]
    output = np.zeros((len(rois), features.shape[1], *size))
    for k, (image, *box) in enumerate(rois):
        x1, y1, x2, y2 = (c * scale - 0.5 * aligned for c in box)
        lengths = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        steps = [length / bins for length, bins in zip(lengths, size, strict=True)]
        counts = [ratio or int(np.ceil(step)) for step in steps]
        for (c, i, j), _ in np.ndenumerate(output[k]):
            samples = []
            for a, b in np.ndindex(*counts):
                y = y1 + (i + (a + 0.5) / counts[0]) * steps[0]
                x = x1 + (j + (b + 0.5) / counts[1]) * steps[1]
                outside = y < -1 or y > height or x < -1 or x > width
                plane = features[int(image), c]
                samples.append(0 if outside else bilinear(plane, np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)))
            output[k, c, i, j] = np.max(samples) if mode == 'max' else np.mean(samples)
    return output


@both
@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align(extension, mode, ratio, aligned):
    features, rois = random(*FEATURES, low=-1, grad=True), torch.tensor(ROIS, dtype=torch.float64)
    arguments = ((3, 2), 0.5, ratio, mode, aligned)
    output = ops.roi_align(features, rois, *arguments)
    expected = roi_align_by_definition(features.detach().numpy(), ROIS, (3, 2), 0.5, ratio, mode, aligned)
    np.testing.assert_allclose(output.detach(), expected, atol=1e-9)
    assert gradcheck(lambda x: ops.roi_align(x, rois, *arguments), features)


@both
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_of_no_rois(extension, mode):
    features = random(*FEATURES, grad=True)
    output = ops.roi_align(features, torch.zeros(0, 5, dtype=torch.float64), (2, 2), 1.0, 0, mode, True)
    output.sum().backward()
    assert output.shape == (0, 3, 2, 2) and not features.grad.any()


@fallback
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_of_a_roi_without_size_is_zero(extension, mode):
    features = random(*FEATURES, low=1, high=2, grad=True)
    rois = torch.tensor([[0.0, 3, 3, 3, 3], [0, 4, 4, 2, 2]], dtype=torch.float64)
    output = ops.roi_align(features, rois, (2, 2), 1.0, 0, mode, True)
    output.sum().backward()
    assert not output.any() and not features.grad.any()


@both
def test_roi_align_max_gradient_goes_to_the_chosen_sample_alone(extension):
    features = torch.zeros(1, 1, 8, 8)
    features[0, 0, 2, 5] = 1
    features.requires_grad_()
    # Samples on the pixels' centres: in bin (0, 1) one pixel stands out; of equal samples the first counts.
    output = ops.roi_align(features, torch.tensor([[0.0, 0, 0, 8, 8]]), 2, 1.0, 4, 'max', True)
    output.sum().backward()
    assert output.flatten().tolist() == [0, 1, 0, 0]
    assert features.grad[0, 0].nonzero().tolist() == [[0, 0], [2, 5], [4, 0], [4, 4]]
    assert features.grad.sum() == 4


@fallback
def test_threads_leave_the_gradient_of_roi_align_as_it_is(extension, monkeypatch):
    features, rois = random(2, 5, 8, 9, grad=True), torch.tensor(ROIS, dtype=torch.float64)
    monkeypatch.setattr(mmcv_ops, '_WORTH_THREADS', 1)
    gradients = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, 'get_num_threads', lambda threads=threads: threads)
        output = ops.roi_align(features, rois, (3, 2), 0.5, 0, 'avg', True)
        gradients += torch.autograd.grad(output.square().sum(), features)
    assert gradients[0].any() and torch.equal(*gradients)


def roi_pool_by_definition(features, rois, size, scale):
    output = np.zeros((len(rois), features.shape[1], *size))
    for k, (image, x1, y1, x2, y2) in enumerate(rois):
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        for (c, i, j), _ in np.ndenumerate(output[k]):
            rows = [np.floor(y1 + i * (y2 - y1) / size[0]), np.ceil(y1 + (i + 1) * (y2 - y1) / size[0])]
            columns = [np.floor(x1 + j * (x2 - x1) / size[1]), np.ceil(x1 + (j + 1) * (x2 - x1) / size[1])]
            (top, bottom), (left, right) = np.maximum(rows, 0).astype(int), np.maximum(columns, 0).astype(int)
            pixels = features[int(image), c, top:bottom, left:right]
            output[k, c, i, j] = pixels.max() if pixels.size else 0
    return output


@fallback
def test_roi_pool(extension):
    features = random(*FEATURES, low=-2, high=-1, grad=True)  # negative: an empty bin's 0 stands out
    rois = [*ROIS, [1, 20, 2, 30, 9]]
    tensor = torch.tensor(rois, dtype=torch.float64)
    output = ops.roi_pool(features, tensor, (3, 2), 0.5)
    expected = roi_pool_by_definition(features.detach().numpy(), rois, (3, 2), 0.5)
    assert (expected[-1] == 0).all() and (expected[0] < 0).all()
    np.testing.assert_array_equal(output.detach(), expected)
    assert gradcheck(lambda x: ops.roi_pool(x, tensor, (3, 2), 0.5), features)
    assert ops.roi_pool(features, tensor[:0], (3, 2), 0.5).shape == (0, 3, 3, 2)


# --- Deformable convolution and attention -----------------------------------------------------------------------------

# Rectangular kernel, several groups of both kinds, and stride, padding and dilation that differ by axis.
GEOMETRY = {'stride': (2, 1), 'padding': (1, 2), 'dilation': (1, 2), 'groups': 2, 'deform_groups': 2}
POINTS = 6  # of a kernel of 2 x 3


def deform_inputs(batch=2, grad=False):
    """Features, offsets (away from whole pixels, where the gradient jumps), mask, weight, bias."""
    features, weight = random(batch, 4, 5, 6, low=-1, grad=grad), random(4, 2, 2, 3, low=-1, grad=grad)
    fraction = random(batch, 2 * 2 * POINTS, 3, 6, low=0.1, high=0.9)
    offset = (fraction + torch.randint(-2, 2, fraction.shape)).requires_grad_(grad)
    return features, offset, random(batch, 2 * POINTS, 3, 6, grad=grad), weight, random(4, grad=grad)


def deform_conv_by_definition(features, offset, mask, weight, bias):
    features, offset, mask, weight, bias = (t.detach().numpy() for t in (features, offset, mask, weight, bias))
    offset = offset.reshape(len(offset), 2, POINTS, 2, *offset.shape[2:])  # group, kernel point, (y, x)
    mask = mask.reshape(len(mask), 2, POINTS, *mask.shape[2:])
    output = np.zeros((len(features), 4, *offset.shape[-2:])) + bias[:, None, None]
    for b, out, row, column in np.ndindex(*output.shape):
        for c, i, j in np.ndindex(*weight.shape[1:]):
            channel = out // 2 * 2 + c  # two groups of two channels; here the deformable groups are the same
            group, point = channel // 2, i * 3 + j
            dy, dx = offset[b, group, point, :, row, column]
            sample = bilinear(features[b, channel], row * 2 - 1 + i + dy, column - 2 + j * 2 + dx)
            output[b, out, row, column] += weight[out, c, i, j] * mask[b, group, point, row, column] * sample
    return output


@both
def test_deform_conv_with_random_offsets(extension):
    features, offset, mask, weight, bias = deform_inputs()
    expected = deform_conv_by_definition(features, offset, mask, weight, bias)
    np.testing.assert_allclose(
        ops.modulated_deform_conv2d(features, offset, mask, weight, bias, *GEOMETRY.values()), expected, atol=1e-12
    )
    expected = deform_conv_by_definition(features, offset, torch.ones_like(mask), weight, torch.zeros(4))
    np.testing.assert_allclose(ops.deform_conv2d(features, offset, weight, *GEOMETRY.values()), expected, atol=1e-12)


@both
def test_deform_conv_with_whole_offsets_is_a_convolution(extension):
    features, offset, mask, weight, bias = deform_inputs()
    geometry = {key: value for key, value in GEOMETRY.items() if key != 'deform_groups'}
    plain = F.conv2d(features, weight, bias, **geometry)
    zero, one = torch.zeros_like(offset), torch.ones_like(mask)
    torch.testing.assert_close(
        ops.modulated_deform_conv2d(features, zero, one, weight, bias, *GEOMETRY.values()), plain
    )
    shift = zero.view(2, -1, 2, 3, 6).clone()
    shift[:, :, 0], shift[:, :, 1] = 1, -2  # down by 1, left by 2: the map moves up by 1, right by 2
    shifted = ops.deform_conv2d(features, shift.view_as(offset), weight, *GEOMETRY.values())
    moved = F.pad(features, (2 + 2, 2 - 2, 1 - 1, 1 + 1))  # with the padding of the convolution
    torch.testing.assert_close(shifted, F.conv2d(moved, weight, **{**geometry, 'padding': 0}))


@both
def test_deform_conv_gradients(extension):
    features, offset, mask, weight, bias = deform_inputs(batch=1, grad=True)
    geometry = GEOMETRY.values()
    assert gradcheck(lambda *t: ops.deform_conv2d(*t, *geometry), (features, offset, weight))
    inputs = (features, offset, mask, weight, bias)
    assert gradcheck(lambda *t: ops.modulated_deform_conv2d(*t, *geometry), inputs)
    assert gradcheck(lambda *t: ops.modulated_deform_conv2d(*t, None, *geometry), inputs[:4])


@both
def test_deform_conv_weight_gradient_alone_and_repeated(extension):
    features, offset, _, weight, _ = deform_inputs(grad=True)
    output = ops.deform_conv2d(features, offset, weight, *GEOMETRY.values())
    once, twice = torch.rand_like(output), torch.rand_like(output)
    first = torch.autograd.grad(output, (features, weight), once, retain_graph=True)[1]
    second = torch.autograd.grad(output, (features, weight), twice, retain_graph=True)[1]
    alone = ops.deform_conv2d(features.detach(), offset.detach(), weight, *GEOMETRY.values())
    torch.testing.assert_close(torch.autograd.grad(alone, weight, once, retain_graph=True)[0], first)
    torch.testing.assert_close(torch.autograd.grad(alone, weight, twice)[0], second)
    assert not torch.allclose(first, second)


@fallback
def test_deform_conv_keeps_no_weight_gradient_of_another_pass(extension):
    features, offset, _, weight, _ = deform_inputs()
    keys = ('kH', 'kW', *mmcv_ops._V1, 'im2col_step')
    conv = dict(zip(keys, (2, 3, 2, 1, 1, 2, 1, 2, 2, 2, 2), strict=True))

    def to_weight(columns, grad):
        extension.deform_conv_backward_parameters(
            features, offset, grad, out := weight.clone(), columns, None, 1, **conv
        )
        return out

    one, other, columns = random(2, 4, 3, 6), random(2, 4, 3, 6), torch.empty(0)
    scratch = torch.zeros_like(features), torch.zeros_like(offset)
    extension.deform_conv_backward_input(features, offset, one, *scratch, weight, columns, **conv)
    torch.testing.assert_close(to_weight(columns, other), to_weight(torch.empty(0), other))
    extension.deform_conv_backward_input(features, offset, one, *scratch, weight, columns, **conv)
    torch.testing.assert_close(to_weight(columns, one), to_weight(torch.empty(0), one))


LEVELS = torch.tensor([[4, 5], [2, 3]])
STARTS = torch.tensor([0, 20])


def attention_inputs(grad=False):
    """Value, locations (some outside the maps), weights: batch 2, 26 keys, 2 heads of 3, 4 queries, 2 points."""
    value, locations = random(2, 26, 2, 3, low=-1, grad=grad), random(2, 4, 2, 2, 2, 2, low=-0.2, high=1.2, grad=grad)
    return value, locations, random(2, 4, 2, 2, 2, grad=grad)


@fallback
def test_ms_deform_attn(extension):
    value, locations, weights = attention_inputs()
    output = ms_deform_attn(value, LEVELS, STARTS, locations, weights, 64)
    torch.testing.assert_close(output, multi_scale_deformable_attn_pytorch(value, LEVELS, locations, weights))
    expected = np.zeros((2, 4, 2, 3))
    for b, query, head, level, point in np.ndindex(*weights.shape):
        height, width = LEVELS[level].tolist()
        maps = value[b, STARTS[level] :][: height * width, head].T.reshape(3, height, width).numpy()
        x, y = locations[b, query, head, level, point].tolist()
        weight = weights[b, query, head, level, point].item()
        expected[b, query, head] += [weight * bilinear(m, y * height - 0.5, x * width - 0.5) for m in maps]
    np.testing.assert_allclose(output, expected.reshape(2, 4, 6), atol=1e-12)


@fallback
def test_ms_deform_attn_gradients(extension):
    inputs = attention_inputs(grad=True)
    assert gradcheck(lambda v, loc, w: ms_deform_attn(v, LEVELS, STARTS, loc, w, 64), inputs)


# --- Focal losses -----------------------------------------------------------------------------------------------------


@fallback
@pytest.mark.parametrize('gamma', [0.0, 2.0])
def test_sigmoid_focal_loss(extension, gamma):
    logits, weight = random(6, 4, low=-3, high=3, grad=True), random(4)
    target = torch.tensor([0, 3, 4, 1, 4, -1])  # 4 and -1 are background
    onehot = (target[:, None] == torch.arange(4)).double()
    expected = torchvision.ops.sigmoid_focal_loss(logits, onehot, alpha=0.3, gamma=gamma)
    torch.testing.assert_close(ops.sigmoid_focal_loss(logits, target, gamma, 0.3, None, 'none'), expected)
    torch.testing.assert_close(ops.sigmoid_focal_loss(logits, target, gamma, 0.3), expected.sum() / 6)

    of_target = torch.cat((weight, torch.ones(1, dtype=torch.float64)))[target]  # background has no weight of its own
    weighted = ops.sigmoid_focal_loss(logits, target, gamma, 0.3, weight, 'none')
    torch.testing.assert_close(weighted, expected * of_target[:, None])
    assert gradcheck(lambda x: ops.sigmoid_focal_loss(x, target, gamma, 0.3, weight, 'sum'), logits)


@fallback
@pytest.mark.parametrize('gamma', [0.0, 2.0])
def test_softmax_focal_loss(extension, gamma):
    logits, weight = random(6, 4, low=-3, high=3, grad=True), random(4)
    target = torch.tensor([0, 3, 2, 1, -1, 2])
    log_p = logits.log_softmax(dim=1)[torch.arange(6), target.clamp(min=0)]
    expected = -0.3 * (1 - log_p.exp()) ** gamma * log_p * weight[target.clamp(min=0)] * (target >= 0)
    loss = ops.softmax_focal_loss(logits, target, gamma, 0.3, weight, 'none')
    torch.testing.assert_close(loss, expected)
    assert loss[4] == 0
    gradients = [
        torch.autograd.grad(x.sum(), logits)[0]
        for x in (expected, ops.softmax_focal_loss(logits, target, gamma, 0.3, weight, 'sum'))
    ]
    torch.testing.assert_close(*gradients)
    no_class = torch.tensor([4, 0, 0, 0, 0, 0])  # one past the last: mmcv reads the next row, here it does not count
    assert ops.softmax_focal_loss(logits, no_class, gamma, 0.3, weight, 'none')[0] == 0


@fallback
def test_focal_losses_of_certain_logits_are_finite(extension):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    for loss in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
        value = loss(logits, torch.tensor([0, 0]), 2.0, 0.25)
        assert value.isfinite() and value > 1
        assert torch.autograd.grad(value, logits)[0].isfinite().all()


# --- Types, copies, compilation ---------------------------------------------------------------------------------------

LOW = pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])


def in_every_op(dtype):
    """Name, op and floating inputs of each differentiable op, the inputs rounded to ``dtype``."""
    rois, target = torch.tensor(ROIS).to(dtype), torch.tensor([0, 3, 2, 1, -1, 2])
    features, offset, mask, weight, bias = deform_inputs()
    geometry = GEOMETRY.values()

    def pooled(mode):
        return lambda x: ops.roi_align(x, rois.to(x.dtype), 2, 0.5, 0, mode, True)

    cases = {
        'roi_align avg': (pooled('avg'), [random(*FEATURES)]),
        'roi_align max': (pooled('max'), [random(*FEATURES)]),
        'roi_pool': (lambda x: ops.roi_pool(x, rois.to(x.dtype), 2, 0.5), [random(*FEATURES)]),
        'deform_conv2d': (lambda *t: ops.deform_conv2d(*t, *geometry), [features, offset, weight]),
        'modulated_deform_conv2d': (
            lambda *t: ops.modulated_deform_conv2d(*t, *geometry),
            [features, offset, mask, weight, bias],
        ),
        'ms_deform_attn': (lambda v, *t: ms_deform_attn(v, LEVELS, STARTS, *t, 64), attention_inputs()),
        'sigmoid_focal_loss': (lambda x: ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'none'), [random(6, 4)]),
        'softmax_focal_loss': (lambda x: ops.softmax_focal_loss(x, target, 2.0, 0.25, None, 'sum'), [random(6, 4)]),
    }
    for name, (op, inputs) in cases.items():
        yield name, op, [t.to(dtype).requires_grad_() for t in inputs]


@fallback
@LOW
def test_low_precision_gives_the_rounded_float32_result(extension, dtype):
    tolerance = {'rtol': 4 * torch.finfo(dtype).eps, 'atol': 4 * torch.finfo(dtype).eps}
    for name, op, inputs in in_every_op(dtype):
        wide = [t.detach().float().requires_grad_() for t in inputs]
        output, expected = op(*inputs), op(*wide)
        assert output.dtype == dtype, name
        torch.testing.assert_close(output.float(), expected, **tolerance, msg=lambda m, n=name: f'{n}: {m}')
        gradients, expected = (torch.autograd.grad(o.sum(), i) for o, i in ((output, inputs), (expected, wide)))
        # Max pooling keeps the chosen position in the low type, and its gradient moves with it.
        for got, want in zip(gradients, expected, strict=True):
            assert got.dtype == dtype, name
            if name != 'roi_align max':
                torch.testing.assert_close(got.float(), want, **tolerance, msg=lambda m, n=name: f'{n}: {m}')
            torch.testing.assert_close(got.float().sum(), want.sum(), rtol=0.05, atol=0.05)


@fallback
@LOW
def test_box_ops_take_low_precision(extension, dtype):
    boxes, scores = random_boxes(30).to(dtype), torch.linspace(0, 1, 30).to(dtype)
    wide = boxes.float(), scores.float()
    assert ops.nms(boxes, scores, 0.4)[1].tolist() == ops.nms(*wide, 0.4)[1].tolist()
    assert ops.nms(wide[0], scores, 0.4, offset=1)[1].tolist() == ops.nms(*wide, 0.4, offset=1)[1].tolist()
    assert ops.soft_nms(boxes, scores)[1].tolist() == ops.soft_nms(*wide)[1].tolist()
    overlaps = ops.bbox_overlaps(boxes, boxes)
    assert overlaps.dtype == dtype
    torch.testing.assert_close(overlaps, ops.bbox_overlaps(wide[0], wide[0]).to(dtype))


class Attention(ops.MultiScaleDeformableAttention):
    def forward(self, query, value, points):
        maps = {'spatial_shapes': LEVELS, 'level_start_index': STARTS}
        return super().forward(query, value=value, reference_points=points, **maps)


def modules():
    """Each module that uses the ops, with inputs; offsets and weights that depend on the input."""
    features, rois = random(*FEATURES).float(), torch.tensor(ROIS)
    yield ops.RoIAlign((2, 2), 0.5), (features, rois)
    yield ops.RoIPool((2, 2), 0.5), (features, rois)
    yield ops.DeformConv2d(3, 4, 3, padding=1), (features, random(2, 18, 6, 7, low=-2, high=2).float())
    pack = ops.ModulatedDeformConv2dPack(3, 4, 3, padding=1)
    torch.nn.init.normal_(pack.conv_offset.weight, std=0.1)
    yield pack, (features,)
    yield (
        Attention(16, 2, 2, 2, batch_first=True).eval(),
        (*random(1, 4 + 26, 16).float().split((4, 26), 1), random(1, 4, 2, 2).float()),
    )


@fallback
def test_modules_survive_deepcopy_and_pickle(extension):
    for module, inputs in modules():
        expected = module(*inputs)
        assert torch.equal(copy.deepcopy(module)(*inputs), expected)
        assert torch.equal(pickle.loads(pickle.dumps(module))(*inputs), expected)


@fallback
def test_modules_run_under_autocast(extension):
    for module, (first, *rest) in modules():
        first.requires_grad_()
        expected = module(first, *rest)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            output = module(first, *rest)
        torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)
        output.sum().backward()
        assert first.grad.isfinite().all() and first.grad.any()


@fallback
def test_torch_compile_gives_the_same_values_and_gradients(extension):
    # aot_eager traces forward and backward as any backend does, without a C++ compiler.
    for module, (first, *rest) in modules():
        first.requires_grad_()
        results = []
        for run in (module, torch.compile(module, backend='aot_eager')):
            output = run(first * 2, *rest)
            results.append((output, *torch.autograd.grad((output * output).sum(), first)))
        for compiled, expected in zip(*results, strict=True):
            torch.testing.assert_close(compiled, expected)


@fallback
@pytest.mark.parametrize('op', [ops.nms, ops.soft_nms])
def test_torch_compile_of_box_ops(extension, op):
    def select(boxes, scores):
        dets, indices = op(boxes * 2, scores, 0.3)
        return dets + 1, indices

    boxes, scores = random_boxes(30), random(30).float()
    for compiled, expected in zip(
        torch.compile(select, backend='aot_eager')(boxes, scores), select(boxes, scores), strict=True
    ):
        assert torch.equal(compiled, expected)


# --- The module itself ------------------------------------------------------------------------------------------------


def test_an_op_without_fallback_says_so_when_it_is_called():
    extension = IMPLEMENTATIONS['fallback']
    for name in ('nms_rotated', 'three_nn_forward', 'an_op_of_a_later_mmcv'):
        with pytest.raises(NotImplementedError, match=f"'{name}' has no fallback.*`make compiled-ops`"):
            getattr(extension, name)(1, key=2)
        assert pickle.loads(pickle.dumps(getattr(extension, name))).args == (name,)


def test_probing_the_module_is_harmless():
    extension = IMPLEMENTATIONS['fallback']
    for name in ('__path__', '__file__', '__wrapped__', '__all__', '_repr_html_'):
        assert not hasattr(extension, name)
    assert extension.__name__ == extension.__spec__.name == 'mmcv._ext'
    assert inspect.unwrap(extension) is extension and inspect.getdoc(extension)
    assert {name for name, _ in inspect.getmembers(extension, inspect.isfunction)} > {'nms', 'roi_align_forward'}
    assert extension.get_compiling_cuda_version() == 'not available'


def test_the_finder_answers_for_one_name_and_is_installed_once():
    finders = [finder for finder in sys.meta_path if isinstance(finder, mmcv_ops._Finder)]
    mmcv_ops.install()
    assert [finder for finder in sys.meta_path if isinstance(finder, mmcv_ops._Finder)] == finders
    assert len(finders) == 1
    assert importlib.util.find_spec('mmcv._ext') is not None
    assert importlib.util.find_spec('mmcv._extension') is None
    assert finders[0].find_spec('mmcv') is None


def test_unpickling_the_process_config_installs_the_finder(monkeypatch):
    pickled = pickle.dumps(process.current_process()._config['repvit_dense'])
    monkeypatch.setattr(sys, 'meta_path', [f for f in sys.meta_path if not isinstance(f, mmcv_ops._Finder)])
    arrived = pickle.loads(pickled)
    assert isinstance(sys.meta_path[-1], mmcv_ops._Finder)
    assert pickle.dumps(arrived) == pickled  # the next generation of processes gets it as well
