"""Base classes of all backbones.

To add a network of timm that has features of strides 4, 8, 16 and 32, add one row to `catalogue_rows.py`; no code
is needed.

To add any other backbone:

1. Write one file in this folder. Every file here whose name does not begin with an underscore is imported by the
   package. Its class is decorated with `@MODELS.register_module()`, and its name begins with `Dense` or `RepViT` so
   that it does not collide with names of other OpenMMLab packages. Derive it from `Peer`: call
   `super().__init__(name, **options)`, build the network up to stage `self.out_indices[-1]`, pass it to `set_net`, and
   implement `_features`. If published weights have other names than the network, override `from_published`.
2. Add one row to `catalogue_rows.py`: channels, strides, licence and weights.

The tests of tests/backbones/test_catalogue.py run for every row. A module that can be fused offers `fuse()`, which
returns a new module; see `repvit_dense.reparam`.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from repvit_dense.backbones.layers import LayerNorm2d
from repvit_dense.catalogue_rows import STRIDES

ALL_STAGES = (0, 1, 2, 3)


class DenseBackbone(BaseModule):
    """A backbone with features of several strides: `(B, 3, H, W)` to one `(B, C_i, ceil(H / s_i), ceil(W / s_i))` each.

    A subclass calls `set_stages` when it is built. It builds nothing beyond stage `out_indices[-1]`: parameters without
    a gradient stop distributed training.

    Args:
        out_indices: stages to return, ascending, of 0 to 3 (strides 4, 8, 16, 32).
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        norm_eval: keep every batch norm on its running statistics while training.
        with_cp: recompute blocks in the backward pass instead of storing their activations.
        init_cfg: `dict(type='Pretrained', checkpoint=...)` accepts a path, a URL or a catalogue name, in any layout
            that `repvit_dense.checkpoints` knows.

    Attributes:
        out_channels, out_strides: of each returned feature, in order.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        out_indices: Sequence[int] = ALL_STAGES,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: Mapping | None = None,
    ):
        super().__init__(_with_safe_loading(init_cfg))
        _check_stages(out_indices, frozen_stages)
        self.out_indices, self.out_strides = tuple(out_indices), tuple(STRIDES[i] for i in out_indices)
        self.frozen_stages, self.norm_eval, self.with_cp = frozen_stages, norm_eval, with_cp

    def set_stages(self, channels: Sequence[int], parts: Mapping[str, int]) -> None:
        """Set `out_channels` and freeze the stages that are to be frozen.

        Args:
            channels: of the four stages.
            parts: the stage of each module or parameter: 0 is the stem, 1 to 4 are the stages.
        """
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self._parts = dict(parts)
        self._freeze()

    def train(self, mode: bool = True) -> 'DenseBackbone':
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        for path, part in self._parts.items():
            if part > self.frozen_stages:
                continue
            owner, _, name = path.rpartition('.')
            frozen = getattr(self.get_submodule(owner), name)
            frozen.requires_grad_(False)
            if isinstance(frozen, nn.Module):
                frozen.eval()


class Peer(DenseBackbone):
    """Base of all backbones besides RepViT: a network `net` behind the interface of `DenseBackbone`.

    Images are padded with zeros, to the right and below, to a multiple of `multiple` pixels, and the features are
    cropped to match.

    Args:
        name: name of the network in messages.
        out_norm: a new norm on each output, for networks whose residual stream is not normalised: 'LN' (layer norm per
            position), 'GN' (one group for the whole map) or None.
        options: arguments of `DenseBackbone`.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    multiple = 4

    def __init__(self, name: str, out_norm: str | None = None, **options):
        super().__init__(**options)
        if out_norm not in OUT_NORMS:
            raise ValueError(f"out_norm must be None, 'LN' or 'GN', got '{out_norm}'")
        self.name, self.out_norm = name, out_norm

    def set_net(self, net: nn.Module, channels: Sequence[int], parts: Mapping[str, int]) -> None:
        """Set the network and freeze the stages that are to be frozen.

        Args:
            net: the network, without anything that the features do not need.
            channels: of the four stages.
            parts: the stage of each module or parameter of `net`: 0 is the stem, 1 to 4 are the stages.
        """
        net.is_init = True  # otherwise mmengine calls `init_weights()` of timm's modules too, after loading weights
        self.net = net
        self.out_norms = nn.ModuleList(OUT_NORMS[self.out_norm](channels[i]) for i in self.out_indices)
        self.set_stages(channels, {f'net.{name}': stage for name, stage in parts.items()})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        height, width = x.shape[-2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        outs = []
        for feature, norm, s in zip(self._features(x), self.out_norms, self.out_strides, strict=True):
            outs.append(norm(feature[..., : -(-height // s), : -(-width // s)]))
        return tuple(outs)

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Convert published ImageNet weights to the names of `net`; by default they have these names already.

        Args:
            state: a state dict in the publisher's layout.

        Returns:
            the tensors by their names in `net`, unknown ones included so that a strict load can name them; and the
            names of tensors that are not used on purpose, such as the classifier's.
        """
        return state, []

    def _features(self, x: Tensor) -> Sequence[Tensor]:
        """Return the features of `out_indices`, `(B, C, H, W)` each, of an image whose sides `multiple` divides."""
        raise NotImplementedError


OUT_NORMS = {None: lambda channels: nn.Identity(), 'LN': LayerNorm2d, 'GN': lambda channels: nn.GroupNorm(1, channels)}


def run_block(block: nn.Module, with_cp: bool, x: Tensor, *rest):
    """Return `block(x, *rest)`; `with_cp` recomputes it in the backward pass instead of storing its activations.

    The second computation does not update running statistics again.
    """
    if not (with_cp and x.requires_grad):
        return block(x, *rest)
    contexts = lambda: (nullcontext(), _unchanged_statistics(block))  # noqa: E731
    return checkpoint(block, x, *rest, use_reentrant=False, context_fn=contexts)


@contextmanager
def _unchanged_statistics(module: nn.Module):
    norms = [(bn, bn.momentum, bn.num_batches_tracked) for bn in module.modules() if isinstance(bn, _BatchNorm)]
    for bn, _, _ in norms:
        bn.momentum, bn.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for bn, momentum, batches in norms:
            bn.momentum, bn.num_batches_tracked = momentum, batches


def _with_safe_loading(init_cfg: Mapping | None) -> dict | None:
    """Return `init_cfg` with mmengine's `Pretrained` replaced by `DensePretrainedInit`.

    The replacement reads files safely, knows the published layouts and loads strictly.
    """
    if not init_cfg:
        return None
    return {**init_cfg, 'type': 'DensePretrainedInit'} if init_cfg.get('type') == 'Pretrained' else dict(init_cfg)


def _check_stages(out_indices: Sequence[int], frozen_stages: int) -> None:
    is_ascending = list(out_indices) == sorted(set(out_indices))
    if not out_indices or not is_ascending or not all(i in range(len(STRIDES)) for i in out_indices):
        raise ValueError(f'out_indices must be ascending stages out of 0 to 3, got {tuple(out_indices)}')
    if frozen_stages not in range(-1, len(STRIDES) + 1):
        raise ValueError(f'frozen_stages must be -1 (none) to {len(STRIDES)} (all), got {frozen_stages}')
