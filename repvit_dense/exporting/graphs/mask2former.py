"""Mask2Former (arXiv 2112.01527): each query predicts the class and the mask of a segment."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repvit_dense.exporting.graphs.attention import BLOCKED, Attention, DeformableAttention, linear, ramp, sine_position
from repvit_dense.exporting.graphs.base import Graph
from repvit_dense.exporting.graphs.ops import clip_boxes, gather_rows


class PixelDecoder(nn.Module):
    """MSDeformAttnPixelDecoder of mmdet without its last convolution, which `Queries` merges into the embeddings."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder
        self.attention = nn.ModuleList(DeformableAttention(layer.self_attn) for layer in decoder.encoder.layers)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[list[Tensor], Tensor]:
        """Return the levels that queries attend to, `(B, C, h, w)` from coarse to fine, and the finest feature map."""
        decoder, finer = self.decoder, len(features) - self.decoder.num_encoder_levels
        inputs = [conv(feature) for conv, feature in zip(decoder.input_convs, features[finer:][::-1], strict=True)]
        sizes = [level.shape[2:] for level in inputs]
        positions = [sine_position(decoder.postional_encoding, ramp(h), ramp(w)) for h, w in sizes]
        position = torch.cat([p + e for p, e in zip(positions, decoder.level_encoding.weight, strict=True)], 1)
        reference = torch.cat([_centres(*size) for size in sizes], 1)
        memory = torch.cat([level.flatten(2).transpose(1, 2) for level in inputs], 1)
        for attention, layer in zip(self.attention, decoder.encoder.layers, strict=True):
            memory = layer.norms[0](attention(memory, position, sizes, reference))
            memory = layer.norms[1](layer.ffn(memory))
        split = memory.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
        levels = [level.unflatten(2, tuple(size)) for level, size in zip(split, sizes, strict=True)]
        fine = levels[-1]
        for i in reversed(range(finer)):
            side = decoder.lateral_convs[i](features[i])
            fine = decoder.output_convs[i](side + F.interpolate(fine, size=side.shape[2:], mode='bilinear'))
        return levels, fine


def _centres(height: int, width: int) -> Tensor:
    """Return x and y of the centre of every pixel, from 0 to 1: `(2, height * width)`."""
    y, x = ((torch.arange(length, dtype=torch.float32) + 0.5) / length for length in (height, width))
    return torch.stack((x[None].expand(height, width), y[:, None].expand(height, width))).flatten(1)


class Queries(nn.Module):
    """Mask2FormerHead of mmdet.

    A mask is the product of a query's embedding and the features of the pixels. The last convolution of these features
    is applied to the embeddings instead, and attention masks of a coarser level are computed from features resized to
    that level. The results are equal up to rounding, and no intermediate mask has full size.
    """

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head
        self.pixel_decoder = PixelDecoder(head.pixel_decoder)
        layers = head.transformer_decoder.layers
        self.cross = nn.ModuleList(Attention(layer.cross_attn) for layer in layers)
        self.self_attention = nn.ModuleList(Attention(layer.self_attn) for layer in layers)
        last, conv = head.mask_embed[-1], head.pixel_decoder.mask_feature
        mix = torch.cat((conv.weight[:, :, 0, 0].t(), conv.bias[None]))  # (C + 1, C), the bias as an additional feature
        self.embed = nn.Sequential(*head.mask_embed[:-1], linear(mix @ last.weight, mix @ last.bias))

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return class logits `(B, Q, classes + 1)`, and embeddings `(B, Q, C + 1)` and pixels `(B, C, h, w)`."""
        head, decoder = self.head, self.head.transformer_decoder
        levels, pixels = self.pixel_decoder(features)
        positions = [
            sine_position(head.decoder_positional_encoding, *(ramp(side) for side in level.shape[2:]))
            for level in levels
        ]
        levels = [project(level) for project, level in zip(head.decoder_input_projs, levels, strict=True)]
        coarse = [F.interpolate(pixels, size=level.shape[2:], mode='bilinear') for level in levels]
        memories = [
            level.flatten(2).transpose(1, 2) + embedding
            for level, embedding in zip(levels, head.level_embed.weight, strict=True)
        ]
        position = head.query_embed.weight
        query = head.query_feat.weight.expand(pixels.shape[0], -1, -1)
        for i, layer in enumerate(decoder.layers):
            level = i % len(levels)
            mask = self._attention_mask(masks(self.embed(decoder.post_norm(query)), coarse[level]))
            query = layer.norms[0](self.cross[i](query, position, memories[level], positions[level], mask))
            query = layer.norms[1](self.self_attention[i](query, position, query, position))
            query = layer.norms[2](layer.ffn(query))
        query = decoder.post_norm(query)
        return head.cls_embed(query), self.embed(query), pixels

    @staticmethod
    def _attention_mask(logits: Tensor) -> Tensor:
        """Return `(B, 1, Q, h * w)`, which restricts a query to its mask `(B, Q, h, w)`, unless that is empty."""
        outside = (logits.flatten(2) < 0).float()
        has_mask = 1 - outside.amin(2, keepdim=True)
        return (outside * has_mask * BLOCKED)[:, None]


def masks(embedding: Tensor, pixels: Tensor) -> Tensor:
    """Return mask logits `(B, Q, h, w)` of query embeddings `(B, Q, C + 1)` on pixels `(B, C, h, w)`."""
    weight, bias = embedding[..., :-1], embedding[..., -1:]
    return (weight @ pixels.flatten(2) + bias).unflatten(2, tuple(pixels.shape[2:]))


class Mask2Former(Graph):
    """Mask2Former of mmdet: panoptic segments if `test_cfg.panoptic_on`, else instances.

    mmdet computes boxes and mask quality, a factor of the score, from masks at the original size, which only the
    predictor knows. For instances the graph returns the class score alone, and boxes of the coarse masks, which may be
    off by one of their pixels, 4 pixels of the image.
    """

    mask_kind = 'image'
    thresholds = True  # each layer attends within the previous layer's masks, cut at 0.5

    def __init__(self, model: nn.Module, plain: bool = False):
        super().__init__(model, plain)
        cfg = model.test_cfg or {}
        self.queries = Queries(model.panoptic_head)
        self.classes, self.things = model.num_classes, model.num_things_classes
        self.task = 'panoptic' if cfg.get('panoptic_on', True) else 'instance'
        self.max_segments = model.panoptic_head.num_queries
        self.stride = model.backbone.out_strides[0]
        if self.task == 'panoptic':
            self.postprocess = {
                'object_mask_thr': cfg.get('object_mask_thr', 0.8),
                'iou_thr': cfg.get('iou_thr', 0.8),
                'filter_low_score': cfg.get('filter_low_score', False),
                'num_things': self.things,
            }
        else:
            self.max_segments = min(cfg.get('max_per_image', 100), self.max_segments * self.classes)
            self.postprocess = {'mask_thr': 0.5, 'boxes_from_masks': True, 'scores_from_masks': True}

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        """Return scores, labels, masks and count, with boxes first for instances, see `Graph.forward`."""
        logits, embedding, pixels = self.queries(self.model.extract_feat(images))
        scores, labels, query = self._candidates(logits.softmax(-1))
        scores, best = scores.topk(self.max_segments)
        valid = (scores > 0).float()
        labels, count = (labels.gather(1, best) * valid).int(), valid.sum(1).int()
        mask = masks(gather_rows(embedding, query.gather(1, best)), pixels) * valid[..., None, None]
        if self.task == 'panoptic':
            return scores, labels, mask, count
        return clip_boxes(_mask_boxes(mask) * self.stride, img_hw), scores, labels, mask, count

    def _candidates(self, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, 0 for none, labels and queries of segments or instances, `(B, K)` each."""
        queries = torch.arange(probabilities.shape[1])
        if self.task == 'panoptic':
            scores, labels = probabilities.max(-1)
            valid = (labels < self.classes).float() * (scores > self.postprocess['object_mask_thr']).float()
            return scores * valid, labels, queries.expand(scores.shape)
        scores, index = probabilities[..., :-1].flatten(1).topk(self.max_segments)
        query = queries.repeat_interleave(self.classes)[index]
        labels = index - query * self.classes
        return scores * (labels < self.things).float(), labels, query


class Mask2FormerSemantic(Graph):
    """Mask2Former of mmseg: the class scores of a pixel are summed over all queries, weighted by their masks."""

    task = 'semantic'

    def __init__(self, model: nn.Module, plain: bool = False):
        super().__init__(model, plain)
        self.queries = Queries(model.decode_head)

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        """Return the class of every pixel, see `Graph.forward`."""
        logits, embedding, pixels = self.queries(self.model.extract_feat(images))
        mask = F.interpolate(masks(embedding, pixels), size=images.shape[2:], mode='bilinear').sigmoid()
        classes = logits.softmax(-1)[..., :-1].transpose(1, 2)
        return ((classes @ mask.flatten(2)).argmax(1).unflatten(1, tuple(images.shape[2:])).int(),)


def _mask_boxes(mask: Tensor) -> Tensor:
    """Return boxes `(B, K, 4)` around masks `(B, K, h, w)` of logits, in pixels of the masks; 0 for an empty mask."""
    inside = (mask > 0).float()
    (left, right), (top, bottom) = (_ends(inside.amax(axis)) for axis in (2, 3))
    return torch.stack((left, top, right, bottom), -1)


def _ends(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return the start of the first one and the end of the last one in rows `(B, K, n)` of zeros and ones, else 0."""
    length = inside.shape[2]
    end = torch.arange(1, length + 1, dtype=torch.float32)
    last = (inside * end).amax(2)
    first = length - (inside * (length + 1 - end)).amax(2)
    return torch.minimum(first, last), last
