"""RoIAlign and RoIPool.

RoIs are (K, 5): index of the image, x1, y1, x2, y2 in pixels of the image. Features are (B, C, H, W), `spatial_scale`
times the size of the image. Outputs and argmax are (K, C, h, w).
"""

from concurrent.futures import ThreadPoolExecutor

import torch

from repvit_dense.compat.mmcv_ops.op import Ops

ops = Ops()
tv = torch.ops.torchvision
WORTH_THREADS = 1 << 18  # elements; below, starting threads (2 ms) takes too large a part of the time


@ops.op(2, 3, 4)
def roi_align_forward(
    input, rois, output, y, x, aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned
):
    """Return the average (`pool_mode` 1) or maximum (0) of the bilinear samples per bin; `y`, `x` locate the maximum.

    The output is zero for a RoI of negative size, and for one of size zero if `sampling_ratio` is 0, which derives the
    number of samples from the size. mmcv's kernels differ there: zeros, the lowest float, or an error.
    """
    rois, size = rois.to(input.dtype), (aligned_height, aligned_width)
    if pool_mode == 0:
        return _roi_align_max(input, rois, size, spatial_scale, sampling_ratio, aligned)
    return tv.roi_align(input, rois, spatial_scale, *size, sampling_ratio, aligned), None, None


def _roi_align_max(input, rois, size, spatial_scale, sampling_ratio, aligned):
    """Return the maximum over the samples of a bin.

    torchvision averages samples, so it is called once per sample with the RoIs moved until that sample is the centre of
    their bins.
    """
    start = rois[:, 1:3] * spatial_scale - 0.5 * aligned  # (x, y) in pixels of the features, as all below
    extent = (rois[:, 3:] - rois[:, 1:3]) * spatial_scale
    extent = extent if aligned else extent.clamp(min=1)
    step = extent / rois.new_tensor(size[::-1])
    grid = torch.full_like(step, sampling_ratio) if sampling_ratio > 0 else step.ceil().clamp(min=0)
    columns, rows = grid.amax(dim=0).int().tolist() if len(rois) else (0, 0)

    best = input.new_full((len(rois), input.shape[1], *size), -torch.inf)
    chosen = torch.full_like(best, -1, dtype=torch.long)
    for sample in range(columns * rows):
        at = rois.new_tensor((sample % columns, sample // columns)) + 0.5
        active = (grid > at).all(dim=1).nonzero()[:, 0]
        corner = (start + step * (at / grid - 0.5) + 0.5)[active]  # torchvision subtracts the 0.5
        moved = torch.cat((rois[active, :1], corner, corner + extent[active]), dim=1)
        value, so_far = tv.roi_align(input, moved, 1.0, *size, 1, True), best[active]
        chosen[active] = torch.where(value > so_far, sample, chosen[active])
        best[active] = torch.maximum(value, so_far)

    none, columns = chosen < 0, max(columns, 1)
    argmax = []
    for axis, index in ((1, chosen // columns), (0, chosen % columns)):
        bins = torch.arange(size[1 - axis], device=rois.device).view((1, 1, -1, 1) if axis else (1, 1, 1, -1))
        first, length, samples = (values[:, axis, None, None, None] for values in (start, step, grid))
        argmax.append((first + (bins + (index + 0.5) / samples) * length).masked_fill(none, -1))
    return best.masked_fill(none, 0), *argmax


@ops.op(4)
def roi_align_backward(
    grad, rois, y, x, d_input, aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned
):
    """Return the gradient with respect to the features."""
    rois, shape = rois.to(grad.dtype), d_input.shape
    if pool_mode == 0:
        return _scatter_bilinear(grad, rois, y, x, shape)

    def backward(channels):
        sizes = aligned_height, aligned_width, shape[0], channels.shape[1], *shape[2:]
        return tv._roi_align_backward(channels, rois, spatial_scale, *sizes, sampling_ratio, aligned)

    return _threaded(backward, grad)


def _threaded(function, x):
    """Return `function(x)`, computed per chunk of channels: on a CPU torchvision itself uses one thread."""
    threads = torch.get_num_threads() if x.is_cpu and x.numel() >= WORTH_THREADS else 1
    if threads == 1:
        return function(x)
    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(function, x.chunk(threads, dim=1))), dim=1)


def _scatter_bilinear(grad, rois, y, x, shape):
    """Add each element of `grad` to the four pixels around its (y, x); y = x = -1 means that there was no sample."""
    height, width = shape[2:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width) & ((y != -1) | (x != -1))
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    total = 0
    for row, vertical in ((top, 1 - y + top), ((top + 1).clamp(max=height - 1), y - top)):
        for column, horizontal in ((left, 1 - x + left), ((left + 1).clamp(max=width - 1), x - left)):
            pixel = row.long() * width + column.long()
            total = total + _scatter(grad * inside * vertical * horizontal, rois, pixel, shape)
    return total


def _scatter(grad, rois, pixel, shape):
    """Add each element of `grad` (K, C, h, w) to a pixel (row * W + column) of its image and channel."""
    batch, channels, height, width = shape
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    index = plane[:, :, None, None] * (height * width) + pixel
    return grad.new_zeros(shape.numel()).index_add_(0, index.flatten(), grad.flatten()).view(shape)


@ops.op(2, 3)
def roi_pool_forward(input, rois, output, argmax, pooled_height, pooled_width, spatial_scale):
    """Return the maximum over the pixels that a bin touches, and its position row * W + column.

    An empty bin has output 0 and position -1. Unlike in torchvision, corners are not rounded and the pixels at x2, y2
    belong to the RoI: each bin is therefore passed to torchvision as a RoI of one bin.
    """
    start = (rois[:, 1:3] * spatial_scale).to(input.dtype)
    extent = ((rois[:, 3:] + 1) * spatial_scale).to(input.dtype) - start
    edges = []
    for axis, bins in ((0, pooled_width), (1, pooled_height)):
        first, step = start[:, axis, None], extent[:, axis, None] / bins
        index, limit = torch.arange(bins, device=rois.device), input.shape[3 - axis]
        edges += [(index * step + first).floor().clamp(0, limit), ((index + 1) * step + first).ceil().clamp(0, limit)]
    left, right, top, bottom = (e[:, :, None] if i > 1 else e[:, None] for i, e in enumerate(edges))
    empty = (right <= left) | (bottom <= top) | (extent <= 0).any(dim=1)[:, None, None]

    image = rois[:, 0, None, None].to(input.dtype)
    boxes = torch.stack(torch.broadcast_tensors(image, left, top, right - 1, bottom - 1), dim=-1)
    pooled = tv.roi_pool(input, boxes.reshape(-1, 5), 1.0, 1, 1)
    output, argmax = (p.view(*empty.shape, input.shape[1]).permute(0, 3, 1, 2) for p in pooled)
    return output.masked_fill(empty[:, None], 0), argmax.masked_fill(empty[:, None], -1)


@ops.op(3)
def roi_pool_backward(grad, rois, argmax, d_input, pooled_height, pooled_width, spatial_scale):
    """Return the gradient with respect to the features."""
    return _scatter(grad * (argmax >= 0), rois, argmax.clamp(min=0).long(), d_input.shape)
