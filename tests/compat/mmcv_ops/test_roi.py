"""RoIAlign and RoIPool, against loops over bins and pixels."""

import mmcv.ops as ops
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from repvit_dense.compat.mmcv_ops import roi


def roi_align_by_definition(bilinear, features, rois, size, scale, ratio, mode, aligned):
    """Average or maximise a grid of bilinear samples per bin; a sample more than a pixel outside the map is 0."""
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


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_matches_its_definition(extension, draw_features, rois, bilinear, mode, ratio, aligned):
    features, tensor = draw_features(low=-1, grad=True), torch.tensor(rois, dtype=torch.float64)
    arguments = ((3, 2), 0.5, ratio, mode, aligned)
    output = ops.roi_align(features, tensor, *arguments)
    expected = roi_align_by_definition(bilinear, features.detach().numpy(), rois, (3, 2), 0.5, ratio, mode, aligned)
    np.testing.assert_allclose(output.detach(), expected, atol=1e-9)
    assert gradcheck(lambda x: ops.roi_align(x, tensor, *arguments), features)


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_of_no_rois(extension, draw_features, mode):
    features = draw_features(grad=True)
    output = ops.roi_align(features, torch.zeros(0, 5, dtype=torch.float64), (2, 2), 1.0, 0, mode, True)
    output.sum().backward()
    assert output.shape == (0, 3, 2, 2) and not features.grad.any()


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_of_a_roi_without_size_is_zero(fallback, draw_features, mode):
    features = draw_features(low=1, high=2, grad=True)
    rois = torch.tensor([[0.0, 3, 3, 3, 3], [0, 4, 4, 2, 2]], dtype=torch.float64)
    output = ops.roi_align(features, rois, (2, 2), 1.0, 0, mode, True)
    output.sum().backward()
    assert not output.any() and not features.grad.any()


def test_roi_align_max_gradient_reaches_only_the_maximum(extension):
    features = torch.zeros(1, 1, 8, 8)
    features[0, 0, 2, 5] = 1
    features.requires_grad_()
    # Samples at the centres of pixels: bin (0, 1) has one maximum, the others take the first of their equal samples.
    output = ops.roi_align(features, torch.tensor([[0.0, 0, 0, 8, 8]]), 2, 1.0, 4, 'max', True)
    output.sum().backward()
    assert output.flatten().tolist() == [0, 1, 0, 0]
    assert features.grad[0, 0].nonzero().tolist() == [[0, 0], [2, 5], [4, 0], [4, 4]]
    assert features.grad.sum() == 4


def test_threads_do_not_change_the_gradient_of_roi_align(fallback, draw, rois, monkeypatch):
    features, rois = draw(2, 5, 8, 9, grad=True), torch.tensor(rois, dtype=torch.float64)
    monkeypatch.setattr(roi, 'WORTH_THREADS', 1)
    gradients = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, 'get_num_threads', lambda threads=threads: threads)
        output = ops.roi_align(features, rois, (3, 2), 0.5, 0, 'avg', True)
        gradients += torch.autograd.grad(output.square().sum(), features)
    assert gradients[0].any() and torch.equal(*gradients)


def roi_pool_by_definition(features, rois, size, scale):
    """Return the maximum over the pixels that each bin touches, 0 for an empty bin."""
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


def test_roi_pool_matches_its_definition(fallback, draw_features, rois):
    features = draw_features(low=-2, high=-1, grad=True)  # negative, unlike the 0 of an empty bin
    rois = [*rois, [1, 20, 2, 30, 9]]
    tensor = torch.tensor(rois, dtype=torch.float64)
    output = ops.roi_pool(features, tensor, (3, 2), 0.5)
    expected = roi_pool_by_definition(features.detach().numpy(), rois, (3, 2), 0.5)
    assert (expected[-1] == 0).all() and (expected[0] < 0).all()
    np.testing.assert_array_equal(output.detach(), expected)
    assert gradcheck(lambda x: ops.roi_pool(x, tensor, (3, 2), 0.5), features)
    assert ops.roi_pool(features, tensor[:0], (3, 2), 0.5).shape == (0, 3, 3, 2)
