"""Deformable convolution and attention, against loops over output elements."""

import mmcv.ops as ops
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from torch.autograd import gradcheck

from repvit_dense.compat.mmcv_ops import deform

POINTS = 6  # of the 2 x 3 kernel
ms_deform_attn = MultiScaleDeformableAttnFunction.apply


def deform_conv_by_definition(bilinear, features, offset, mask, weight, bias):
    features, offset, mask, weight, bias = (t.detach().numpy() for t in (features, offset, mask, weight, bias))
    offset = offset.reshape(len(offset), 2, POINTS, 2, *offset.shape[2:])  # group, kernel point, (y, x)
    mask = mask.reshape(len(mask), 2, POINTS, *mask.shape[2:])
    output = np.zeros((len(features), 4, *offset.shape[-2:])) + bias[:, None, None]
    for b, out, row, column in np.ndindex(*output.shape):
        for c, i, j in np.ndindex(*weight.shape[1:]):
            channel = out // 2 * 2 + c  # two groups of two channels, equal to the deformable groups
            group, point = channel // 2, i * 3 + j
            dy, dx = offset[b, group, point, :, row, column]
            sample = bilinear(features[b, channel], row * 2 - 1 + i + dy, column - 2 + j * 2 + dx)
            output[b, out, row, column] += weight[out, c, i, j] * mask[b, group, point, row, column] * sample
    return output


def test_deform_conv_matches_its_definition(extension, bilinear, geometry, deform_inputs):
    features, offset, mask, weight, bias = deform_inputs()
    expected = deform_conv_by_definition(bilinear, features, offset, mask, weight, bias)
    np.testing.assert_allclose(
        ops.modulated_deform_conv2d(features, offset, mask, weight, bias, *geometry.values()), expected, atol=1e-12
    )
    expected = deform_conv_by_definition(bilinear, features, offset, torch.ones_like(mask), weight, torch.zeros(4))
    np.testing.assert_allclose(ops.deform_conv2d(features, offset, weight, *geometry.values()), expected, atol=1e-12)


def test_deform_conv_with_whole_offsets_is_a_convolution(extension, geometry, deform_inputs):
    features, offset, mask, weight, bias = deform_inputs()
    plain_geometry = {key: value for key, value in geometry.items() if key != 'deform_groups'}
    plain = F.conv2d(features, weight, bias, **plain_geometry)
    zero, one = torch.zeros_like(offset), torch.ones_like(mask)
    torch.testing.assert_close(
        ops.modulated_deform_conv2d(features, zero, one, weight, bias, *geometry.values()), plain
    )
    shift = zero.view(2, -1, 2, 3, 6).clone()
    shift[:, :, 0], shift[:, :, 1] = 1, -2  # down by 1, left by 2: the map moves up by 1, right by 2
    shifted = ops.deform_conv2d(features, shift.view_as(offset), weight, *geometry.values())
    moved = F.pad(features, (2 + 2, 2 - 2, 1 - 1, 1 + 1))  # including the padding of the convolution
    torch.testing.assert_close(shifted, F.conv2d(moved, weight, **{**plain_geometry, 'padding': 0}))


def test_deform_conv_gradients(extension, geometry, deform_inputs):
    features, offset, mask, weight, bias = deform_inputs(batch=1, grad=True)
    geometry = tuple(geometry.values())
    assert gradcheck(lambda *t: ops.deform_conv2d(*t, *geometry), (features, offset, weight))
    inputs = (features, offset, mask, weight, bias)
    assert gradcheck(lambda *t: ops.modulated_deform_conv2d(*t, *geometry), inputs)
    assert gradcheck(lambda *t: ops.modulated_deform_conv2d(*t, None, *geometry), inputs[:4])


def test_deform_conv_weight_gradient_alone_and_repeated(extension, geometry, deform_inputs):
    features, offset, _, weight, _ = deform_inputs(grad=True)
    output = ops.deform_conv2d(features, offset, weight, *geometry.values())
    once, twice = torch.rand_like(output), torch.rand_like(output)
    first = torch.autograd.grad(output, (features, weight), once, retain_graph=True)[1]
    second = torch.autograd.grad(output, (features, weight), twice, retain_graph=True)[1]
    alone = ops.deform_conv2d(features.detach(), offset.detach(), weight, *geometry.values())
    torch.testing.assert_close(torch.autograd.grad(alone, weight, once, retain_graph=True)[0], first)
    torch.testing.assert_close(torch.autograd.grad(alone, weight, twice)[0], second)
    assert not torch.allclose(first, second)


def test_deform_conv_does_not_reuse_the_weight_gradient_of_another_pass(fallback, draw, deform_inputs):
    features, offset, _, weight, _ = deform_inputs()
    keys = ('kH', 'kW', *deform._V1, 'im2col_step')
    conv = dict(zip(keys, (2, 3, 2, 1, 1, 2, 1, 2, 2, 2, 2), strict=True))

    def to_weight(columns, grad):
        fallback.deform_conv_backward_parameters(
            features, offset, grad, out := weight.clone(), columns, None, 1, **conv
        )
        return out

    one, other, columns = draw(2, 4, 3, 6), draw(2, 4, 3, 6), torch.empty(0)
    scratch = torch.zeros_like(features), torch.zeros_like(offset)
    fallback.deform_conv_backward_input(features, offset, one, *scratch, weight, columns, **conv)
    torch.testing.assert_close(to_weight(columns, other), to_weight(torch.empty(0), other))
    fallback.deform_conv_backward_input(features, offset, one, *scratch, weight, columns, **conv)
    torch.testing.assert_close(to_weight(columns, one), to_weight(torch.empty(0), one))


def test_ms_deform_attn_matches_its_definition(fallback, bilinear, levels, attention_inputs):
    value, locations, weights = attention_inputs()
    shapes, starts = levels
    output = ms_deform_attn(value, shapes, starts, locations, weights, 64)
    torch.testing.assert_close(output, multi_scale_deformable_attn_pytorch(value, shapes, locations, weights))
    expected = np.zeros((2, 4, 2, 3))
    for b, query, head, level, point in np.ndindex(*weights.shape):
        height, width = shapes[level].tolist()
        maps = value[b, starts[level] :][: height * width, head].T.reshape(3, height, width).numpy()
        x, y = locations[b, query, head, level, point].tolist()
        weight = weights[b, query, head, level, point].item()
        expected[b, query, head] += [weight * bilinear(m, y * height - 0.5, x * width - 0.5) for m in maps]
    np.testing.assert_allclose(output, expected.reshape(2, 4, 6), atol=1e-12)


def test_ms_deform_attn_gradients(fallback, levels, attention_inputs):
    inputs = attention_inputs(grad=True)
    assert gradcheck(lambda v, loc, w: ms_deform_attn(v, *levels, loc, w, 64), inputs)
