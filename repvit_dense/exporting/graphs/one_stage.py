"""Detectors that classify and regress anchors in one stage: RetinaNet and SSDLite."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from repvit_dense.exporting.graphs import ops
from repvit_dense.exporting.graphs.base import Graph


class OneStage(Graph):
    """A detector of mmdet with a dense head: the best pairs of anchor and class of each level, followed by NMS.

    For dynamic sizes, trace it at a size that gives every level at least two pixels along each axis, see
    `sizes.smallest_dynamic_side`.
    """

    task = 'detection'

    def __init__(self, model: nn.Module, plain: bool = False):
        super().__init__(model, plain)
        self.cfg = self.head.test_cfg
        ops.iou_threshold(self.cfg)

    @property
    def head(self) -> nn.Module:
        """The dense head of the model."""
        return self.model.bbox_head

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels and count, see `Graph.forward`."""
        logits, deltas = self.head(self.model.extract_feat(images))
        scores, labels, anchors, deltas = self.candidates(logits, deltas)
        boxes = ops.decode_boxes(self.head.bbox_coder, anchors, deltas, img_hw)
        boxes, scores, labels, _ = self.select(boxes, scores, labels)
        return boxes, scores, labels.int(), ops.count_valid(scores)

    def candidates(self, logits: list[Tensor], values: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the `nms_pre` best pairs of prior and class of each level that exceed the score threshold.

        Args:
            logits: `(B, A * C, H, W)` per level.
            values: `(B, A * D, H, W)` per level, the other predictions for each prior.

        Returns:
            Scores `(B, N)`, 0 for padding; labels `(B, N)`; priors `(B, N, 4)`; values `(B, N, D)`.
        """
        head, levels = self.head, []
        for i, (logit, value) in enumerate(zip(logits, values, strict=True)):
            score, to_probability = self._scores(logit)
            score, prior, label = ops.topk_pairs(score, self.cfg['nms_pre'], self.plain)
            priors = self.priors(logit.shape[2:], i, logit.device)
            value = ops.flatten_level(value, value.shape[1] // head.prior_generator.num_base_priors[i])
            gathered = ops.gather_rows(priors, prior), ops.gather_rows(value, prior)
            levels.append((to_probability(score), label, *gathered))
        scores, labels, priors, values = (torch.cat(part, dim=1) for part in zip(*levels, strict=True))
        return ops.zero_unless(scores, scores > self.cfg['score_thr']), labels, priors, values

    def _scores(self, logits: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return scores `(B, N, C)` to rank by, and the function that turns them into probabilities."""
        logits = ops.flatten_level(logits, self.head.cls_out_channels)
        if self.head.use_sigmoid_cls:
            return logits, torch.sigmoid
        # A log-softmax by hand: OpenVINO 2026 fails on `softmax(...)[..., :-1]` right before a selection.
        logits = logits - logits.amax(2, keepdim=True)
        return logits[..., :-1] - logits.exp().sum(2, keepdim=True).log(), torch.exp

    def priors(self, size: tuple[int, int], level: int, device: torch.device) -> Tensor:
        """Return the anchors `(N, 4)` of a level of this height and width."""
        return self.head.prior_generator.single_level_grid_priors(size, level, device=device)

    def select(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Drop small boxes, then select as `ops.select_detections`."""
        scores = ops.drop_small(boxes, scores, self.cfg.get('min_bbox_size', -1))
        return ops.select_detections(boxes, scores, labels, self.cfg, self.head.num_classes, self.plain)


class RetinaNet(OneStage):
    """RetinaNet (arXiv 1708.02002)."""


class SSDLite(OneStage):
    """SSD (arXiv 1512.02325) with depthwise separable heads (arXiv 1801.04381)."""
