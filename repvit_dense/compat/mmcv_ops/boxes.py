"""NMS, soft NMS, and overlaps of boxes."""

import numpy as np
import torch

from repvit_dense.compat.mmcv_ops.op import Ops

ops = Ops()
tv = torch.ops.torchvision


@ops.op()
def nms(boxes, scores, iou_threshold, offset):
    """Return the indices of the boxes (N, 4) that survive, by descending score.

    With `offset` 1 the pixels at x2 and y2 belong to the box.
    """
    if offset:
        # A box has width x2 - x1 + 1 under this convention: that of a box with right edge x2 + 1 under the other one.
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    # mmcv takes the threshold as a C float, torchvision as a double: an IoU of 0.6 in float32 is above the double 0.6.
    return tv.nms(boxes, scores.to(boxes.dtype), float(np.float32(iou_threshold)))


@ops.op(2)
def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Fill `dets` (N, 5) with boxes and decayed scores in order of selection; return the indices of the selected boxes.

    `method` 0 drops overlapping boxes, 1 weights their scores with 1 - IoU, 2 with a Gaussian of the IoU.
    """
    areas = _areas(boxes, offset)
    rows = torch.cat((boxes, scores.to(boxes.dtype)[:, None], areas[:, None]), dim=1).detach().cpu().numpy()
    index, count, i = np.arange(len(rows)), len(rows), 0
    while i < count:
        best = i + rows[i:count, 4].argmax()
        rows[[i, best]], index[[i, best]] = rows[[best, i]], index[[best, i]]
        rest, rest_index = rows[i + 1 : count], index[i + 1 : count]  # views of rows and index
        rest[:, 4] *= _decay(_iou_with_first(rows[i], rest, offset), method, iou_threshold, sigma)
        # Fill the gap of a dropped box with the last remaining box, as mmcv does: boxes of equal score are selected in
        # the order of the rows, so closing gaps differently would select different boxes.
        keep = ~(rest[:, 4] < min_score)
        left = int(keep.sum())
        gaps, last = np.flatnonzero(~keep[:left]), left + np.flatnonzero(keep[left:])[::-1]
        rest[gaps], rest_index[gaps] = rest[last], rest_index[last]
        i, count = i + 1, i + 1 + left
    return torch.from_numpy(rows[:, :5]), torch.from_numpy(index[:count]).to(boxes.device)


def _decay(iou, method, iou_threshold, sigma):
    if method == 2:
        return np.exp(-(iou * iou) / sigma)
    return np.where(iou >= iou_threshold, 1 - iou if method == 1 else 0, 1).astype(iou.dtype)


def _areas(boxes, offset):
    return (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)


def _iou_with_first(first, rest, offset):
    """Return the IoU of one row with others.

    Rows are NumPy arrays (x1, y1, x2, y2, score, area). The IoU of two boxes without area is NaN.
    """
    sides = np.minimum(first[2:4], rest[:, 2:4]) - np.maximum(first[:2], rest[:, :2]) + offset
    overlap = sides.clip(min=0).prod(axis=1)
    with np.errstate(invalid='ignore'):
        return overlap / (first[5] + rest[:, 5] - overlap)


@ops.op()
def nms_match(dets, iou_threshold):
    """Return groups of indices into `dets` (N, 5), by score: a kept box, then the boxes with IoU >= threshold to it."""
    order = dets[:, 4].sort(descending=True, stable=True).indices.cpu().numpy()
    rows = torch.cat((dets, _areas(dets, 0)[:, None]), dim=1).detach().cpu().numpy()
    groups = []
    while len(order):
        first, order = order[0], order[1:]
        matched = _iou_with_first(rows[first], rows[order], 0) >= np.float32(iou_threshold)
        groups.append([int(first), *order[matched].tolist()])
        order = order[~matched]
    return groups


@ops.op(2)
def bbox_overlaps(boxes1, boxes2, ious, mode, aligned, offset):
    """Return the IoU (N, M), or (N,) if `aligned`; with `mode` 1 the overlap divided by the area of `boxes1`."""
    areas1, areas2 = _areas(boxes1, offset), _areas(boxes2, offset)
    if not aligned:
        boxes1, areas1 = boxes1[:, None], areas1[:, None]
    sides = torch.minimum(boxes1[..., 2:], boxes2[:, 2:]) - torch.maximum(boxes1[..., :2], boxes2[:, :2]) + offset
    overlap = sides[..., 0].clamp(min=0) * sides[..., 1].clamp(min=0)
    return overlap / (areas1 if mode else areas1 + areas2 - overlap)
