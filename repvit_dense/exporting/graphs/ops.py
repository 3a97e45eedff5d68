"""What detectors need between layers and result, in tensors of fixed size: top-k, decoding, NMS, RoIAlign.

Scores are probabilities; 0 marks a place that holds nothing. Boxes are x1 y1 x2 y2 in pixels of the batch.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from repvit_dense.errors import InputError

NOTHING = -1e4  # a logit, or a score, that loses against every real one; a half-precision number can hold it
# NMS looks at this many candidates of an image, those of highest score. A box is only ever suppressed by one of higher
# score, so the result is that of all candidates unless more than these exceed the score threshold and NMS leaves fewer
# than `max_per_img` of them. Plain NMS compares all pairs.
CANDIDATES = 2000
PLAIN_CANDIDATES = 1000
# Passes of plain NMS: exact for chains (a suppresses b, which would have suppressed c, ...) of up to so many boxes. An
# even number errs on the side of keeping.
PASSES = 16
FAR = 3e4  # how much further away a sample moves that does not count; a half-precision number can hold it
PLAIN_ROI_FLOATS = 2**25  # numbers in one intermediate tensor of plain RoIAlign, 128 MB


def limit(plain: bool) -> int:
    """How many candidates NMS looks at."""
    return PLAIN_CANDIDATES if plain else CANDIDATES


# --- Selection --------------------------------------------------------------------------------------------------------


def top(values: Tensor, k: int, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their places, whether there are as many or not.

    Args:
        values: `(B, N)`, N fixed or dynamic.
        fill: stands in the places beyond N; their index is 0.

    Returns:
        `(B, k)` values by falling size, and `(B, k)` indices below N.
    """
    count = values.shape[1]
    missing = max(k - count, 0) if isinstance(count, int) else k
    if not missing:
        return values.topk(k)
    best, index = F.pad(values, (0, missing), value=fill).topk(k)
    return best, torch.where(index < count, index, torch.zeros_like(index))


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index (B, K)` of `values (B, N, D)`, or of `values (N, D)` that all images share: `(B, K, D)`."""
    if values.dim() == 2:
        return values[index]
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def rows(level: Tensor, width: int) -> Tensor:
    """A head's output `(B, A * width, H, W)` as `(B, H * W * A, width)`, in the order of the priors."""
    # In channels_last the axes move without a copy: a graph would rely on a layout that a runtime may not have.
    return level.contiguous().permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width))


def best_of_level(scores: Tensor, k: int, plain: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The k best pairs of prior and class.

    A pair among the k best belongs to one of the k priors whose best class is best, so only theirs are compared.

    Args:
        scores: `(B, N, C)`, logits or probabilities.

    Returns:
        scores, index of the prior, class index; `(B, k)` each, `NOTHING` where there are fewer.
    """
    classes = scores.shape[2]
    count = scores.shape[1]
    prior = None
    if not isinstance(count, int) or count > k:
        best, prior = top(scores.amax(2), k, NOTHING)
        scores = take(scores, prior)
        # The places beyond the last prior all point to prior 0.
        scores = torch.where(best[..., None] > NOTHING, scores, torch.full_like(scores, NOTHING))
    score, index = top(scores.flatten(1), k, NOTHING)
    if plain:  # Core ML divides integers as floats, which half precision rounds
        row = torch.arange(scores.shape[1]).repeat_interleave(classes)[index]
    else:
        row = torch.div(index, classes, rounding_mode='trunc')
    return score, row if prior is None else prior.gather(1, row), index - row * classes


def detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, cfg: dict, classes: int, plain: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The result for each image: candidates after NMS within their class, the best `max_per_img` of them.

    Args:
        boxes: `(B, N, 4)`.
        scores: `(B, N)`, 0 where no candidate.
        labels: `(B, N)`.
        cfg: `nms` and `max_per_img`, as in mmdet's `test_cfg`.

    Returns:
        boxes `(B, K, 4)`, scores `(B, K)`, labels `(B, K)`, and places `(B, K)` among the N; 0 beyond the last one.
    """
    scores, order = top(scores, limit(plain))
    boxes, labels = take(boxes, order), labels.gather(1, order)
    scores = nms(boxes, scores, iou_threshold(cfg), plain, labels, classes)
    scores, chosen = top(scores, cfg['max_per_img'])
    found = scores > 0
    labels = torch.where(found, labels.gather(1, chosen), torch.zeros_like(chosen))
    return only(take(boxes, chosen), found[..., None]), scores, labels, order.gather(1, chosen)


def only(values: Tensor, condition: Tensor) -> Tensor:
    """Values where the condition holds, else 0."""
    return values * condition.to(values.dtype)


def places(scores: Tensor, plain: bool) -> Tensor | None:
    """Where scores `(B, N)` are above 0, as indices into the flattened ones: `(n,)`, at least one of them.

    What follows works on these alone, as mmdet does. Plain graphs have no size that depends on data: None, all places.
    """
    if plain:
        return None
    real = scores.flatten() > 0
    index = torch.cat((torch.ones_like(real[:1]), real[1:])).nonzero()[:, 0]  # some runtimes fail on an empty batch
    torch._check(index.shape[0] >= 1)
    return index


def spread(values: Tensor, index: Tensor | None, total: int) -> Tensor:
    """Put `values (n, ...)` back to their places among `total` ones, which are 0 otherwise."""
    if index is None:
        return values
    return values.new_zeros(total, *values.shape[1:]).index_put((index,), values)


def count(scores: Tensor) -> Tensor:
    """How many detections there are, `(B,)` int32."""
    return (scores > 0).int().sum(1).int()


# --- Boxes ------------------------------------------------------------------------------------------------------------


def clip(boxes: Tensor, img_hw: Tensor) -> Tensor:
    """Boxes `(B, N, 4)` cut to their images, whose height and width are `img_hw (B, 2)`."""
    height, width = img_hw[:, None, :1], img_hw[:, None, 1:]
    return torch.minimum(boxes.clamp(min=0), torch.cat((width, height, width, height), dim=2))


def decode(coder, priors: Tensor, deltas: Tensor, img_hw: Tensor) -> Tensor:
    """Boxes from mmdet's DeltaXYWHBBoxCoder; its own code cannot be traced with a size that is a tensor.

    Args:
        coder: holds means, standard deviations and whether to clip.
        priors: `(B, N, 4)`.
        deltas: `(B, N, 4)`, dx dy dw dh.
    """
    if coder.add_ctr_clamp:
        raise InputError('bbox_coder.add_ctr_clamp=True cannot be exported; set it to False and train with it')
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    limit = 4.135166556742356  # log(1000 / 16): at most 62.5 times the size of the prior
    size = priors[..., 2:] - priors[..., :2]
    centre = (priors[..., :2] + priors[..., 2:]) * 0.5 + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-limit, limit).exp() * 0.5
    boxes = torch.cat((centre - half, centre + half), dim=2)
    return clip(boxes, img_hw) if coder.clip_border else boxes


def drop_small(boxes: Tensor, scores: Tensor, size: float) -> Tensor:
    """Scores `(B, N)`, 0 where width or height of the box does not exceed `size`; negative: all stay."""
    return scores if size < 0 else only(scores, (boxes[..., 2:] - boxes[..., :2]).amin(2) > size)


# --- NMS --------------------------------------------------------------------------------------------------------------


def iou_threshold(cfg: dict) -> float:
    """The threshold of a `test_cfg`. Raises InputError where it asks for another NMS than the greedy one per class."""
    kind = cfg['nms'].get('type', 'nms')
    if kind != 'nms' or cfg['nms'].get('class_agnostic'):
        raise InputError(
            f"test_cfg.nms = {dict(cfg['nms'])} cannot be exported; take nms=dict(type='nms', iou_threshold=0.5)"
        )
    return cfg['nms']['iou_threshold']


def nms(
    boxes: Tensor, scores: Tensor, threshold: float, plain: bool, labels: Tensor | None = None, classes: int = 1
) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: `(B, N, 4)`.
        scores: `(B, N)`, by falling size but for zeros, which hold no box.
        threshold: IoU above which the box of lower score goes.
        labels: `(B, N)`, below `classes`; boxes of different labels leave each other alone.

    Returns:
        scores `(B, N)`, 0 where a box went.
    """
    if plain:
        return scores * _survivors(boxes, scores, threshold, labels)
    groups = scores[:, None]
    if labels is not None:
        own = labels[:, None] == torch.arange(classes, device=labels.device)[:, None]
        groups = torch.where(own, groups, torch.zeros_like(groups))
    return scores * torch.ops.repvit_dense.nms(boxes, groups, threshold)


@torch.library.custom_op('repvit_dense::nms', mutates_args=())
def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """1 for the boxes `(B, N, 4)` that survive within a class, else 0: `(B, N)`; scores `(B, C, N)`, 0 for no box."""
    from torchvision.ops import nms as survivors

    keep = torch.zeros_like(scores)
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()  # as a runtime has it
    for image, group in scores.amax(2).gt(0).nonzero().tolist():
        index = scores[image, group].nonzero()[:, 0]
        kept = survivors(boxes[image, index], scores[image, group, index], threshold)
        keep[image, group, index[kept]] = 1
    return keep.amax(1)


@_nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return scores.new_empty(scores.shape[0], scores.shape[2])


def _survivors(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None) -> Tensor:
    """The same from the table of all overlaps: a box stays if no better one that stays suppresses it; by iteration."""
    x1, y1, x2, y2 = boxes.unbind(2)
    area = (x2 - x1) * (y2 - y1)
    overlap = _shared(x1, x2) * _shared(y1, y2)
    union = area[:, :, None] + area[:, None] - overlap
    suppresses = (overlap > threshold * union).float() * torch.ones(boxes.shape[1], boxes.shape[1]).tril(-1)
    if labels is not None:
        suppresses = suppresses * (labels[:, :, None] == labels[:, None]).float()
    real = (scores > 0).float()[..., None]
    keep = real
    for _ in range(PASSES):
        keep = (real - torch.bmm(suppresses, keep)).clamp(min=0)
    return keep[..., 0]


def _shared(start: Tensor, end: Tensor) -> Tensor:
    """Length that each two of the intervals `(B, N)` have in common: `(B, N, N)`."""
    low = torch.maximum(start[:, :, None], start[:, None])
    return (torch.minimum(end[:, :, None], end[:, None]) - low).clamp(min=0)


def onnx_translations() -> dict[Callable, Callable]:
    """What `torch.onnx.export(custom_translation_table=...)` needs for the operators defined here."""
    from onnxscript import opset20 as op

    def onnx_nms(boxes, scores, iou_threshold: float):
        everything = 2**62  # boxes per class
        selected = op.NonMaxSuppression(boxes, scores, everything, iou_threshold, 0.0)  # rows of image, class, box
        place = op.Gather(selected, [0, 2], axis=1)
        keep = op.Expand(0.0, op.Gather(op.Shape(scores), [0, 2]))
        return op.ScatterND(keep, place, op.Expand(1.0, op.Shape(selected, end=1)))

    return {torch.ops.repvit_dense.nms.default: onnx_nms}


# --- RoIAlign ---------------------------------------------------------------------------------------------------------


class Pyramid:
    """Feature maps of several strides, from which boxes are pooled, each from the level that suits its size.

    With an operator: all levels lie below each other on one canvas, with a border of one pixel that repeats their edge,
    so that one RoIAlign with boxes in its pixels does it, whatever the sizes. Samples lie within half a pixel of the
    level, so no box sees another level.

    Args:
        levels: `(B, C, H, W)` each.
        extractor: mmdet's SingleRoIExtractor: strides and the size in pixels of a box that belongs to the first level.
        plain: pool by matrix products.
    """

    def __init__(self, levels: Sequence[Tensor], extractor, plain: bool):
        self.strides = extractor.featmap_strides
        self.levels = levels[: len(self.strides)]
        self.finest_scale = extractor.finest_scale
        self.plain = plain
        self.canvas = None if plain else self._stack()

    def _stack(self) -> Tensor:
        width = self.levels[0].shape[3]
        framed = [F.pad(level, (1, 1, 1, 1), mode='replicate') for level in self.levels]
        return torch.cat([F.pad(level, (0, width + 2 - level.shape[3])) for level in framed], dim=2)

    def pool(self, boxes: Tensor, layer, index: Tensor | None) -> Tensor:
        """RoIAlign (arXiv 1703.06870) of boxes `(B, N, 4)`: `(n, C, S, S)`.

        Args:
            layer: mmcv's RoIAlign: output size and sampling ratio.
            index: of the boxes to pool, among the flattened ones; None for all.
        """
        size = layer.output_size[0]
        sides = boxes[..., 2:] - boxes[..., :2]
        scale = (sides[..., :1] * sides[..., 1:]).sqrt() / self.finest_scale + 1e-6
        larger = [(scale >= 2.0**i).float() for i in range(1, len(self.levels))]  # than boxes of the level before
        if self.plain:
            return self._pool_plain(boxes, larger, size, layer.sampling_ratio)
        rois = self._on_canvas(boxes, larger)
        if layer.sampling_ratio == 0:
            # Without extent there is no sample, and zeros result; not so in OpenVINO, nor above the map. So go there.
            nowhere = rois.new_tensor([-9.0, -9.0, -8.0, -8.0])
            rois = torch.where(sides.amin(2, keepdim=True) > 0, rois, nowhere)
        image = torch.arange(rois.shape[0], device=rois.device).to(rois)[:, None, None].expand(-1, rois.shape[1], 1)
        rois = torch.cat((image, rois), dim=2).flatten(0, 1)
        rois = rois if index is None else rois[index]
        return torch.ops.torchvision.roi_align(self.canvas, rois, 1.0, size, size, layer.sampling_ratio, True)

    def _on_canvas(self, boxes: Tensor, larger: list[Tensor]) -> Tensor:
        """Boxes in pixels of the canvas."""
        one = torch.ones_like(boxes[..., :1])
        factor, down = one / self.strides[0], one
        for i, above in enumerate(larger):
            factor = factor + above * (1 / self.strides[i + 1] - 1 / self.strides[i])
            down = down + above * (self.levels[i].shape[2] + 2)
        return boxes * factor + torch.cat((one, down, one, down), dim=2)

    def _pool_plain(self, boxes: Tensor, larger: list[Tensor], size: int, sampling_ratio: int) -> Tensor:
        """The samples of a box form a grid, so pooling is a product with one matrix per axis."""
        # All first samples of the bins, then all second ones: shares of the box, (size * ratio,).
        at = (torch.arange(size) + (torch.arange(sampling_ratio)[:, None] + 0.5) / sampling_ratio).flatten() / size
        at = boxes[..., :2, None] + (boxes[..., 2:] - boxes[..., :2])[..., None] * at  # (B, N, 2, S * ratio), x and y
        above = [torch.ones_like(boxes[..., :1]), *larger, torch.zeros_like(boxes[..., :1])]
        pooled = 0
        for i, (level, stride) in enumerate(zip(self.levels, self.strides, strict=True)):
            on_level = (above[i] - above[i + 1])[..., None] / sampling_ratio
            across, down = _axis_weights(at / stride - 0.5, level.shape[3], level.shape[2], size, sampling_ratio)
            pooled = pooled + _separable(level, down * on_level, across / sampling_ratio)
        return pooled.permute(0, 3, 1, 2)


def _axis_weights(at: Tensor, width: int, height: int, size: int, ratio: int) -> list[Tensor]:
    """How much each pixel of a row, and of a column, counts in each of `size` bins: `(B, N, S, W)`, `(B, N, S, H)`.

    Args:
        at: x and y of each bin's samples, `(B, N, 2, ratio * S)`, in pixels, 0 at the centre of the first.
    """
    last = torch.tensor([[width - 1.0], [height - 1.0]])
    # A sample counts up to a pixel beyond the centre of the last one. Others move to where no pixel is: a comparison
    # would interrupt runtimes that have the arithmetic only.
    beyond = at - torch.minimum(at.clamp(min=-1), last + 1)
    at = torch.minimum(at.clamp(min=0), last) + beyond * FAR
    weights = []
    for axis, length in enumerate((width, height)):
        distance = (at[:, :, axis, :, None] - torch.arange(length, dtype=torch.float32)).abs()
        counts = (1 - distance).clamp(min=0)
        weights.append(sum(counts[:, :, i * size : (i + 1) * size] for i in range(ratio)))
    return weights


def _separable(level: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Pool `level (B, C, H, W)` with weights `(B, N, S, H)` and `(B, N, S, W)`: `(B * N, S, S, C)`.

    Three axes a product: a runtime that has to repeat a matrix for others may do so number by number.
    """
    batch, channels, height, width = level.shape
    boxes, size = down.shape[1:3]
    level = level.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    step = max(PLAIN_ROI_FLOATS // (batch * size * width * channels), 1)
    each = torch.ones(size, 1, 1)
    parts = []
    for first in range(0, boxes, step):
        part = torch.bmm(down[:, first : first + step].flatten(1, 2), level).reshape(-1, width, channels)
        weights = (across[:, first : first + step].flatten(0, 1)[:, None] * each).flatten(0, 1)
        parts.append(torch.bmm(weights, part).unflatten(0, (batch, -1)))
    pooled = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return pooled.reshape(batch * boxes, size, size, channels)


def check_pooling(extractor, plain: bool, key: str) -> None:
    """Refuse a RoIAlign that the operators do not have.

    Args:
        key: where the extractor is in the config.

    Raises:
        InputError: says what to train with.
    """
    layer = extractor.roi_layers[0]
    kind = type(layer).__name__
    if kind != 'RoIAlign' or layer.pool_mode != 'avg' or not layer.aligned:
        raise InputError(f'{key}.roi_layer: only an aligned, averaging RoIAlign can be exported, this is {layer}')
    if plain and layer.sampling_ratio <= 0:
        raise InputError(
            f'{key}.roi_layer.sampling_ratio = {layer.sampling_ratio} adapts to the size of the box, which this format '
            'cannot do. Train with model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio=2 and '
            'model.roi_head.mask_roi_extractor.roi_layer.sampling_ratio=2'
        )
