"""Building blocks of detectors in tensors of fixed size: selection, box decoding, NMS.

Scores are probabilities; 0 marks a padding entry. Boxes are x1 y1 x2 y2 in pixels of the batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from repvit_dense.errors import InputError

PAD_LOGIT = -1e4  # lower than every real logit or score; representable in half precision
# NMS considers this many candidates of highest score per image. A box is only suppressed by boxes of higher score, so
# the result is exact unless more candidates exceed the score threshold and fewer than `max_per_img` of them survive.
# Plain NMS compares all pairs.
CANDIDATES = 2000
PLAIN_CANDIDATES = 1000
# Iterations of plain NMS, which is exact for chains (a suppresses b, which would have suppressed c, ...) of up to this
# many boxes. An even number errs on the side of keeping boxes.
PASSES = 16


def max_candidates(plain: bool) -> int:
    """Return the number of candidates that NMS considers."""
    return PLAIN_CANDIDATES if plain else CANDIDATES


# --- Selection --------------------------------------------------------------------------------------------------------


def topk_padded(values: Tensor, k: int, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the k largest values of each row and their indices; k may exceed the length of the rows.

    Args:
        values: `(B, N)`, N fixed or dynamic.
        k: number of values.
        fill: value of the entries beyond N, whose index is 0.

    Returns:
        `(B, k)` values in falling order, and `(B, k)` indices below N.
    """
    count = values.shape[1]
    missing = max(k - count, 0) if isinstance(count, int) else k
    if not missing:
        return values.topk(k)
    best, index = F.pad(values, (0, missing), value=fill).topk(k)
    return best, torch.where(index < count, index, torch.zeros_like(index))


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return the rows `index (B, K)` of `values (B, N, D)`, or of `values (N, D)` shared by all images: `(B, K, D)`."""
    if values.dim() == 2:
        return values[index]
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def flatten_level(level: Tensor, width: int) -> Tensor:
    """Reshape a head's output `(B, A * width, H, W)` to `(B, H * W * A, width)`, in the order of the priors."""
    # From channels_last the permutation would be a view, and the graph would rely on a layout that runtimes may lack.
    return level.contiguous().permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width))


def topk_pairs(scores: Tensor, k: int, plain: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k best pairs of prior and class.

    Each of these pairs belongs to one of the k priors with the best maximum score, so only those are compared.

    Args:
        scores: `(B, N, C)`, logits or probabilities.
        k: number of pairs.
        plain: use only operators that every runtime has.

    Returns:
        Scores, prior indices and class indices, `(B, k)` each; scores beyond the last pair are `PAD_LOGIT`.
    """
    classes = scores.shape[2]
    count = scores.shape[1]
    prior = None
    if not isinstance(count, int) or count > k:
        best, prior = topk_padded(scores.amax(2), k, PAD_LOGIT)
        scores = gather_rows(scores, prior)
        # Padding entries repeat prior 0.
        scores = torch.where(best[..., None] > PAD_LOGIT, scores, torch.full_like(scores, PAD_LOGIT))
    score, index = topk_padded(scores.flatten(1), k, PAD_LOGIT)
    if plain:  # Core ML divides integers as floats, rounded in half precision
        row = torch.arange(scores.shape[1]).repeat_interleave(classes)[index]
    else:
        row = torch.div(index, classes, rounding_mode='trunc')
    return score, row if prior is None else prior.gather(1, row), index - row * classes


def select_detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, cfg: dict, classes: int, plain: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Apply NMS within each class and return the `max_per_img` best detections of each image.

    Args:
        boxes: `(B, N, 4)`.
        scores: `(B, N)`, 0 for padding.
        labels: `(B, N)`.
        cfg: `nms` and `max_per_img`, as in mmdet's `test_cfg`.
        classes: number of classes.
        plain: use only operators that every runtime has.

    Returns:
        Boxes `(B, K, 4)`, scores, labels, and indices among the N candidates, `(B, K)` each; 0 beyond the last one.
    """
    scores, order = topk_padded(scores, max_candidates(plain))
    boxes, labels = gather_rows(boxes, order), labels.gather(1, order)
    scores = nms(boxes, scores, iou_threshold(cfg), plain, labels, classes)
    scores, chosen = topk_padded(scores, cfg['max_per_img'])
    valid = scores > 0
    labels = torch.where(valid, labels.gather(1, chosen), torch.zeros_like(chosen))
    return zero_unless(gather_rows(boxes, chosen), valid[..., None]), scores, labels, order.gather(1, chosen)


def zero_unless(values: Tensor, condition: Tensor) -> Tensor:
    """Return the values, set to 0 unless the condition holds."""
    return values * condition.to(values.dtype)


def valid_indices(scores: Tensor, plain: bool) -> Tensor | None:
    """Return the indices `(n,)` of scores above 0 in the flattened `scores (B, N)`, at least one.

    Later layers process these entries only, as mmdet does. Plain graphs have no data-dependent sizes and process all
    entries; they get None.
    """
    if plain:
        return None
    valid = scores.flatten() > 0
    index = torch.cat((torch.ones_like(valid[:1]), valid[1:])).nonzero()[:, 0]  # some runtimes fail on an empty batch
    torch._check(index.shape[0] >= 1)
    return index


def scatter_back(values: Tensor, index: Tensor | None, total: int) -> Tensor:
    """Write `values (n, ...)` to the positions `index (n,)` of `total` rows of zeros; undo `valid_indices`."""
    if index is None:
        return values
    return values.new_zeros(total, *values.shape[1:]).index_put((index,), values)


def count_valid(scores: Tensor) -> Tensor:
    """Return the number of scores above 0 in each row, `(B,)` int32."""
    return (scores > 0).int().sum(1).int()


# --- Boxes ------------------------------------------------------------------------------------------------------------


def clip_boxes(boxes: Tensor, img_hw: Tensor) -> Tensor:
    """Clip boxes `(B, N, 4)` to their images, whose height and width are `img_hw (B, 2)`."""
    height, width = img_hw[:, None, :1], img_hw[:, None, 1:]
    return torch.minimum(boxes.clamp(min=0), torch.cat((width, height, width, height), dim=2))


def decode_boxes(coder, priors: Tensor, deltas: Tensor, img_hw: Tensor) -> Tensor:
    """Decode boxes `(B, N, 4)` like mmdet's DeltaXYWHBBoxCoder, which cannot be traced with a size that is a tensor.

    Args:
        coder: mmdet's coder, which holds means, standard deviations and whether to clip.
        priors: `(B, N, 4)`.
        deltas: `(B, N, 4)`, dx dy dw dh.
        img_hw: `(B, 2)`, height and width of each image in pixels.

    Raises:
        InputError: the coder has `add_ctr_clamp`.
    """
    if coder.add_ctr_clamp:
        raise InputError('bbox_coder.add_ctr_clamp=True cannot be exported; set it to False and train with it')
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    limit = 4.135166556742356  # log(1000 / 16): boxes of at most 62.5 times the size of the prior
    size = priors[..., 2:] - priors[..., :2]
    centre = (priors[..., :2] + priors[..., 2:]) * 0.5 + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-limit, limit).exp() * 0.5
    boxes = torch.cat((centre - half, centre + half), dim=2)
    return clip_boxes(boxes, img_hw) if coder.clip_border else boxes


def drop_small(boxes: Tensor, scores: Tensor, size: float) -> Tensor:
    """Set scores `(B, N)` to 0 unless width and height of the box exceed `size`; a negative size drops none."""
    return scores if size < 0 else zero_unless(scores, (boxes[..., 2:] - boxes[..., :2]).amin(2) > size)


# --- NMS --------------------------------------------------------------------------------------------------------------


def iou_threshold(cfg: dict) -> float:
    """Return the NMS threshold of a `test_cfg`; raise InputError unless its NMS is greedy and per class."""
    kind = cfg['nms'].get('type', 'nms')
    if kind != 'nms' or cfg['nms'].get('class_agnostic'):
        raise InputError(
            f"test_cfg.nms = {dict(cfg['nms'])} cannot be exported; use nms=dict(type='nms', iou_threshold=0.5)"
        )
    return cfg['nms']['iou_threshold']


def nms(
    boxes: Tensor, scores: Tensor, threshold: float, plain: bool, labels: Tensor | None = None, classes: int = 1
) -> Tensor:
    """Apply greedy non-maximum suppression.

    Args:
        boxes: `(B, N, 4)`.
        scores: `(B, N)`, in falling order apart from zeros, which mark padding.
        threshold: IoU above which the box of lower score is suppressed.
        plain: use only operators that every runtime has.
        labels: `(B, N)`, below `classes`; boxes of different labels do not suppress each other.
        classes: number of classes.

    Returns:
        Scores `(B, N)`, 0 for suppressed boxes.
    """
    if plain:
        return scores * _plain_nms(boxes, scores, threshold, labels)
    groups = scores[:, None]
    if labels is not None:
        is_of_class = labels[:, None] == torch.arange(classes, device=labels.device)[:, None]
        groups = torch.where(is_of_class, groups, torch.zeros_like(groups))
    return scores * torch.ops.repvit_dense.nms(boxes, groups, threshold)


@torch.library.custom_op('repvit_dense::nms', mutates_args=())
def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return 1 for the boxes `(B, N, 4)` that survive in a class, else 0, as `(B, N)`; scores are `(B, C, N)`."""
    from torchvision.ops import nms as torchvision_nms

    keep = torch.zeros_like(scores)
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()  # rounded as in the runtimes
    for image, group in scores.amax(2).gt(0).nonzero().tolist():
        index = scores[image, group].nonzero()[:, 0]
        surviving = torchvision_nms(boxes[image, index], scores[image, group, index], threshold)
        keep[image, group, index[surviving]] = 1
    return keep.amax(1)


@_nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return scores.new_empty(scores.shape[0], scores.shape[2])


def _plain_nms(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None) -> Tensor:
    """Return 1 for boxes that survive, else 0, `(B, N)`, by iteration over the table of all overlaps.

    A box survives if no surviving box of higher score suppresses it.
    """
    x1, y1, x2, y2 = boxes.unbind(2)
    area = (x2 - x1) * (y2 - y1)
    overlap = _interval_overlap(x1, x2) * _interval_overlap(y1, y2)
    union = area[:, :, None] + area[:, None] - overlap
    suppresses = (overlap > threshold * union).float() * torch.ones(boxes.shape[1], boxes.shape[1]).tril(-1)
    if labels is not None:
        suppresses = suppresses * (labels[:, :, None] == labels[:, None]).float()
    valid = (scores > 0).float()[..., None]
    keep = valid
    for _ in range(PASSES):
        keep = (valid - torch.bmm(suppresses, keep)).clamp(min=0)
    return keep[..., 0]


def _interval_overlap(start: Tensor, end: Tensor) -> Tensor:
    """Return the overlap `(B, N, N)` of each pair of intervals, whose ends are `(B, N)`."""
    low = torch.maximum(start[:, :, None], start[:, None])
    return (torch.minimum(end[:, :, None], end[:, None]) - low).clamp(min=0)


def onnx_translations() -> dict[Callable, Callable]:
    """Return the `custom_translation_table` of `torch.onnx.export` for the operators defined here."""
    from onnxscript import opset20 as op

    def onnx_nms(boxes, scores, iou_threshold: float):
        unlimited = 2**62  # boxes per class
        selected = op.NonMaxSuppression(boxes, scores, unlimited, iou_threshold, 0.0)  # rows of image, class, box
        position = op.Gather(selected, [0, 2], axis=1)
        keep = op.Expand(0.0, op.Gather(op.Shape(scores), [0, 2]))
        return op.ScatterND(keep, position, op.Expand(1.0, op.Shape(selected, end=1)))

    return {torch.ops.repvit_dense.nms.default: onnx_nms}
