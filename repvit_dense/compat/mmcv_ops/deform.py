"""Deformable convolution, versions 1 and 2, and multi-scale deformable attention.

A sampling point exactly at -1, one pixel outside the map, has value 0. mmcv gives its position the gradient 0, although
the derivative from inside is not 0, and so do these functions.
"""

import torch
import torch.nn.functional as F

from repvit_dense.compat.mmcv_ops.op import Ops

ops = Ops()
tv = torch.ops.torchvision


# torchvision orders offsets as mmcv does: per deformable group and kernel point y, then x. Its operators require a mask
# and a bias even for version 1; their last argument says whether the mask is used.
_V1 = ('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW', 'group', 'deformable_group')
_V2 = ('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w', 'group', 'deformable_group')


def _plain(input, weight, offset):
    """Return the tensors of a convolution without mask and bias, as torchvision expects them."""
    return input, weight, offset, input.new_zeros(len(input), 1), input.new_zeros(len(weight))


@ops.op(3)
def deform_conv_forward(input, weight, offset, output, columns, ones, **conv):
    """Return the output of version 1, without mask and bias."""
    return tv.deform_conv2d(*_plain(input, weight, offset), *(conv[key] for key in _V1), False)


@ops.op(3, 4)
def deform_conv_backward_input(input, offset, grad, d_input, d_offset, weight, columns, **conv):
    """Return the gradients with respect to features and offsets."""
    to_input, to_weight, to_offset = _deform_conv_backward(input, offset, grad, weight, conv)
    # torchvision computes all gradients at once. The gradient of the weight is stored at the scratch space, which mmcv
    # passes to deform_conv_backward_parameters next.
    columns.weight_gradient = grad, to_weight
    return to_input, to_offset


@ops.op(3)
def deform_conv_backward_parameters(input, offset, grad, d_weight, columns, ones, scale, **conv):
    """Return `scale` times the gradient with respect to the weight."""
    stored_for, to_weight = columns.__dict__.pop('weight_gradient', (None, None))
    if stored_for is not grad:
        to_weight = _deform_conv_backward(input, offset, grad, torch.zeros_like(d_weight), conv)[1]
    return scale * to_weight


def _deform_conv_backward(input, offset, grad, weight, conv):
    inputs, geometry = _plain(input, weight.to(input.dtype), offset), [conv[key] for key in _V1]
    to_input, to_weight, to_offset, *_ = tv._deform_conv2d_backward(grad, *inputs, *geometry, False)
    return to_input, to_weight, _zero_outside(to_offset, offset, weight, *geometry[:6])


def _zero_outside(to_offset, offset, weight, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w):
    """Return the gradient of the offsets with zeros for points whose row or column is exactly -1."""
    kernel, size = weight.shape[2:], offset.shape[2:]
    points = offset.view(len(offset), -1, *kernel, 2, *size)
    outside = False
    geometry = (stride_h, pad_h, dilation_h), (stride_w, pad_w, dilation_w)
    for axis, (stride, pad, dilation) in enumerate(geometry):
        output, tap = (torch.arange(sides[axis], device=offset.device) for sides in (size, kernel))
        start = tap[:, None] * dilation + output * stride - pad  # (kernel side, output side)
        start = start[:, None, :, None] if axis == 0 else start[:, None, :]
        outside = outside | (points[..., axis, :, :] + start == -1)
    return torch.where(outside[..., None, :, :], 0, to_offset.view_as(points)).view_as(offset)


@ops.op(6)
def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask, output, columns, with_bias, **conv):
    """Return the output of version 2: each sample is weighted by `mask` (B, groups * kernel points, H, W).

    The maps of offsets and masks may be larger than the output, as DyHead makes them; see `_first_values`.
    """
    bias = bias if with_bias else input.new_zeros(len(weight))
    offset, mask = (_first_values(maps, output.shape[2:]) for maps in (offset, mask))
    return tv.deform_conv2d(input, weight, offset, mask, bias, *(conv[key] for key in _V2), True)


@ops.op(7, 8, 9, 10, 11)
def modulated_deform_conv_backward(
    input,
    weight,
    bias,
    ones,
    offset,
    mask,
    columns,
    d_input,
    d_weight,
    d_bias,
    d_offset,
    d_mask,
    grad,
    with_bias,
    **conv,
):
    """Return the gradients with respect to features, weight, bias (None without a bias), offsets and mask."""
    bias = bias if with_bias else input.new_zeros(len(weight))
    geometry = [conv[key] for key in _V2]
    read = [_first_values(maps, grad.shape[2:]) for maps in (offset, mask)]
    inputs = input, weight, *read, bias
    to_input, to_weight, to_offset, to_mask, to_bias = tv._deform_conv2d_backward(grad, *inputs, *geometry, True)
    to_offset = _zero_outside(to_offset, read[0], weight, *geometry[:6])
    # The values that were not read have no gradient.
    to_offset, to_mask = (
        F.pad(part.flatten(1), (0, maps[0].numel() - part[0].numel())).view_as(maps)
        for part, maps in ((to_offset, offset), (to_mask, mask))
    )
    return to_input, to_weight, to_bias if with_bias else None, to_offset, to_mask


def _first_values(maps, size):
    """Return maps (B, C, H, W) of another size (h, w) as mmcv's kernels read them: the first C * h * w values.

    DyHead passes the offsets of one level to a convolution on the next coarser one, and its published weights were
    trained that way.

    Raises:
        ValueError: there are fewer values; mmcv reads past their end.
    """
    if maps.shape[2:] == size:
        return maps
    count = maps.shape[1] * size.numel()
    if maps[0].numel() < count:
        raise ValueError(f'offsets and masks are {tuple(maps.shape[2:])}, smaller than the output {tuple(size)}')
    return maps.flatten(1)[:, :count].view(len(maps), -1, *size)


@ops.op()
def ms_deform_attn_forward(value, spatial_shapes, level_start_index, locations, weights, im2col_step):
    """Compute multi-scale deformable attention (arXiv 2010.04159, equation 3).

    Args:
        value: (B, keys, heads, dims). The keys are the pixels of all levels, level by level and row by row.
        spatial_shapes: (levels, 2), height and width of each level.
        level_start_index: (levels,), index of the first key of each level.
        locations: (B, queries, heads, levels, points, 2) as (x, y) from 0 to 1 on the map.
        weights: (B, queries, heads, levels, points).
        im2col_step: ignored.

    Returns:
        (B, queries, heads * dims).
    """
    batch, _, heads, dims = value.shape
    total = 0
    levels = zip(spatial_shapes.tolist(), level_start_index.tolist(), strict=True)
    for level, ((height, width), start) in enumerate(levels):
        plane = value[:, start : start + height * width].permute(0, 2, 3, 1).reshape(-1, dims, height, width)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]
        samples = F.grid_sample(plane, grid, padding_mode='zeros', align_corners=False)
        total = total + (samples * weight).sum(dim=-1)  # (B * heads, dims, queries)
    return total.view(batch, heads * dims, -1).transpose(1, 2).contiguous()


@ops.op(6, 7, 8)
def ms_deform_attn_backward(
    value, spatial_shapes, level_start_index, locations, weights, grad, d_value, d_locations, d_weights, im2col_step
):
    """Return the gradients with respect to value, locations and weights."""
    with torch.enable_grad():
        value, locations, weights = (t.detach().requires_grad_() for t in (value, locations, weights))
        output = ms_deform_attn_forward(value, spatial_shapes, level_start_index, locations, weights, im2col_step)
        to_value, to_locations, to_weights = torch.autograd.grad(output, (value, locations, weights), grad)
    sides = spatial_shapes.flip(1)[:, None].to(locations.dtype)  # width, height
    outside = (locations * sides - 0.5 == -1).any(-1, keepdim=True)
    return to_value, to_locations.masked_fill(outside, 0), to_weights
