"""Deformable convolution and attention, against loops over output elements."""

import mmcv.ops as ops
import numpy as np
import pytest
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


def test_offsets_of_points_one_pixel_outside_have_no_gradient(extension, geometry, deform_inputs):
    """The points of a convolution with padding 1 and offset 0 are at -1 in the first row and column."""
    features, offset, mask, weight, bias = deform_inputs(grad=True)
    at_border = torch.zeros_like(offset).requires_grad_()
    inside = torch.full_like(offset, 1e-6).requires_grad_()
    for run in (
        lambda shift: ops.modulated_deform_conv2d(features, shift, mask, weight, bias, *geometry.values()),
        lambda shift: ops.deform_conv2d(features, shift, weight, *geometry.values()),
    ):
        exact, near = (torch.autograd.grad(run(shift).sum(), shift)[0] for shift in (at_border, inside))
        exact, near = (part.view(2, 2, 2, 3, 2, 3, 6) for part in (exact, near))
        rows, columns = torch.arange(3)[:, None] * 2 - 1, torch.arange(6)[:, None] - 2
        outside = (rows[None, :, 0] + torch.arange(2)[:, None] == -1)[:, None, :, None]
        outside = outside | (columns[None, :, 0] + 2 * torch.arange(3)[:, None] == -1)[None, :, None, :]
        outside = outside[None, None, :, :, None].expand_as(exact)
        assert (exact[outside] == 0).all() and (near[outside] != 0).any()
        torch.testing.assert_close(exact[~outside], near[~outside], rtol=1e-4, atol=1e-4)


def test_the_offset_gradient_of_a_sum(extension):
    """Sum of a 2 x 2 kernel of ones over rows 1, 2, 3, padding 1: differences of neighbours, by hand."""
    features = torch.tensor([1.0, 2.0, 3.0]).double().expand(1, 1, 3, 3)
    offset = torch.zeros(1, 8, 4, 4).double().requires_grad_()
    mask, weight = torch.ones(1, 4, 4, 4).double(), torch.ones(1, 1, 2, 2).double()
    ops.modulated_deform_conv2d(features, offset, mask, weight, None, 1, 1).sum().backward()
    gradient = offset.grad.view(2, 2, 2, 4, 4)  # kernel row and column, (y, x), output row and column
    # The lower right point of output (r, c) is pixel (r, c): the right neighbour minus itself, 0 beyond the map.
    right = torch.tensor([1.0, 1.0, -3.0, 0.0])
    assert gradient[1, 1, 1].tolist() == [right.tolist()] * 3 + [[0.0] * 4]
    # The upper left one is pixel (r - 1, c - 1); those of the first row and column are at -1.
    assert gradient[0, 0, 1].tolist() == [[0.0] * 4] + [[0.0, *right[:3].tolist()]] * 3
    assert gradient[0, 0, 0].tolist() == [[0.0] * 4] * 3 + [[0.0, -1.0, -2.0, -3.0]]


def test_maps_larger_than_the_output_are_read_value_by_value(extension, geometry, deform_inputs, draw):
    features, offset, mask, weight, bias = deform_inputs(grad=True)
    large = [torch.cat((p.flatten(1), draw(2, p.shape[1] * (5 * 8 - 3 * 6))), 1) for p in (offset, mask)]
    large = [p.view(2, -1, 5, 8).detach().requires_grad_() for p in large]
    inputs = (features, weight, bias)
    results = []
    for maps in ((offset, mask), large):
        output = ops.modulated_deform_conv2d(features, *maps, weight, bias, *geometry.values())
        results.append((output, *torch.autograd.grad((output**2).sum(), (*inputs, *maps))))
    for small, big in zip(*(result[:4] for result in results), strict=True):
        torch.testing.assert_close(big, small)
    for small, big in zip(*(result[4:] for result in results), strict=True):
        values = big.flatten(1)
        torch.testing.assert_close(values[:, : small[0].numel()], small.flatten(1))
        assert (values[:, small[0].numel() :] == 0).all()


def test_maps_smaller_than_the_output_are_refused(fallback, geometry, deform_inputs):
    features, offset, mask, weight, bias = deform_inputs()
    with pytest.raises(ValueError, match='smaller than the output'):
        ops.modulated_deform_conv2d(features, offset[..., 1:], mask, weight, bias, *geometry.values())


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


def test_locations_one_pixel_outside_have_no_gradient(fallback, draw):
    value, shapes, starts = draw(1, 8, 1, 2), torch.tensor([[2, 4]]), torch.tensor([0])
    at = torch.tensor([[-0.125, 0.5], [0.5, -0.25], [-0.1, 0.5], [0.5, 0.5]]).double()  # x W - 0.5 = -1, then y
    locations = at.view(1, 4, 1, 1, 1, 2).requires_grad_()
    ms_deform_attn(value, shapes, starts, locations, torch.ones(1, 4, 1, 1, 1).double(), 64).sum().backward()
    assert locations.grad.flatten(0, -2).any(1).tolist() == [False, False, True, True]


def test_ms_deform_attn_gradients(fallback, levels, attention_inputs):
    inputs = attention_inputs(grad=True)
    assert gradcheck(lambda v, loc, w: ms_deform_attn(v, *levels, loc, w, 64), inputs)


def test_dyhead_runs_on_levels_of_even_and_odd_size(fallback):
    """It gives the offsets of a level to a convolution on the next coarser one."""
    from mmdet.models.necks import DyHead

    torch.manual_seed(0)
    head = DyHead(16, 16, num_blocks=1)
    head.init_weights()
    levels = [torch.rand(2, 16, *size).requires_grad_() for size in ((10, 13), (5, 7), (3, 4))]
    outputs = head(levels)
    assert [output.shape[2:] for output in outputs] == [level.shape[2:] for level in levels]
    sum(output.sum() for output in outputs).backward()
    assert all(level.grad.isfinite().all() and level.grad.any() for level in levels)
