"""Detectors that score and shift anchors in one pass: RetinaNet and SSDLite."""

import torch
from torch import Tensor, nn

from repvit_dense.exporting.graphs import ops
from repvit_dense.exporting.graphs.base import Graph


class OneStage(Graph):
    """What a detector of mmdet with a dense head does: the best pairs of anchor and class of each level, then NMS.

    To export it for all sizes, trace it where every level has two pixels or more in each direction, see
    `formats.smallest_open`.
    """

    task = 'detection'

    def __init__(self, model: nn.Module, plain: bool = False):
        super().__init__(model, plain)
        self.cfg = self.head.test_cfg
        ops.iou_threshold(self.cfg)

    @property
    def head(self) -> nn.Module:
        return self.model.bbox_head

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        logits, deltas = self.head(self.model.extract_feat(images))
        scores, labels, anchors, deltas = self.candidates(logits, deltas)
        boxes = ops.decode(self.head.bbox_coder, anchors, deltas, img_hw)
        boxes, scores, labels, _ = self.select(boxes, scores, labels)
        return boxes, scores, labels.int(), ops.count(scores)

    def candidates(self, logits: list[Tensor], values: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The `nms_pre` best pairs of prior and class of each level that exceed the score threshold.

        Args:
            logits: `(B, A * C, H, W)` per level.
            values: `(B, A * D, H, W)` per level, what to keep of each prior.

        Returns:
            scores `(B, N)`, 0 where there is none; labels `(B, N)`; priors `(B, N, 4)`; values `(B, N, D)`.
        """
        head, found = self.head, []
        for i, (logit, value) in enumerate(zip(logits, values, strict=True)):
            score, activate = self._scores(logit)
            score, prior, label = ops.best_of_level(score, self.cfg['nms_pre'], self.plain)
            priors = self.priors(logit.shape[2:], i, logit.device)
            value = ops.rows(value, value.shape[1] // head.prior_generator.num_base_priors[i])
            found.append((activate(score), label, ops.take(priors, prior), ops.take(value, prior)))
        scores, labels, priors, values = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
        return ops.only(scores, scores > self.cfg['score_thr']), labels, priors, values

    def _scores(self, logits: Tensor):
        """Numbers `(B, N, C)` that rank, and what makes probabilities of them, which only the best need."""
        logits = ops.rows(logits, self.head.cls_out_channels)
        if self.head.use_sigmoid_cls:
            return logits, torch.sigmoid
        # A softmax by hand: OpenVINO 2026 fails where `[..., :-1]` stands right before a selection.
        logits = logits - logits.amax(2, keepdim=True)
        return logits[..., :-1] - logits.exp().sum(2, keepdim=True).log(), torch.exp

    def priors(self, size: tuple[int, int], level: int, device: torch.device) -> Tensor:
        """Anchors of a level of this height and width, `(N, 4)`."""
        return self.head.prior_generator.single_level_grid_priors(size, level, device=device)

    def select(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `ops.detections`, without boxes that are too small."""
        scores = ops.drop_small(boxes, scores, self.cfg.get('min_bbox_size', -1))
        return ops.detections(boxes, scores, labels, self.cfg, self.head.num_classes, self.plain)


class RetinaNet(OneStage):
    """RetinaNet (arXiv 1708.02002)."""


class SSDLite(OneStage):
    """SSD (arXiv 1512.02325) with depthwise separable heads (arXiv 1801.04381)."""
