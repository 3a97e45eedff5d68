"""DETR: features, transformer, boxes; no anchors and no NMS."""

import torch
from torch import Tensor, nn

from repvit_dense.errors import InputError
from repvit_dense.exporting.graphs.attention import BLOCKED, Attention, ramp, sine_position
from repvit_dense.exporting.graphs.base import Graph
from repvit_dense.exporting.graphs.ops import clip, take


class DETR(Graph):
    """mmdet's DETR. It has no score threshold: all `max_per_img` detections count."""

    task = 'detection'

    def __init__(self, model: nn.Module, plain: bool = False):
        super().__init__(model, plain)
        self.head = model.bbox_head
        if self.head.loss_cls.use_sigmoid:
            raise InputError('bbox_head.loss_cls.use_sigmoid=True: this DETR cannot be exported; its head is a softmax')
        self.kept = min((self.head.test_cfg or {}).get('max_per_img', model.num_queries), model.num_queries)
        self.stride = model.backbone.out_strides[-1]
        self.encoder = nn.ModuleList(Attention(layer.self_attn) for layer in model.encoder.layers)
        self.decoder = nn.ModuleList(Attention(layer.self_attn) for layer in model.decoder.layers)
        self.cross = nn.ModuleList(Attention(layer.cross_attn) for layer in model.decoder.layers)

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        hidden = self._transform(self.model.extract_feat(images)[-1], img_hw)
        logits, boxes = self.head(hidden)
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        scores, best = scores.topk(self.kept)
        centre, half = take(boxes, best).chunk(2, dim=2)
        half = half / 2
        size = torch.cat((img_hw[:, 1:], img_hw[:, :1]), 1)[:, None]
        boxes = torch.cat(((centre - half) * size, (centre + half) * size), 2)
        count = torch.full_like(img_hw[:, 0], self.kept)
        return clip(boxes, img_hw), scores, labels.gather(1, best).int(), count.int()

    def _transform(self, feature: Tensor, img_hw: Tensor) -> Tensor:
        """Encoder and decoder: `(B, C, h, w)` to queries `(B, Q, C)`. Nothing looks at the padding."""
        height, width = feature.shape[2:]
        true = torch.ceil(img_hw / self.stride)  # of the feature's pixels, those whose first image pixel is no padding
        rows, columns = ramp(height, true[:, :1]), ramp(width, true[:, 1:])
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
