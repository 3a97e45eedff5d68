"""RoIAlign for export graphs: by an operator, or by matrix products only."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from repvit_dense.errors import InputError

FAR = 3e4  # pixels by which samples outside the map are moved away; representable in half precision
PLAIN_ROI_FLOATS = 2**25  # size limit of an intermediate tensor of the plain form, 128 MB


class Pyramid:
    """Feature maps of several strides; each box is pooled from the level that suits its size.

    With the RoIAlign operator, all levels are stacked on one canvas, each with a border of one pixel that repeats its
    edge, and one call pools all boxes. Samples lie within half a pixel of their level, so levels do not mix.

    Args:
        levels: `(B, C, H, W)` each.
        extractor: mmdet's SingleRoIExtractor, which holds the strides and the box size of the first level.
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
        """Pool boxes by RoIAlign (arXiv 1703.06870).

        Args:
            boxes: `(B, N, 4)`.
            layer: mmcv's RoIAlign, which holds output size and sampling ratio.
            index: `(n,)`, the boxes to pool, as indices into the flattened boxes; None for all.

        Returns:
            `(n, C, S, S)`.
        """
        size = layer.output_size[0]
        sides = boxes[..., 2:] - boxes[..., :2]
        scale = (sides[..., :1] * sides[..., 1:]).sqrt() / self.finest_scale + 1e-6
        larger = [(scale >= 2.0**i).float() for i in range(1, len(self.levels))]  # than boxes of level i - 1
        if self.plain:
            return self._pool_plain(boxes, larger, size, layer.sampling_ratio)
        rois = self._on_canvas(boxes, larger)
        if layer.sampling_ratio == 0:
            # A box without extent has no samples and should give zeros, which OpenVINO does outside the map only.
            outside = rois.new_tensor([-9.0, -9.0, -8.0, -8.0])
            rois = torch.where(sides.amin(2, keepdim=True) > 0, rois, outside)
        image = torch.arange(rois.shape[0], device=rois.device).to(rois)[:, None, None].expand(-1, rois.shape[1], 1)
        rois = torch.cat((image, rois), dim=2).flatten(0, 1)
        rois = rois if index is None else rois[index]
        return torch.ops.torchvision.roi_align(self.canvas, rois, 1.0, size, size, layer.sampling_ratio, True)

    def _on_canvas(self, boxes: Tensor, larger: list[Tensor]) -> Tensor:
        """Convert boxes to pixels of the canvas."""
        one = torch.ones_like(boxes[..., :1])
        factor, down = one / self.strides[0], one
        for i, above in enumerate(larger):
            factor = factor + above * (1 / self.strides[i + 1] - 1 / self.strides[i])
            down = down + above * (self.levels[i].shape[2] + 2)
        return boxes * factor + torch.cat((one, down, one, down), dim=2)

    def _pool_plain(self, boxes: Tensor, larger: list[Tensor], size: int, sampling_ratio: int) -> Tensor:
        """Pool by one matrix product per axis, since the samples of a box form a grid."""
        # Sample positions relative to the box, (size * ratio,): the first sample of every bin, then the second, ...
        at = (torch.arange(size) + (torch.arange(sampling_ratio)[:, None] + 0.5) / sampling_ratio).flatten() / size
        at = boxes[..., :2, None] + (boxes[..., 2:] - boxes[..., :2])[..., None] * at  # (B, N, 2, S * ratio), x and y
        above = [torch.ones_like(boxes[..., :1]), *larger, torch.zeros_like(boxes[..., :1])]
        pooled: Any = 0
        for i, (level, stride) in enumerate(zip(self.levels, self.strides, strict=True)):
            on_level = (above[i] - above[i + 1])[..., None] / sampling_ratio
            across, down = _axis_weights(at / stride - 0.5, level.shape[3], level.shape[2], size, sampling_ratio)
            pooled = pooled + _separable(level, down * on_level, across / sampling_ratio)
        return pooled.permute(0, 3, 1, 2)


def _axis_weights(at: Tensor, width: int, height: int, size: int, ratio: int) -> list[Tensor]:
    """Return the weights of the pixels of a row and of a column in each bin: `(B, N, S, W)` and `(B, N, S, H)`.

    Args:
        at: x and y of the samples, `(B, N, 2, ratio * S)`, in pixels; 0 is the centre of the first pixel.
        width: of the level.
        height: of the level.
        size: number of bins S.
        ratio: samples per bin along an axis.
    """
    last = torch.tensor([[width - 1.0], [height - 1.0]])
    # Samples count up to one pixel beyond the outermost centres. The others are moved far away instead of masked: a
    # comparison would split the graph in runtimes that support arithmetic only.
    beyond = at - torch.minimum(at.clamp(min=-1), last + 1)
    at = torch.minimum(at.clamp(min=0), last) + beyond * FAR
    weights = []
    for axis, length in enumerate((width, height)):
        distance = (at[:, :, axis, :, None] - torch.arange(length, dtype=torch.float32)).abs()
        shares = (1 - distance).clamp(min=0)
        weights.append(sum(shares[:, :, i * size : (i + 1) * size] for i in range(ratio)))
    return weights


def _separable(level: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Pool `level (B, C, H, W)` with weights `(B, N, S, H)` and `(B, N, S, W)` to `(B * N, S, S, C)`.

    All products have rank 3, because some runtimes broadcast the matrices of higher ranks element by element.
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
    """Refuse a RoIAlign that the graphs do not support.

    Args:
        extractor: mmdet's SingleRoIExtractor.
        plain: as of `Pyramid`.
        key: path of the extractor in the config.

    Raises:
        InputError: unsupported; the message names the values to train with.
    """
    layer = extractor.roi_layers[0]
    kind = type(layer).__name__
    if kind != 'RoIAlign' or layer.pool_mode != 'avg' or not layer.aligned:
        raise InputError(
            f'{key}.roi_layer: only RoIAlign with aligned=True and average pooling can be exported, not {layer}'
        )
    if plain and layer.sampling_ratio <= 0:
        raise InputError(
            f'{key}.roi_layer.sampling_ratio = {layer.sampling_ratio} adapts to the box size, which this format does '
            'not support. Train with model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio=2 and '
            'model.roi_head.mask_roi_extractor.roi_layer.sampling_ratio=2'
        )
