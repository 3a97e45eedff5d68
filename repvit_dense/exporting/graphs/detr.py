"""DETR (arXiv 2005.12872): a transformer that predicts a fixed set of boxes, without anchors and NMS."""

import torch
from torch import Tensor, nn

from repvit_dense.errors import InputError
from repvit_dense.exporting.graphs.attention import BLOCKED, Attention, ramp, sine_position
from repvit_dense.exporting.graphs.base import Graph
from repvit_dense.exporting.graphs.ops import clip_boxes, gather_rows


class DETR(Graph):
    """DETR of mmdet; without a score threshold, it always returns `max_per_img` detections."""

    task = 'detection'

    def __init__(self, model: nn.Module, plain: bool = False):
        super().__init__(model, plain)
        self.head = model.bbox_head
        if self.head.loss_cls.use_sigmoid:
            raise InputError('bbox_head.loss_cls.use_sigmoid=True cannot be exported; DETR needs a softmax')
        self.max_detections = min((self.head.test_cfg or {}).get('max_per_img', model.num_queries), model.num_queries)
        self.stride = model.backbone.out_strides[-1]
        self.encoder = nn.ModuleList(Attention(layer.self_attn) for layer in model.encoder.layers)
        self.decoder = nn.ModuleList(Attention(layer.self_attn) for layer in model.decoder.layers)
        self.cross = nn.ModuleList(Attention(layer.cross_attn) for layer in model.decoder.layers)

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels and count, see `Graph.forward`."""
        hidden = self._transform(self.model.extract_feat(images)[-1], img_hw)
        logits, boxes = self.head(hidden)
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        scores, best = scores.topk(self.max_detections)
        centre, half = gather_rows(boxes, best).chunk(2, dim=2)
        half = half / 2
        size = torch.cat((img_hw[:, 1:], img_hw[:, :1]), 1)[:, None]
        boxes = torch.cat(((centre - half) * size, (centre + half) * size), 2)
        count = torch.full_like(img_hw[:, 0], self.max_detections)
        return clip_boxes(boxes, img_hw), scores, labels.gather(1, best).int(), count.int()

    def _transform(self, feature: Tensor, img_hw: Tensor) -> Tensor:
        """Run encoder and decoder: features `(B, C, h, w)` to queries `(B, Q, C)`; attention excludes the padding."""
        height, width = feature.shape[2:]
        valid = torch.ceil(img_hw / self.stride)  # feature pixels whose first image pixel is not padding
        rows, columns = ramp(height, valid[:, :1]), ramp(width, valid[:, 1:])
        position = sine_position(self.model.positional_encoding, rows, columns)
        beyond_y, beyond_x = (
            (ramp(length)[0] > side[1]).float() for length, side in ((height, rows), (width, columns))
        )
        mask = (torch.maximum(beyond_y[:, :, None], beyond_x[:, None]) * BLOCKED).flatten(1)[:, None, None]

        memory = feature.flatten(2).transpose(1, 2)
        for attention, layer in zip(self.encoder, self.model.encoder.layers, strict=True):
            memory = layer.norms[0](attention(memory, position, memory, position, mask))
            memory = layer.norms[1](layer.ffn(memory))
        embedding = self.model.query_embedding.weight
        query = torch.zeros_like(embedding).expand(feature.shape[0], -1, -1)
        for attention, cross, layer in zip(self.decoder, self.cross, self.model.decoder.layers, strict=True):
            query = layer.norms[0](attention(query, embedding, query, embedding))
            query = layer.norms[1](cross(query, embedding, memory, position, mask))
            query = layer.norms[2](layer.ffn(query))
        return self.model.decoder.post_norm(query)
