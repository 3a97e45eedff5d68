"""Detectors that classify proposals in a second stage: Mask R-CNN and Cascade Mask R-CNN."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repvit_dense.exporting.graphs import ops
from repvit_dense.exporting.graphs.base import Graph
from repvit_dense.exporting.graphs.roi_align import Pyramid, check_pooling


def _stages(part: nn.Module) -> list[nn.Module]:
    """Return the stages of a cascade, or the part itself as the only stage."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]


class TwoStage(Graph):
    """Mask R-CNN (arXiv 1703.06870), Cascade Mask R-CNN (arXiv 1906.09756), and both without masks.

    In plain graphs, padding proposals are processed like real ones. Masks are computed for the detections only, and
    for their class only.
    """

    mask_kind: str | None = 'roi'

    def __init__(self, model: nn.Module, plain: bool = False):
        super().__init__(model, plain)
        roi_head = model.roi_head
        self.extractors, self.box_heads = _stages(roi_head.bbox_roi_extractor), _stages(roi_head.bbox_head)
        self.cfg = roi_head.test_cfg
        self.task = 'instance' if roi_head.with_mask else 'detection'
        checked = [('bbox_roi_extractor', self.extractors)]
        if roi_head.with_mask:
            self.mask_extractors, self.mask_heads = _stages(roi_head.mask_roi_extractor), _stages(roi_head.mask_head)
            self.postprocess = {'mask_thr': self.cfg['mask_thr_binary']}
            checked.append(('mask_roi_extractor', self.mask_extractors))
        else:
            self.mask_kind = None
        for key, extractors in checked:
            for extractor in extractors:
                check_pooling(extractor, plain, f'model.roi_head.{key}')
        ops.iou_threshold(self.cfg)
        ops.iou_threshold(model.rpn_head.test_cfg)

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels, masks if there are any, and count, see `Graph.forward`."""
        features = self.model.extract_feat(images)
        proposals, valid = self._proposals(features, img_hw)
        pyramid = Pyramid(features, self.extractors[0], self.plain)
        boxes, scores, labels = self._detections(pyramid, proposals, valid, img_hw)
        if self.task == 'detection':
            return boxes, scores, labels.int(), ops.count_valid(scores)
        return boxes, scores, labels.int(), self._masks(pyramid, boxes, scores, labels), ops.count_valid(scores)

    def _proposals(self, features: tuple[Tensor, ...], img_hw: Tensor) -> tuple[Tensor, Tensor]:
        """Return proposals `(B, P, 4)`, and 1 for real ones or 0 for padding, `(B, P)`."""
        head, cfg = self.model.rpn_head, self.model.rpn_head.test_cfg
        levels = []
        for i, (logits, deltas) in enumerate(zip(*head(features), strict=True)):
            best, index = ops.topk_padded(ops.flatten_level(logits, 1)[..., 0], cfg['nms_pre'], ops.PAD_LOGIT)
            anchors = head.prior_generator.single_level_grid_priors(logits.shape[2:], i, device=logits.device)
            deltas = ops.gather_rows(ops.flatten_level(deltas, 4), index)
            levels.append((best, ops.gather_rows(anchors, index), deltas))
        best, anchors, deltas = (torch.cat(part, dim=1) for part in zip(*levels, strict=True))  # (B, levels * nms_pre)
        boxes = ops.decode_boxes(head.bbox_coder, anchors, deltas, img_hw)
        scores = ops.drop_small(boxes, best.sigmoid(), cfg.get('min_bbox_size', -1))
        boxes, scores = (part.unflatten(1, (len(levels), -1)) for part in (boxes, scores))
        surviving = ops.nms(boxes.flatten(0, 1), scores.flatten(0, 1), ops.iou_threshold(cfg), self.plain)
        best, index = ops.topk_padded(surviving.reshape(scores.shape).flatten(1), cfg['max_per_img'])
        return ops.gather_rows(boxes.flatten(1, 2), index), (best > 0).to(best)

    def _detections(
        self, pyramid: Pyramid, boxes: Tensor, valid: Tensor, img_hw: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels of the K best detections; each stage of a cascade refines the proposals."""
        total: Any = 0
        index = ops.valid_indices(valid, self.plain)
        batch, proposals = valid.shape
        for i, (extractor, head) in enumerate(zip(self.extractors, self.box_heads, strict=True)):
            outputs = head(pyramid.pool(boxes, extractor.roi_layers[0], index))
            logits, deltas = (
                ops.scatter_back(output, index, batch * proposals).unflatten(0, (batch, proposals))
                for output in outputs
            )
            deltas = deltas.unflatten(2, (-1, 4))  # (B, P, classes or 1, 4)
            total = total + logits
            if i + 1 < len(self.box_heads):
                best = self._of_class(deltas, logits[..., :-1].argmax(2))
                boxes = ops.decode_boxes(head.bbox_coder, boxes, best, img_hw)
        scores = (total / len(self.box_heads)).softmax(2)[..., :-1] * valid[..., None]
        return self._select(boxes, scores, deltas, img_hw)

    def _of_class(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """Select the deltas `(B, P, 4)` of one class per proposal from `(B, P, classes or 1, 4)`."""
        if deltas.shape[2] == 1:
            return deltas[:, :, 0]
        return deltas.gather(2, labels[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]

    def _select(
        self, proposals: Tensor, scores: Tensor, deltas: Tensor, img_hw: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the best pairs of proposal and class and apply NMS."""
        head, classes = self.box_heads[-1], scores.shape[2]
        best, proposal, labels = ops.topk_pairs(scores, ops.max_candidates(self.plain), self.plain)
        best = ops.zero_unless(best, best > self.cfg['score_thr'])
        index = proposal if deltas.shape[2] == 1 else proposal * classes + labels
        chosen = ops.gather_rows(proposals, proposal), ops.gather_rows(deltas.flatten(1, 2), index)
        boxes = ops.decode_boxes(head.bbox_coder, *chosen, img_hw)
        return ops.select_detections(boxes, best, labels, self.cfg, classes, self.plain)[:3]

    def _masks(self, pyramid: Pyramid, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Return mask probabilities `(B, K, h, w)` of the predicted class; a cascade averages its heads."""
        index = ops.valid_indices(scores, self.plain)
        pooled = pyramid.pool(boxes, self.mask_extractors[0].roi_layers[0], index)
        labels = labels if index is None else labels.flatten()[index]
        masks = sum(self._mask(head, pooled, labels.flatten()) for head in self.mask_heads) / len(self.mask_heads)
        masks = ops.scatter_back(masks, index, scores.shape[0] * scores.shape[1]).unflatten(0, scores.shape)
        return ops.zero_unless(masks, (scores > 0)[..., None, None])

    def _mask(self, head: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        """Run mmdet's FCNMaskHead for one class per box and return probabilities `(n, h, w)`."""
        for conv in head.convs:
            x = conv(x)
        labels = torch.zeros_like(labels) if head.class_agnostic else labels
        kernels, bias = head.conv_logits.weight[:, :, 0, 0][labels], head.conv_logits.bias[labels]
        if head.upsample_method != 'deconv':
            x = x if head.upsample is None else head.upsample(x)
            logits = torch.bmm(kernels[:, None], x.flatten(2)).unflatten(2, x.shape[2:])
        else:
            logits = _deconvolve(head.upsample, x, kernels)
        return (logits[:, 0] + bias[:, None, None]).sigmoid()


def _deconvolve(layer: nn.ConvTranspose2d, x: Tensor, kernels: Tensor) -> Tensor:
    """Apply a transposed convolution without overlap, ReLU, and a 1x1 kernel per box, `kernels (n, C)`.

    The first is computed as a 1x1 convolution to all pixels of a cell, which are put in order after the last kernel,
    when one channel is left.
    """
    outputs, stride = layer.out_channels, layer.stride[0]
    weight = layer.weight.permute(1, 2, 3, 0).reshape(-1, layer.in_channels, 1, 1)
    bias = layer.bias.repeat_interleave(stride * stride)
    cells = F.conv2d(x, weight, bias).relu().reshape(-1, outputs, stride * stride * x.shape[2] * x.shape[3])
    return F.pixel_shuffle(torch.bmm(kernels[:, None], cells).reshape(-1, stride * stride, *x.shape[2:]), stride)
