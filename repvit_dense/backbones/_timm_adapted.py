"""timm's modules adapted to dense prediction: attention at any image size, blocks that can be fused.

timm builds the network, then `adapt` changes the class of some of its modules. Parameters, their names and the result
at timm's own image size do not change.

Tables of relative positions are interpolated if the map has another size than in pretraining: the offsets of the table
are stretched to the offsets of the map, and offset 0 stays offset 0. Gradients pass through the interpolation.
"""

import copy
import math

import torch
from timm.layers import SyncBatchNormAct
from timm.models import byobnet, efficientformer, efficientformer_v2, fastvit, mvitv2, swin_transformer
from torch import Tensor, nn
from torch.nn import functional as F

# Arguments of the networks in a module of timm without which they accept one image size only.
OPTIONS = {
    'timm.models.swin_transformer': {'strict_img_size': False},
    'timm.models.vision_transformer': {'dynamic_img_size': True},
}


def adapt(net: nn.Module) -> nn.Module:
    """Change the class of every module that `ADAPTED` names, in place. Return `net`."""
    for module in net.modules():
        module.__class__ = ADAPTED.get(type(module), type(module))
    if hasattr(net, 'fuse'):  # it fuses the whole network in place; `reparameterize_model` fuses its blocks one by one
        net.fuse = None
    return net


def restore_activations(net: nn.Module) -> None:
    """Restore, in place, the activations of timm's norms after `torch.nn.SyncBatchNorm.convert_sync_batchnorm`.

    torch converts them to plain SyncBatchNorms, which hold the activation but never call it.
    """
    for module in net.modules():
        if type(module) is nn.SyncBatchNorm and hasattr(module, 'act'):
            module.__class__ = SyncBatchNormAct


# --- Swin ---


class SwinBlock(swin_transformer.SwinTransformerBlock):
    """A block that shifts its windows if the map exceeds one window; timm decides this for the pretraining size."""

    def _attn(self, x: Tensor) -> Tensor:
        sides = zip(x.shape[1:3], self.window_size, self.target_shift_size, strict=True)
        rows, columns = (0 if side <= window else shift for side, window, shift in sides)
        self.shift_size = rows, columns
        return super()._attn(x)


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


# --- blocks that can be fused: MobileOne (arXiv 2206.04040), RepVGG (2101.03697), FastViT (2303.14189) ---


class _Fusable(nn.Module):
    """Adds `fuse()`, which returns a new module, to blocks that timm fuses in place.

    A subclass names timm's class as its last base.
    """

    def fuse(self) -> nn.Module:
        fused = copy.deepcopy(self)
        for norm in fused.modules():
            if isinstance(norm, nn.SyncBatchNorm):  # can be folded too, but timm accepts only this class
                norm.__class__ = nn.BatchNorm2d
        fused.reparameterize()
        fused.__class__ = type(self).__bases__[-1]  # a fused block has nothing to fuse
        return fused.train(self.training)


class MobileOneBlock(_Fusable, byobnet.MobileOneBlock):
    """timm's `byobnet.MobileOneBlock` that `reparameterize_model` can fuse."""


class RepVggBlock(_Fusable, byobnet.RepVggBlock):
    """timm's `byobnet.RepVggBlock` that `reparameterize_model` can fuse."""


class FastMobileOneBlock(_Fusable, fastvit.MobileOneBlock):
    """timm's `fastvit.MobileOneBlock` that `reparameterize_model` can fuse."""


class LargeKernelConv(_Fusable, fastvit.ReparamLargeKernelConv):
    """timm's `fastvit.ReparamLargeKernelConv` that `reparameterize_model` can fuse."""


class RepMixer(_Fusable, fastvit.RepMixer):
    """timm's `fastvit.RepMixer` that `reparameterize_model` can fuse."""


class PositionalEncoding(_Fusable, fastvit.RepConditionalPosEnc):
    """timm's `fastvit.RepConditionalPosEnc` that `reparameterize_model` can fuse."""


ADAPTED = {
    swin_transformer.SwinTransformerBlock: SwinBlock,
    mvitv2.MultiScaleAttention: MultiScaleAttention,
    efficientformer.Attention: TokenAttention,
    efficientformer.MetaBlock1d: TokenBlock,
    efficientformer.Flat: Unflattened,
    efficientformer.EfficientFormer: EfficientFormer,
    efficientformer_v2.Attention2d: MapAttention,
    efficientformer_v2.Attention2dDownsample: DownsamplingAttention,
    byobnet.MobileOneBlock: MobileOneBlock,
    byobnet.RepVggBlock: RepVggBlock,
    fastvit.MobileOneBlock: FastMobileOneBlock,
    fastvit.ReparamLargeKernelConv: LargeKernelConv,
    fastvit.RepMixer: RepMixer,
    fastvit.RepConditionalPosEnc: PositionalEncoding,
}
