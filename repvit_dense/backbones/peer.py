"""Networks of other libraries behind OpenMMLab's interface: what they share, and what RepViT shares with them."""

from collections.abc import Mapping, Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

STRIDES = (4, 8, 16, 32)


class Peer(BaseModule):
    """Base of the peers: `(B, 3, H, W)` to one `(B, C_i, H / s_i, W / s_i)`, rounded up, per stage asked for.

    A subclass builds `net`, which holds nothing that the features do not need, and implements `_features`. Images are
    padded with zeros, to the right and below, to a multiple of `multiple` pixels, the features cropped accordingly.

    Args:
        name: what an error message calls the network.
        net: the network.
        channels: of its four levels.
        parts: name of a module or parameter of `net` -> 0 (stem) or 1 to 4 (stages); what `frozen_stages` goes by.
        out_indices: stages to return, ascending, of 0 to 3 (strides 4, 8, 16, 32).
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        norm_eval: keep every batch norm on its running statistics while training.
        out_norm: a fresh norm over the channels of each output, as dense prediction adds to networks whose residual
            stream is not normalised: 'LN' (layer norm per position), 'GN' (one group for the whole map) or None.
        init_cfg: `dict(type='Pretrained', checkpoint=...)` takes a path, a URL or a catalogue name: ImageNet weights
            as they are published, or a state dict of this class.

    Attributes:
        out_channels, out_strides: of each returned feature, in order.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    multiple = 4

    def __init__(
        self,
        name: str,
        net: nn.Module,
        channels: Sequence[int],
        parts: Mapping[str, int],
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        out_norm: str | None = None,
        init_cfg: Mapping | None = None,
    ):
        super().__init__(read_safely(init_cfg))
        self.name, self.net, self.parts = name, net, dict(parts)
        net.is_init = True  # mmengine calls any `init_weights()` below, timm's too, after loading: drawing all anew
        self.out_indices = tuple(out_indices)
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)
        self.out_norms = nn.ModuleList(_norm(out_norm, width) for width in self.out_channels)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        height, width = x.shape[-2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        outs = []
        for feature, norm, s in zip(self._features(x), self.out_norms, self.out_strides, strict=True):
            outs.append(norm(feature[..., : -(-height // s), : -(-width // s)]))
        return tuple(outs)

    def train(self, mode: bool = True) -> 'Peer':
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            eval_norms(self)
        return self

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Published ImageNet weights under the names of `net`.

        Args:
            state: a state dict in the layout of whoever published it.

        Returns:
            tensors by their names in `net` (what has no place there is left in, so that a strict load can name it),
            and the names of those that are expected to be left over.
        """
        raise NotImplementedError

    def _features(self, x: Tensor) -> Sequence[Tensor]:
        """The features of `out_indices`, `(B, C, H, W)` each, of an image whose sides `multiple` divides."""
        raise NotImplementedError

    def _freeze(self) -> None:
        for name, part in self.parts.items():
            if part > self.frozen_stages:
                continue
            owner, _, own = name.rpartition('.')
            frozen = getattr(self.net.get_submodule(owner), own)
            frozen.requires_grad_(False)
            if isinstance(frozen, nn.Module):
                frozen.eval()


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of `(B, C, H, W)`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _norm(kind: str | None, channels: int) -> nn.Module:
    if kind is None:
        return nn.Identity()
    return LayerNorm2d(channels) if kind == 'LN' else nn.GroupNorm(1, channels)


def recomputed(block: nn.Module, with_cp: bool, x: Tensor, *rest):
    """`block(x, *rest)`, with `with_cp` computed again in the backward pass instead of stored."""
    return checkpoint(block, x, *rest, use_reentrant=False) if with_cp and x.requires_grad else block(x, *rest)


# --- for RepViT as well ---


def stochastic_depth(rate: float) -> nn.Module:
    """Drop a residual branch of a sample at this rate (arXiv 1603.09382)."""
    return StochasticDepth(rate, 'row') if rate else nn.Identity()


def read_safely(init_cfg: Mapping | None) -> dict | None:
    """mmengine's `Pretrained` replaced by ours, which reads safely, knows the published layouts and loads strictly."""
    if not init_cfg:
        return None
    ours = {'type': 'DensePretrainedInit'} if init_cfg.get('type') == 'Pretrained' else {}
    return {**init_cfg, **ours}


def eval_norms(network: nn.Module) -> None:
    """Put every batch norm on its running statistics."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def check_options(out_indices: Sequence[int], frozen_stages: int, out_norm: str | None = None) -> None:
    """Refuse what no backbone can do. Raises ValueError."""
    ascending = list(out_indices) == sorted(set(out_indices))
    if not out_indices or not ascending or not all(i in range(len(STRIDES)) for i in out_indices):
        raise ValueError(f'out_indices must be ascending stages out of 0 to 3, got {tuple(out_indices)}')
    if frozen_stages not in range(-1, len(STRIDES) + 1):
        raise ValueError(f'frozen_stages must be -1 (none) to {len(STRIDES)} (all), got {frozen_stages}')
    if out_norm not in (None, 'LN', 'GN'):
        raise ValueError(f"out_norm must be None, 'LN' or 'GN', got '{out_norm}'")
