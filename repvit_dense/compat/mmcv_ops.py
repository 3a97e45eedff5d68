"""`mmcv._ext` without a compiler: the ops that detectors and segmentors use, on torchvision and torch.

mmcv calls its compiled ops through one extension module; where that was never built, `import mmcv.ops` fails with "No
module named 'mmcv._ext'". :func:`install` makes the module importable: a finder at the end of ``sys.meta_path`` answers
for that one name. Python asks it only after its own finders found no file, so a compiled extension wins.

Each op below has the name, argument order and keywords of mmcv's, runs on any device and gives mmcv's numbers; where
mmcv's CPU and CUDA kernels disagree, or read out of bounds, the docstring says which answer is given here. An op that
is not here raises NotImplementedError when it is *called*: importing and building models never fails because of it.

torch is imported with the first op that runs: `import repvit_dense` calls :func:`install` and has to be fast.
"""

import functools
import sys
from importlib.machinery import ModuleSpec
from multiprocessing import process

EXTENSION = 'mmcv._ext'
_WORTH_THREADS = 1 << 18  # elements from which starting them, some 2 ms, is a small part
# The two that mmcv's environment report asks; the second answers as an extension compiled without CUDA does.
_OPS = {
    'get_compiler_version': lambda: "none (torchvision's ops)",
    'get_compiling_cuda_version': lambda: 'not available',
}


# --- Import machinery -------------------------------------------------------------------------------------------------


def install():
    """Make `mmcv._ext` importable here and in every process started from here. Calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
    # A spawned worker starts with a bare interpreter and unpickles its arguments (a dataset, say, whose import pulls in
    # mmdet, mmcv.ops and so mmcv._ext) before any code of ours would run; nothing says that the main module imports us.
    # But `_config` is copied from process to child, and pickled with the Process object ahead of its arguments:
    # unpickling our entry runs install() in time. A forked child has the finder anyway and never pickles the entry.
    process.current_process()._config.setdefault('repvit_dense', _InstallInChild())


class _InstallInChild:
    """Unpickling an instance calls :func:`install`; the instance itself stays for the children's children."""

    def __reduce__(self):
        return _installed, ()


def _installed():
    install()
    return _InstallInChild()


class _Finder:
    """Finds and loads `mmcv._ext`. Python imports the parent, mmcv, before it: without mmcv that fails as ever."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, origin=__name__) if name == EXTENSION else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__doc__ = "Stands in for mmcv's compiled extension, see repvit_dense.compat.mmcv_ops."
        module.__dict__.update(_OPS, __getattr__=_missing_op)


def _missing_op(name):
    # No op of mmcv starts with an underscore, while inspect, pickle, doctest and IPython probe for many such names.
    if name.startswith('_'):
        raise AttributeError(f"module '{EXTENSION}' has no attribute '{name}'")
    return functools.partial(_no_fallback, name)


def _no_fallback(name, *args, **kwargs):
    raise NotImplementedError(
        f"mmcv's op '{name}' has no fallback: it needs mmcv's compiled extension. `make compiled-ops` compiles it."
    )


def _op(*outputs):
    """Register the decorated function as an op of the extension.

    Args:
        outputs: positions of the arguments that mmcv allocates and expects to be filled.

    The function returns one value per output, None leaving it as it is; what it returns beyond that goes to the caller.
    It gets half and bfloat16 tensors as float32: torchvision's kernels lack those types on the CPU. Below, an output
    ``d_x`` is the gradient with respect to x; ``columns`` and ``ones`` are scratch space of mmcv's kernels.
    """

    def register(function):
        def fill(*args, **kwargs):
            inputs = [arg if i in outputs else _widen(arg) for i, arg in enumerate(args)]
            results = function(*inputs, **{key: _widen(value) for key, value in kwargs.items()})
            results = results if isinstance(results, tuple) else (results,)
            for i, result in zip(outputs, results, strict=False):
                if result is not None:
                    args[i].copy_(result)
            if len(results) == len(outputs):
                return None
            returned = results[-1]
            floating = isinstance(returned, torch.Tensor) and returned.is_floating_point()
            return returned.to(args[0].dtype) if floating else returned

        opaque = None

        @functools.wraps(function)
        def call(*args, **kwargs):
            nonlocal opaque
            if opaque is None:
                _import_torch()
                # To torch.compile the op is as opaque as a compiled one. Where it traced through mmcv's autograd
                # Functions into what fills their outputs, the gradients were silently wrong (torch 2.11).
                opaque = torch.compiler.disable(fill)
            return opaque(*args, **kwargs)

        _OPS[function.__name__] = call
        return call

    return register


def _import_torch():
    """Wait for the first op that runs: torchvision takes seconds, and segmentors or DataLoader workers run none."""
    global F, ThreadPoolExecutor, np, torch, tv
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch
    import torch.nn.functional as F
    import torchvision  # noqa: F401 (registers the ops)

    tv = torch.ops.torchvision


def _widen(value):
    low = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if low else value


# --- Boxes ------------------------------------------------------------------------------------------------------------


@_op()
def nms(boxes, scores, iou_threshold, offset):
    """Indices of the boxes (N, 4) that survive, by falling score. ``offset`` 1 counts x2 and y2 as inside the box."""
    if offset:
        # (x2 - x1 + 1) is the width of the box whose right edge is x2 + 1, and the same holds for intersections.
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    # mmcv takes the threshold as a C float, torchvision as a double: an IoU of 0.6 in float32 is above the double 0.6.
    return tv.nms(boxes, scores.to(boxes.dtype), float(np.float32(iou_threshold)))


@_op(2)
def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Fill ``dets`` (N, 5) with boxes and decayed scores in order of selection; return the indices of the selected.

    ``method``: 0 drops overlapping boxes, 1 weights them with 1 - IoU, 2 with a Gaussian of the IoU.
    """
    areas = _areas(boxes, offset)
    rows = torch.cat((boxes, scores.to(boxes.dtype)[:, None], areas[:, None]), dim=1).detach().cpu().numpy()
    index, count, i = np.arange(len(rows)), len(rows), 0
    while i < count:
        best = i + rows[i:count, 4].argmax()
        rows[[i, best]], index[[i, best]] = rows[[best, i]], index[[best, i]]
        rest, rest_index = rows[i + 1 : count], index[i + 1 : count]  # views: what follows changes rows and index
        rest[:, 4] *= _decay(_iou_with_first(rows[i], rest, offset), method, iou_threshold, sigma)
        # As mmcv does, fill the gap of a dropped box with the last box still there: equal scores are taken in the order
        # of the rows, so another way of closing gaps would select other boxes.
        keep = ~(rest[:, 4] < min_score)
        kept = int(keep.sum())
        gaps, last = np.flatnonzero(~keep[:kept]), kept + np.flatnonzero(keep[kept:])[::-1]
        rest[gaps], rest_index[gaps] = rest[last], rest_index[last]
        i, count = i + 1, i + 1 + kept
    return torch.from_numpy(rows[:, :5]), torch.from_numpy(index[:count]).to(boxes.device)


def _decay(iou, method, iou_threshold, sigma):
    if method == 2:
        return np.exp(-(iou * iou) / sigma)
    return np.where(iou >= iou_threshold, 1 - iou if method == 1 else 0, 1).astype(iou.dtype)


def _areas(boxes, offset):
    return (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)


def _iou_with_first(first, rest, offset):
    """IoU of one row with others; rows are NumPy (x1, y1, x2, y2, score, area). Two boxes without area give NaN."""
    sides = np.minimum(first[2:4], rest[:, 2:4]) - np.maximum(first[:2], rest[:, :2]) + offset
    overlap = sides.clip(min=0).prod(axis=1)
    with np.errstate(invalid='ignore'):
        return overlap / (first[5] + rest[:, 5] - overlap)


@_op()
def nms_match(dets, iou_threshold):
    """Groups of indices into ``dets`` (N, 5): a kept box, then those it suppresses (IoU >= threshold), by score."""
    order = dets[:, 4].sort(descending=True, stable=True).indices.cpu().numpy()
    rows = torch.cat((dets, _areas(dets, 0)[:, None]), dim=1).detach().cpu().numpy()
    groups = []
    while len(order):
        first, order = order[0], order[1:]
        matched = _iou_with_first(rows[first], rows[order], 0) >= np.float32(iou_threshold)
        groups.append([int(first), *order[matched].tolist()])
        order = order[~matched]
    return groups


@_op(2)
def bbox_overlaps(boxes1, boxes2, ious, mode, aligned, offset):
    """IoU (N, M), or (N,) where ``aligned``; with ``mode`` 1 the overlap divided by the area of ``boxes1``."""
    areas1, areas2 = _areas(boxes1, offset), _areas(boxes2, offset)
    if not aligned:
        boxes1, areas1 = boxes1[:, None], areas1[:, None]
    sides = torch.minimum(boxes1[..., 2:], boxes2[:, 2:]) - torch.maximum(boxes1[..., :2], boxes2[:, :2]) + offset
    overlap = sides[..., 0].clamp(min=0) * sides[..., 1].clamp(min=0)
    return overlap / (areas1 if mode else areas1 + areas2 - overlap)


# --- RoI pooling ------------------------------------------------------------------------------------------------------
# RoIs are (K, 5): index of the image, x1, y1, x2, y2 in pixels of the image; features are (B, C, H, W) and
# ``spatial_scale`` times as large. Outputs and argmax are (K, C, h, w).


@_op(2, 3, 4)
def roi_align_forward(
    input, rois, output, y, x, aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned
):
    """Average (``pool_mode`` 1) or maximum (0) of bilinear samples per bin; ``y`` and ``x`` are where the maximum is.

    A RoI of negative size, or of none where the size decides how many samples are taken, gives zeros; of mmcv's kernels
    one gives zeros, one the lowest float, one an error.
    """
    rois, size = rois.to(input.dtype), (aligned_height, aligned_width)
    if pool_mode == 0:
        return _roi_align_max(input, rois, size, spatial_scale, sampling_ratio, aligned)
    return tv.roi_align(input, rois, spatial_scale, *size, sampling_ratio, aligned), None, None


def _roi_align_max(input, rois, size, spatial_scale, sampling_ratio, aligned):
    """Maximum over the samples of a bin, one sample per call: the RoIs move so that it is the centre of their bins."""
    start = rois[:, 1:3] * spatial_scale - 0.5 * aligned  # everything here is (x, y) in pixels of the features
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
        corner = (start + step * (at / grid - 0.5) + 0.5)[active]  # torchvision takes the last half off again
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


@_op(4)
def roi_align_backward(
    grad, rois, y, x, d_input, aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned
):
    """Gradient with respect to the features."""
    rois, shape = rois.to(grad.dtype), d_input.shape
    if pool_mode == 0:
        return _scatter_bilinear(grad, rois, y, x, shape)

    def of(channels):
        sizes = aligned_height, aligned_width, shape[0], channels.shape[1], *shape[2:]
        return tv._roi_align_backward(channels, rois, spatial_scale, *sizes, sampling_ratio, aligned)

    return _threaded(of, grad)


def _threaded(function, x):
    """``function(x)``, channel by channel; on a CPU, where torchvision takes one thread, on as many as torch has."""
    threads = torch.get_num_threads() if x.is_cpu and x.numel() >= _WORTH_THREADS else 1
    if threads == 1:
        return function(x)
    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(function, x.chunk(threads, dim=1))), dim=1)


def _scatter_bilinear(grad, rois, y, x, shape):
    """Add each element of ``grad`` to the four pixels around its (y, x); both -1: no sample was taken."""
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
    """Add each element of ``grad`` (K, C, h, w) to a pixel (row * W + column) of its image and channel."""
    batch, channels, height, width = shape
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    index = plane[:, :, None, None] * (height * width) + pixel
    return grad.new_zeros(shape.numel()).index_add_(0, index.flatten(), grad.flatten()).view(shape)


@_op(2, 3)
def roi_pool_forward(input, rois, output, argmax, pooled_height, pooled_width, spatial_scale):
    """Maximum over the pixels that a bin touches; argmax is row * W + column, -1 in an empty bin, whose output is 0.

    Corners are not rounded and x2, y2 count as inside, unlike torchvision's: here every bin is one of its RoIs.
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


@_op(3)
def roi_pool_backward(grad, rois, argmax, d_input, pooled_height, pooled_width, spatial_scale):
    """Gradient with respect to the features."""
    return _scatter(grad * (argmax >= 0), rois, argmax.clamp(min=0).long(), d_input.shape)


# --- Deformable convolution and attention -----------------------------------------------------------------------------
# torchvision orders offsets as mmcv does: per deformable group and kernel point y, then x. Its operators want a mask
# and a bias even where there is none; the last argument says whether the mask counts.

_V1 = ('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW', 'group', 'deformable_group')
_V2 = ('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w', 'group', 'deformable_group')


def _plain(input, weight, offset):
    return input, weight, offset, input.new_zeros(len(input), 1), input.new_zeros(len(weight))


@_op(3)
def deform_conv_forward(input, weight, offset, output, columns, ones, **conv):
    """Version 1: without mask and bias."""
    return tv.deform_conv2d(*_plain(input, weight, offset), *(conv[key] for key in _V1), False)


@_op(3, 4)
def deform_conv_backward_input(input, offset, grad, d_input, d_offset, weight, columns, **conv):
    """Gradients with respect to features and offsets."""
    to_input, to_weight, to_offset = _deform_conv_backward(input, offset, grad, weight, conv)
    # torchvision computes all gradients at once. The one for the weight waits at the scratch space, which mmcv hands to
    # deform_conv_backward_parameters next.
    columns.left_over = grad, to_weight
    return to_input, to_offset


@_op(3)
def deform_conv_backward_parameters(input, offset, grad, d_weight, columns, ones, scale, **conv):
    """``scale`` times the gradient with respect to the weight."""
    of, to_weight = columns.__dict__.pop('left_over', (None, None))
    if of is not grad:
        to_weight = _deform_conv_backward(input, offset, grad, torch.zeros_like(d_weight), conv)[1]
    return scale * to_weight


def _deform_conv_backward(input, offset, grad, weight, conv):
    inputs = _plain(input, weight.to(input.dtype), offset)
    return tv._deform_conv2d_backward(grad, *inputs, *(conv[key] for key in _V1), False)[:3]


@_op(6)
def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask, output, columns, with_bias, **conv):
    """Version 2: every sample is weighted by ``mask`` (B, groups * kernel points, H, W)."""
    bias = bias if with_bias else input.new_zeros(len(weight))
    return tv.deform_conv2d(input, weight, offset, mask, bias, *(conv[key] for key in _V2), True)


@_op(7, 8, 9, 10, 11)
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
    """Gradients with respect to all five inputs; the bias only where there is one."""
    bias = bias if with_bias else input.new_zeros(len(weight))
    geometry = (conv[key] for key in _V2)
    inputs = input, weight, offset, mask, bias
    to_input, to_weight, to_offset, to_mask, to_bias = tv._deform_conv2d_backward(grad, *inputs, *geometry, True)
    return to_input, to_weight, to_bias if with_bias else None, to_offset, to_mask


@_op()
def ms_deform_attn_forward(value, spatial_shapes, level_start_index, locations, weights, im2col_step):
    """Multi-scale deformable attention.

    Args:
        value: (B, keys, heads, dims); level by level the rows of a map, (height, width) as in ``spatial_shapes``.
        locations: (B, queries, heads, levels, points, 2) as (x, y) from 0 to 1 on the map.
        weights: (B, queries, heads, levels, points).

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


@_op(6, 7, 8)
def ms_deform_attn_backward(
    value, spatial_shapes, level_start_index, locations, weights, grad, d_value, d_locations, d_weights, im2col_step
):
    """Gradients with respect to value, locations and weights."""
    with torch.enable_grad():
        value, locations, weights = (t.detach().requires_grad_() for t in (value, locations, weights))
        output = ms_deform_attn_forward(value, spatial_shapes, level_start_index, locations, weights, im2col_step)
        return torch.autograd.grad(output, (value, locations, weights), grad)


# --- Focal losses -----------------------------------------------------------------------------------------------------
# Logarithms stop at the smallest normal float32, as mmcv's do. Targets are class indices; a class of no entry in
# ``weight`` (mmcv would read past its end) has weight 1.


def _log(probability):
    return probability.clamp(min=torch.finfo(torch.float32).tiny).log()


def _class_weight(weight, target):
    if weight.numel() == 0:
        return 1
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight[target.clamp(0, len(weight) - 1)], 1)


def _sigmoid_focal(input, target, weight, alpha, positive, negative):
    is_class = target[:, None] == torch.arange(input.shape[1], device=input.device)
    loss = torch.where(is_class, -alpha * positive, -(1 - alpha) * negative)
    return loss * _class_weight(weight, target[:, None])


@_op(3)
def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """Loss (N, C) of logits (N, C); a target that is no class (C, or negative) is background: a negative for all."""
    p = input.sigmoid()
    return _sigmoid_focal(input, target, weight, alpha, (1 - p) ** gamma * _log(p), p**gamma * _log(1 - p))


@_op(3)
def sigmoid_focal_loss_backward(input, target, weight, d_input, gamma, alpha):
    """Derivative of each loss with respect to its logit."""
    p = input.sigmoid()
    positive = (1 - p) ** gamma * (1 - p - gamma * p * _log(p))
    negative = p**gamma * (gamma * (1 - p) * _log(1 - p) - p)
    return _sigmoid_focal(input, target, weight, alpha, positive, negative)


def _softmax_focal(softmax, target, weight, alpha, loss_of):
    """``loss_of`` the probability of the target class; 0 where the target is no class."""
    known = (target >= 0) & (target < softmax.shape[1])
    p = softmax.gather(1, target.clamp(0, softmax.shape[1] - 1)[:, None])[:, 0]
    return torch.where(known, -alpha * loss_of(p) * _class_weight(weight, target), 0)


@_op(3)
def softmax_focal_loss_forward(softmax, target, weight, output, gamma, alpha):
    """Loss (N,) of probabilities (N, C)."""
    return _softmax_focal(softmax, target, weight, alpha, lambda p: (1 - p) ** gamma * _log(p))


@_op(4)
def softmax_focal_loss_backward(softmax, target, weight, buff, d_input, gamma, alpha):
    """Derivative of the loss with respect to the logits (N, C) behind ``softmax``; ``buff`` is scratch space."""

    def slope_of(p):
        return (1 - p) ** gamma - gamma * (1 - p) ** (gamma - 1) * p * _log(p)

    slope = _softmax_focal(softmax, target, weight, alpha, slope_of)
    is_target = target[:, None] == torch.arange(softmax.shape[1], device=softmax.device)
    return slope[:, None] * (is_target.to(softmax.dtype) - softmax)
