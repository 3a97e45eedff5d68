"""Turn the outputs of an export graph into results in the pixels of the original image.

The thresholds and the order of operations are those of mmdet's FCNMaskHead (masks inside boxes), RTMDetInsHead and
MaskFormerFusionHead (masks of the whole image); the results on the same tensors agree up to rounding.
"""

import math
from collections.abc import Iterable

import cv2
import numpy as np

from repvit_dense.artifact.manifest import EXPORT_AGAIN
from repvit_dense.errors import InputError

TOLERANCE = 0.01  # of scores, for rounding in half precision

Size = tuple[int, int]  # height, width in pixels


def check_values(outputs: dict[str, np.ndarray], count: int, class_count: int) -> None:
    """Refuse outputs for one image that a working model does not return.

    Args:
        outputs: arrays of the graph, with the padding beyond `count`; a class map `seg`, or `scores` and `labels`.
        count: number of objects.
        class_count: number of classes that have a name.

    Raises:
        InputError: a label without a name, a score that is no probability, or an impossible count.
    """
    if 'seg' in outputs:
        labels = outputs['seg']
    else:
        rows = len(outputs['scores'])
        if not 0 <= count <= rows:
            raise InputError(f'the model returned a count of {count} objects in {rows} rows; {EXPORT_AGAIN}')
        labels, scores = outputs['labels'][:count], outputs['scores'][:count]
        wrong = scores[(scores < -TOLERANCE) | (scores > 1 + TOLERANCE)]
        if wrong.size:
            raise InputError(f'the model returned a score of {wrong[0]:g}, not from 0 to 1; {EXPORT_AGAIN}')
    for label in (labels.min(initial=0), labels.max(initial=0)):
        if not 0 <= label < class_count:
            raise InputError(
                f'the model returned the label {label}, the artifact has {class_count} classes; {EXPORT_AGAIN}'
            )


def resize_class_map(seg: np.ndarray, image_hw: Size) -> np.ndarray:
    """Resize a class map `(h, w)`: every class is resized as a soft mask, and the strongest class wins.

    mmseg resizes the logits, which an artifact no longer has. Soft masks come closer to that than nearest-neighbour
    resizing: borders stay smooth.
    """
    if seg.shape == image_hw:
        return np.ascontiguousarray(seg)
    resized, strongest = np.zeros(image_hw, np.int32), np.zeros(image_hw, np.float32)
    for label in np.unique(seg):
        share = cv2.resize((seg == label).astype(np.float32), image_hw[::-1], interpolation=cv2.INTER_LINEAR)
        resized[share > strongest] = label
        np.maximum(share, strongest, out=strongest)
    return resized


def paste_masks(masks: np.ndarray, boxes: np.ndarray, image_hw: Size, threshold: float) -> np.ndarray:
    """Paste masks that cover their boxes into the image.

    Bilinear sampling is separable: a mask becomes `rows @ mask @ columns` with two weights per row of each matrix.

    Args:
        masks: `(N, h, w)` probabilities.
        boxes: `(N, 4)` as x1 y1 x2 y2 in pixels of the image.
        image_hw: height and width in pixels.
        threshold: smallest probability of a pixel that belongs to the object.

    Returns:
        `(N, H, W)` bool.
    """
    height, width = image_hw
    pasted = np.zeros((len(masks), height, width), bool)
    for mask, box, target in zip(masks, boxes, pasted, strict=True):
        if not np.isfinite(box).all():  # half precision may overflow
            continue
        # One pixel beyond the box, as in mmdet; the mask fades out there.
        left, top = (max(0, math.floor(side) - 1) for side in box[:2])
        right, bottom = (min(end, math.ceil(side) + 1) for side, end in zip(box[2:], (width, height), strict=True))
        if right > left and bottom > top:
            rows = _sampling_weights(top, bottom, box[1], box[3], mask.shape[0])
            columns = _sampling_weights(left, right, box[0], box[2], mask.shape[1])
            target[top:bottom, left:right] = rows @ mask @ columns.T >= threshold
    return pasted


def _sampling_weights(start: int, stop: int, low: np.float32, high: np.float32, length: int) -> np.ndarray:
    """Return weights `(stop - start, length)` that sample a mask stretched from `low` to `high` at pixel centres.

    The mask is 0 beyond its outermost values; in a box of zero width every pixel takes the middle of the mask.
    """
    centres = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide='ignore', invalid='ignore'):
        positions = (centres - low) / (high - low) * 2 - 1  # -1 to 1 across the box
    positions[~np.isfinite(positions)] = 0
    positions = ((positions + 1) * length - 1) / 2  # in mask pixels, the first at 0
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(length, dtype=np.float32)))


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """Return boxes `(N, 4)` float32 around masks `(N, H, W)` bool, x1 y1 x2 y2; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for mask, box in zip(masks, boxes, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def canvas_size(batch_hw: Size, scale: tuple[float, float]) -> Size:
    """Return the size of the padded batch in pixels of the original image, rounded up.

    Multiplies by `1 / scale` (height, width) instead of dividing: mmdet does, and the rounding may decide a pixel.
    """
    height, width = (math.ceil(side * (1 / factor)) for side, factor in zip(batch_hw, scale, strict=True))
    return height, width


def resize_mask(
    mask: np.ndarray, true_hw: Size, batch_hw: Size, image_hw: Size, canvas: Size | None = None
) -> np.ndarray:
    """Resize the mask logits `(h, w)` of the padded image to the original size, bilinear, with aligned pixel centres.

    mmdet has two orders: crop to the unpadded image (`true_hw`), then resize; or, if `canvas` is given, resize the
    padded image to `canvas`, then crop.
    """
    mask = cv2.resize(mask, batch_hw[::-1], interpolation=cv2.INTER_LINEAR)
    if canvas:
        return cv2.resize(mask, canvas[::-1], interpolation=cv2.INTER_LINEAR)[: image_hw[0], : image_hw[1]]
    mask = mask[: true_hw[0], : true_hw[1]]
    return mask if true_hw == image_hw else cv2.resize(mask, image_hw[::-1], interpolation=cv2.INTER_LINEAR)


def finish_instances(
    outputs: dict[str, np.ndarray], logits: Iterable[np.ndarray], image_hw: Size, options: dict
) -> dict[str, np.ndarray]:
    """Threshold the masks of objects whose masks cover the whole image.

    Args:
        outputs: arrays of the graph, one row per object.
        logits: their masks `(H, W)` at the original size.
        image_hw: height and width in pixels.
        options: `mask_thr`, a probability. `boxes_from_masks`: take boxes around the masks. `scores_from_masks`:
            multiply the class score by the mean probability inside the mask. Mask2Former sets both.

    Returns:
        the arrays with `masks (N, H, W)` bool, sorted by falling score.
    """
    threshold, count = math.log(options['mask_thr'] / (1 - options['mask_thr'])), len(outputs['scores'])
    masks, mask_scores = np.zeros((count, *image_hw), bool), np.ones(count, np.float32)
    for index, values in enumerate(logits):
        np.greater(values, threshold, out=masks[index])
        if options.get('scores_from_masks'):
            inside = values[masks[index]]
            mask_scores[index] = (1 / (1 + np.exp(-inside))).sum() / (inside.size + 1e-6)
    finished = outputs | {'masks': masks, 'scores': outputs['scores'] * mask_scores}
    if options.get('boxes_from_masks'):
        finished['boxes'] = boxes_of_masks(masks)
    if options.get('scores_from_masks'):
        order = np.argsort(-finished['scores'], kind='stable')
        finished = {name: value[order] for name, value in finished.items()}
    return finished


def merge_queries(
    outputs: dict[str, np.ndarray], options: dict, num_classes: int, true_hw: Size, batch_hw: Size, image_hw: Size
) -> dict:
    """Merge queries into panoptic segments as mmdet's MaskFormerFusionHead does.

    Every pixel goes to the query with the largest score times mask probability. A query that loses too much of its
    mask is dropped. All stuff of one class is one segment.
    """
    keep = (outputs['scores'] > options['object_mask_thr']) & (outputs['labels'] < num_classes)
    scores, labels = outputs['scores'][keep], outputs['labels'][keep]
    best, owner = np.full(image_hw, -1, np.float32), np.zeros(image_hw, np.int32)
    inside = np.zeros(image_hw, bool)  # pixel is inside the mask of its owner
    mask_areas = np.zeros(len(scores), int)  # before queries compete for pixels
    for index, (score, mask) in enumerate(zip(scores, outputs['masks'][keep], strict=True)):
        mask = 1 / (1 + np.exp(-resize_mask(mask, true_hw, batch_hw, image_hw)))
        covered = mask >= 0.5
        mask_areas[index] = covered.sum()
        wins = score * mask > best
        best[wins], owner[wins], inside[wins] = (score * mask)[wins], index, covered[wins]
    won = np.bincount(owner.ravel(), minlength=len(scores))[: len(scores)]
    stays = (won > 0) & (mask_areas > 0) & (won / np.maximum(mask_areas, 1) >= options['iou_thr'])
    numbers, info = _number_segments(scores, labels, stays, int(options['num_things']))
    segments = numbers[owner] if len(scores) else np.zeros(image_hw, np.int32)
    if options['filter_low_score']:
        segments[~inside] = 0
    present = np.unique(segments)
    return {'segments': segments, 'segment_info': [part for part in info if part['number'] in present]}


def _number_segments(
    scores: np.ndarray, labels: np.ndarray, stays: np.ndarray, num_things: int
) -> tuple[np.ndarray, list[dict]]:
    """Return the segment number of every query, 0 for none, and the description of every segment."""
    numbers = np.zeros(len(scores), np.int32)
    info: list[dict] = []
    number_of_label: dict[int, int] = {}
    for index in np.flatnonzero(stays):
        label, is_thing = int(labels[index]), bool(labels[index] < num_things)
        if is_thing or label not in number_of_label:
            number = number_of_label[label] = len(info) + 1
            info.append({'number': number, 'label': label, 'is_thing': is_thing, 'score': float(scores[index])})
        numbers[index] = number_of_label[label]
    return numbers, info
