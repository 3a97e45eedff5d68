"""RTMDet (arXiv 2212.07784): dense boxes; RTMDet-Ins adds masks by a small network with weights for each object."""

import torch
from torch import Tensor, nn

from repvit_dense.exporting.graphs import ops
from repvit_dense.exporting.graphs.one_stage import OneStage


class RTMDet(OneStage):
    """RTMDet of mmdet."""

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels and count, see `Graph.forward`."""
        logits, distances = self.head(self.model.extract_feat(images))
        boxes, scores, labels, *_ = self.detect(logits, distances, img_hw)
        return boxes, scores, labels.int(), ops.count_valid(scores)

    def detect(self, logits: list[Tensor], values: list[Tensor], img_hw: Tensor) -> tuple[Tensor, ...]:
        """Select detections.

        Args:
            logits: `(B, C, H, W)` per level.
            values: `(B, D, H, W)` per level; the first 4 are the distances from the point to the sides of the box.
            img_hw: see `Graph.forward`.

        Returns:
            Boxes, scores and labels; their rows `(B, K)` among the candidates; points `(B, N, 4)` and values
            `(B, N, D)` of all candidates.
        """
        scores, labels, points, joined = self.candidates(logits, values)
        boxes = torch.cat((points[..., :2] - joined[..., :2], points[..., :2] + joined[..., 2:4]), dim=2)
        boxes = ops.clip_boxes(boxes, img_hw) if self.head.bbox_coder.clip_border else boxes
        boxes, scores, labels, chosen = self.select(boxes, scores, labels)
        return boxes, scores, labels, chosen, points, joined

    def priors(self, size: tuple[int, int], level: int, device: torch.device) -> Tensor:
        """Return the points of a level with its stride, `(N, 4)`: x, y, stride, stride."""
        generator = self.head.prior_generator
        points = generator.single_level_grid_priors(size, level, device=device)
        return torch.cat((points, torch.full_like(points, float(generator.strides[level][0]))), dim=1)


class RTMDetIns(RTMDet):
    """RTMDet-Ins of mmdet; masks cover the padded image at the stride of the first level."""

    task = 'instance'
    mask_kind = 'image'

    def __init__(self, model: nn.Module, plain: bool = False):
        super().__init__(model, plain)
        self.postprocess = {'mask_thr': self.cfg['mask_thr_binary'], 'mask_canvas': True}

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels, masks and count, see `Graph.forward`."""
        logits, distances, kernels, mask_feat = self.head(self.model.extract_feat(images))
        values = [torch.cat(pair, dim=1) for pair in zip(distances, kernels, strict=True)]
        boxes, scores, labels, chosen, points, values = self.detect(logits, values, img_hw)
        masks = self._masks(mask_feat, ops.gather_rows(values[..., 4:], chosen), ops.gather_rows(points, chosen))
        masks = ops.zero_unless(masks, (scores > 0)[..., None, None])
        return boxes, scores, labels.int(), masks, ops.count_valid(scores)

    def _masks(self, features: Tensor, kernels: Tensor, points: Tensor) -> Tensor:
        """Apply each object's network to the prototypes and to the pixel positions relative to the object.

        Its first layer is linear in the position, `(point - pixel) / (8 * stride)`, so all objects share one input:
        the prototypes, x and y of the pixel, and 1.

        Args:
            features: `(B, prototypes, H, W)`.
            kernels: `(B, K, parameters)`; weights of all layers, then biases.
            points: `(B, K, 4)`.

        Returns:
            Logits `(B, K, H, W)`.
        """
        head, (height, width) = self.head, features.shape[2:]
        count, hidden = kernels.shape[1], head.dyconv_channels
        parts = kernels.split(head.weight_nums + head.bias_nums, dim=2)
        weights, biases = parts[: head.num_dyconvs], parts[head.num_dyconvs :]

        pixels = head.prior_generator.single_level_grid_priors((height, width), 0, device=features.device)
        pixels = pixels.T.expand(features.shape[0], -1, -1)
        shared = torch.cat((features.flatten(2), pixels, torch.ones_like(pixels[:, :1])), dim=1)
        first = weights[0].unflatten(2, (hidden, -1))  # (B, K, hidden, 2 + prototypes)
        slope = first[..., :2] / (8 * points[..., None, 2:])
        constant = biases[0] + (slope * points[..., None, :2]).sum(3)
        first = torch.cat((first[..., 2:], -slope, constant[..., None]), dim=3)
        x = (first.flatten(1, 2) @ shared).unflatten(1, (count, hidden))  # (B, K, hidden, H * W)
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            x = weight.unflatten(2, (-1, hidden)) @ x.relu() + bias[..., None]
        return x[:, :, 0].unflatten(2, (height, width))
