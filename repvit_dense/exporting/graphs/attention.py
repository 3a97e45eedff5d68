"""Attention layers as matrix products and gathers, with the weights of trained layers."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKED = -3e4  # added to a logit, makes its attention weight exactly 0; representable in half precision


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a layer with detached copies of these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device='meta')
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


class Attention(nn.Module):
    """MultiheadAttention of mmcv with its shortcut; the scale of the logits is folded into the query weights."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        attention = layer.attn
        self.heads, width = attention.num_heads, attention.embed_dim
        scale = (width // self.heads) ** -0.5
        (wq, wk, wv), (bq, bk, bv) = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        self.query, self.key, self.value = linear(wq * scale, bq * scale), linear(wk, bk), linear(wv, bv)
        self.out = attention.out_proj

    def forward(
        self, query: Tensor, query_position: Tensor, memory: Tensor, memory_position: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Attend from queries to a memory; positions are added to queries and keys, not to values.

        Args:
            query: `(B, Q, C)`.
            query_position: broadcast to the same shape.
            memory: `(B, K, C)`.
            memory_position: broadcast to the same shape.
            mask: added to the logits, `(B, 1, 1 or Q, K)`.

        Returns:
            `(B, Q, C)`.
        """
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (
                self.query(query + query_position),
                self.key(memory + memory_position),
                self.value(memory),
            )
        )
        logits = q @ k.transpose(2, 3)
        weights = (logits if mask is None else logits + mask).softmax(-1)
        return query + self.out((weights @ v).transpose(1, 2).flatten(2))


class DeformableAttention(nn.Module):
    """MultiScaleDeformableAttention of mmcv (arXiv 2010.04159) with its shortcut.

    A table holds every pixel together with its right, lower and lower right neighbours, so that a sample is one gather
    and one matrix product, which runtimes compute faster than grid sampling.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.heads, self.levels, self.points = layer.num_heads, layer.num_levels, layer.num_points
        self.value, self.out, self.weights = layer.value_proj, layer.output_proj, layer.attention_weights
        # The trained rows alternate between x and y; here all x come first.
        offsets = layer.sampling_offsets
        order = torch.arange(offsets.out_features).view(-1, 2).t().flatten()
        self.offsets = linear(offsets.weight[order], offsets.bias[order])

    def forward(self, query: Tensor, position: Tensor, sizes: list, reference: Tensor) -> Tensor:
        """Attend from every pixel of every level to a few points of all levels.

        Args:
            query: `(B, N, C)`, the pixels of all levels in turn.
            position: `(1, N, C)`, positional encoding.
            sizes: height and width of each level, in pixels.
            reference: `(2, N)`, x and y of each pixel from 0 to 1.

        Returns:
            `(B, N, C)`.
        """
        located = query + position
        offsets = self.offsets(located).unflatten(-1, (2, self.heads, -1))
        weights = self.weights(located).unflatten(-1, (self.heads, -1)).softmax(-1)
        pixels = self.value(query).split([height * width for height, width in sizes], dim=1)
        total: Any = 0
        for level, (pixel, (height, width)) in enumerate(zip(pixels, sizes, strict=True)):
            part = slice(level * self.points, (level + 1) * self.points)
            x = offsets[:, :, 0, :, part] + (reference[0] * width - 0.5)[:, None, None]
            y = offsets[:, :, 1, :, part] + (reference[1] * height - 0.5)[:, None, None]
            total = total + self._sample(pixel, height, width, x, y, weights[..., part])
        return query + self.out(total.view(query.shape))

    def _sample(self, pixels: Tensor, height: int, width: int, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of bilinear samples of one level, which is 0 outside its border.

        Args:
            pixels: `(B, height * width, C)`.
            height: of the level in pixels.
            width: of the level in pixels.
            x: `(B, N, heads, points)`, in pixels of the level; 0 is the centre of the first pixel.
            y: likewise.
            weights: attention weights, of the same shape.

        Returns:
            `(B * N * heads, 1, C / heads)`.
        """
        table = self._table(pixels.unflatten(1, (height, width)))
        # The level is framed by zeros, so its first pixel lies at 1, and samples outside the frame are zero.
        x, y = (x + 1).clamp(0, width + 1), (y + 1).clamp(0, height + 1)
        left, above = x.floor(), y.floor()
        right, below = x - left, y - above  # weights of the right and of the lower neighbours
        index = (above * (width + 2) + left).int() * self.heads
        images = torch.arange(pixels.shape[0], dtype=torch.int32)[:, None] * ((height + 2) * (width + 2) * self.heads)
        heads = torch.arange(self.heads, dtype=torch.int32)
        index = index + (images + heads)[:, None, :, None]
        lower = weights * below
        upper = weights - lower
        lower_right, upper_right = lower * right, upper * right
        corners = torch.stack((upper - upper_right, upper_right, lower - lower_right, lower_right), -1)
        rows = table.index_select(0, index.flatten()).view(-1, 4 * self.points, table.shape[1] // 4)
        return torch.bmm(corners.view(-1, 1, 4 * self.points), rows)

    def _table(self, pixels: Tensor) -> Tensor:
        """Return every pixel with its three neighbours, `(B * (height + 2) * (width + 2) * heads, 4 C / heads)`."""
        framed = F.pad(pixels, (0, 0, 1, 2, 1, 2)).unflatten(-1, (self.heads, -1))
        upper, lower = framed[:, :-1], framed[:, 1:]
        neighbours = (upper[:, :, :-1], upper[:, :, 1:], lower[:, :, :-1], lower[:, :, 1:])
        return torch.cat(neighbours, -1).flatten(0, 3)


def ramp(length: int, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return positions 1, 2, ... along a side, `(1 or B, length)`, and the last of them, `(1 or B, 1)`.

    Args:
        length: of the side, in pixels.
        last: `(B, 1)`, last position inside the unpadded image, which is repeated in the padding.
    """
    positions = torch.arange(1, length + 1, dtype=torch.float32)[None]
    return (positions, positions[:, -1:]) if last is None else (torch.minimum(positions, last), last)


def sine_position(encoding: nn.Module, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
    """Compute mmdet's SinePositionalEncoding (arXiv 1706.03762) from the two sides of the image.

    Args:
        encoding: mmdet's layer, which holds the settings.
        rows: positions along the height, from `ramp`.
        columns: positions along the width, from `ramp`.

    Returns:
        `(B, height * width, C)`.
    """
    y, x = (_waves(encoding, *side) for side in (rows, columns))
    shape = (-1, y.shape[1], x.shape[1], -1)
    return torch.cat((y[:, :, None].expand(shape), x[:, None].expand(shape)), -1).flatten(1, 2)


def _waves(encoding: nn.Module, position: Tensor, last: Tensor) -> Tensor:
    """Encode positions `(B, length)` by alternating sines and cosines `(B, length, num_feats)`."""
    if encoding.normalize:
        position = (position + encoding.offset) / (last + encoding.eps) * encoding.scale
    steps = range(0, encoding.num_feats, 2)
    periods = torch.tensor([math.pow(encoding.temperature, step / encoding.num_feats) for step in steps])
    angles = position[..., None] / periods
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(2)
