"""timm's modules adapted to dense prediction: attention at any image size, and the blocks of `_timm_fused`.

timm builds the network, then `adapt` changes the class of some of its modules. Parameters, their names and the result
at timm's own image size do not change.

Tables of relative positions are interpolated if the map has another size than in pretraining: the offsets of the table
are stretched to the offsets of the map, and offset 0 stays offset 0. Gradients pass through the interpolation.
"""

import math

import torch
from timm.layers import SyncBatchNormAct
from timm.layers.halo_attn import HaloAttn
from timm.layers.non_local_attn import BilinearAttnTransform
from timm.models import (
    efficientformer,
    efficientformer_v2,
    maxxvit,
    mvitv2,
    swin_transformer,
    swin_transformer_v2,
    swin_transformer_v2_cr,
)
from torch import Tensor, nn
from torch.nn import functional as F

from repvit_dense.backbones._timm_fused import FUSABLE

# Attention in windows that have to fill the map; the attribute holds the side of a window.
WINDOWS = {
    HaloAttn: 'block_size',
    BilinearAttnTransform: 'block_size',
    maxxvit.PartitionAttentionCl: 'partition_size',
    maxxvit.PartitionAttention2d: 'partition_size',
    maxxvit.ParallelPartitionAttention: 'partition_size',
}


def adapt(net: nn.Module) -> nn.Module:
    """Change the class of every module that `ADAPTED` names, in place. Return `net`."""
    for module in net.modules():
        module.__class__ = ADAPTED.get(type(module), type(module))
    if hasattr(net, 'fuse'):  # it fuses the whole network in place; `reparameterize_model` fuses its blocks one by one
        net.fuse = None
    return net


def window_multiple(net: nn.Module) -> int:
    """Return the number of pixels that the sides of an image have to be a multiple of, because of windows; 1 if any."""
    windows = [(getattr(module, WINDOWS[type(module)])) for module in net.modules() if type(module) in WINDOWS]
    return max((32 * (window if isinstance(window, int) else max(window)) for window in windows), default=1)


def restore_activations(net: nn.Module) -> None:
    """Restore, in place, the activations of timm's norms after `torch.nn.SyncBatchNorm.convert_sync_batchnorm`.

    torch converts them to plain SyncBatchNorms, which hold the activation but never call it.
    """
    for module in net.modules():
        if type(module) is nn.SyncBatchNorm and hasattr(module, 'act'):
            module.__class__ = SyncBatchNormAct


# --- Swin ---


class _DynamicShift(nn.Module):
    """Shifts the windows of a block if the map exceeds one window; timm decides this for the pretraining size."""

    def _attn(self, x: Tensor) -> Tensor:
        self._set_shift(x)
        return super()._attn(x)

    def _shifted_window_attn(self, x: Tensor) -> Tensor:
        self._set_shift(x)
        return super()._shifted_window_attn(x)

    def _set_shift(self, x: Tensor) -> None:
        sides = zip(x.shape[1:3], self.window_size, self.target_shift_size, strict=True)
        rows, columns = (0 if side <= window else shift for side, window, shift in sides)
        self.shift_size = rows, columns


class SwinBlock(_DynamicShift, swin_transformer.SwinTransformerBlock):
    """Swin's block with a dynamic shift."""


class SwinV2Block(_DynamicShift, swin_transformer_v2.SwinTransformerV2Block):
    """Swin V2's block with a dynamic shift."""


class SwinV2CrBlock(_DynamicShift, swin_transformer_v2_cr.SwinTransformerV2CrBlock):
    """The block of timm's other Swin V2 with a dynamic shift."""


# --- MViTv2 ---


class MultiScaleAttention(mvitv2.MultiScaleAttention):
    """Pooling attention (arXiv 2112.01526, section 4.1) with tables of relative positions interpolated to the map.

    Maps are `(h, w)`, tokens `(B, h * w, C)`; a class token is not supported.
    """

    def forward(self, x: Tensor, feat_size) -> tuple[Tensor, list[int]]:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, q_size = self._pool(qkv[0], feat_size, self.pool_q, self.norm_q)
        k, k_size = self._pool(qkv[1], feat_size, self.pool_k, self.norm_k)
        v, _ = self._pool(qkv[2], feat_size, self.pool_v, self.norm_v)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        if self.rel_pos_type == 'spatial':
            scores = scores + self._positions(q, q_size, k_size)
        x = scores.softmax(-1) @ v
        if self.residual_pooling:
            x = x + q
        return self.proj(x.transpose(1, 2).reshape(batch, -1, self.dim_out)), q_size

    def _pool(self, x: Tensor, size, pool, norm) -> tuple[Tensor, list[int]]:
        """Apply pooling, which changes h and w, and norm, each of which may be None, to `(B, heads, h * w, C)`."""
        if pool is not None:
            batch, heads, _, channels = x.shape
            x = pool(x.transpose(2, 3).reshape(batch * heads, channels, *size))
            size = list(x.shape[-2:])
            x = x.reshape(batch, heads, channels, -1).transpose(2, 3)
        return (x if norm is None else norm(x)), list(size)

    def _positions(self, q: Tensor, q_size, k_size) -> Tensor:
        """Return the part of the scores, `(B, heads, Nq, Nk)`, that depends on the offset in rows and columns."""
        batch, heads, _, channels = q.shape
        q = q.reshape(batch, heads, *q_size, channels)
        rows = torch.einsum('bnhwc,hkc->bnhwk', q, _relative(self.rel_pos_h, q_size[0], k_size[0]))
        columns = torch.einsum('bnhwc,wkc->bnhwk', q, _relative(self.rel_pos_w, q_size[1], k_size[1]))
        return (rows[..., None] + columns[..., None, :]).reshape(batch, heads, q_size[0] * q_size[1], -1)


def _relative(table: Tensor, q: int, k: int) -> Tensor:
    """Return the rows `(q, k, C)` for q queries and k keys of a table `(2 n - 1, C)` of offsets between n positions."""
    longest = max(q, k)
    if len(table) != 2 * longest - 1:
        table = F.interpolate(table.T[None], 2 * longest - 1, mode='linear')[0].T
    # If keys (or queries) were pooled, one position of theirs spans several of the others.
    queries = torch.arange(q, device=table.device)[:, None] * max(k / q, 1.0)
    keys = torch.arange(k, device=table.device)[None] * max(q / k, 1.0)
    return table[(queries - keys + (k - 1) * max(q / k, 1.0)).long()]


# --- EfficientFormer ---


class _OffsetBias(nn.Module):
    """A table of attention biases by absolute offset, `(heads, R_h * R_w)` for `R_h x R_w` maps, for any map size."""

    attention_biases: Tensor
    attention_bias_cache: dict

    def biases(self, size: tuple[int, int], trained: tuple[int, int], stride: int = 1) -> Tensor:
        """Return `(heads, Nq, Nk)` biases for a map of this size, with queries at every `stride`-th row and column.

        Without gradients the last result is cached, so that prediction at one size computes it once.
        """
        use_cache = not (torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling())
        table = self.attention_biases
        key = (*size, str(table.device), table.dtype, table._version) if use_cache else None
        if use_cache and key in self.attention_bias_cache:
            return self.attention_bias_cache[key]
        table = table.reshape(1, -1, *trained)
        if size != trained:
            table = F.interpolate(table, size, mode='bicubic', align_corners=True)
        rows, columns = (_offsets(side, stride, table.device) for side in size)  # (queries, keys) each
        index = rows[:, None, :, None] * size[1] + columns[None, :, None, :]
        biases = table[0].flatten(1)[:, index.reshape(rows.shape[0] * columns.shape[0], -1)]
        if use_cache:
            self.attention_bias_cache = {key: biases}
        return biases


def _offsets(side: int, stride: int, device) -> Tensor:
    positions = torch.arange(side, device=device)
    return (positions[::stride, None] - positions).abs()


class TokenAttention(_OffsetBias, efficientformer.Attention):
    """EfficientFormer's attention (arXiv 2206.01191, section 3) over the `(B, h * w, C)` tokens of a map `(h, w)`."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, self.num_heads, -1).transpose(1, 2)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.val_dim], dim=-1)
        side = math.isqrt(int(self.attention_biases.shape[1]))  # timm's only resolution is 7 x 7
        scores = (q * self.scale) @ k.transpose(-2, -1) + self.biases(size, (side, side))
        x = scores.softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, self.val_attn_dim))


class TokenBlock(efficientformer.MetaBlock1d):
    """EfficientFormer's attention block on a map `(B, C, h, w)`, converted to tokens and back."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        x = x + self.drop_path1(self.ls1(self.token_mixer(self.norm1(x), tuple(size))))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x.transpose(1, 2).unflatten(2, size)


class Unflattened(efficientformer.Flat):
    """An identity in place of timm's flattening, since the blocks after it expect maps."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class EfficientFormer(efficientformer.EfficientFormer):
    """EfficientFormer with maps from all stages, so that the size of the last one need not be guessed."""

    def forward_intermediates(self, x: Tensor, indices, **_) -> list[Tensor]:  # type: ignore[override]
        x, outs = self.stem(x), []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in indices:
                outs.append(x)
        return outs


class MapAttention(_OffsetBias, efficientformer_v2.Attention2d):
    """EfficientFormerV2's attention (arXiv 2212.08059, section 3) on a map `(B, C, h, w)`."""

    def forward(self, x: Tensor) -> Tensor:
        outer = x.shape[-2:]
        if self.stride_conv is not None:
            x = self.stride_conv(x)
        size = x.shape[-2:]
        q, k, value = self.q(x), self.k(x), self.v(x)
        q, k, v = (t.unflatten(1, (self.num_heads, -1)).flatten(3) for t in (q, k, value))  # (B, heads, C, N)
        biases = self.biases(tuple(size), self.resolution)  # type: ignore[arg-type]
        scores = q.transpose(2, 3) @ k * self.scale + biases
        scores = self.talking_head2(self.talking_head1(scores).softmax(-1))
        x = (v @ scores.transpose(2, 3)).flatten(1, 2).unflatten(2, size) + self.v_local(value)
        if self.upsample is not None:
            x = self.upsample(x)[..., : outer[0], : outer[1]]  # an odd side was rounded up
        return self.proj(self.act(x))


class DownsamplingAttention(_OffsetBias, efficientformer_v2.Attention2dDownsample):
    """EfficientFormerV2's attention with queries at every second row and column: `(B, C, h / 2, w / 2)`."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, value = self.q(x), self.k(x), self.v(x)
        size = q.shape[-2:]
        q, k, v = (t.unflatten(1, (self.num_heads, -1)).flatten(3) for t in (q, k, value))
        scores = q.transpose(2, 3) @ k * self.scale + self.biases(tuple(x.shape[-2:]), self.resolution, stride=2)
        x = (v @ scores.softmax(-1).transpose(2, 3)).flatten(1, 2).unflatten(2, size) + self.v_local(value)
        return self.proj(self.act(x))


ADAPTED = {
    swin_transformer.SwinTransformerBlock: SwinBlock,
    swin_transformer_v2.SwinTransformerV2Block: SwinV2Block,
    swin_transformer_v2_cr.SwinTransformerV2CrBlock: SwinV2CrBlock,
    mvitv2.MultiScaleAttention: MultiScaleAttention,
    efficientformer.Attention: TokenAttention,
    efficientformer.MetaBlock1d: TokenBlock,
    efficientformer.Flat: Unflattened,
    efficientformer.EfficientFormer: EfficientFormer,
    efficientformer_v2.Attention2d: MapAttention,
    efficientformer_v2.Attention2dDownsample: DownsamplingAttention,
    **{block.__bases__[-1]: block for block in FUSABLE},
}
