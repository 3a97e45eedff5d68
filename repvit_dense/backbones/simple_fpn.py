"""A plain vision transformer with a simple feature pyramid, so that it serves heads that expect several scales."""

from collections.abc import Mapping, Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn

from repvit_dense.backbones.peer import LayerNorm2d, Peer, check_options
from repvit_dense.backbones.timm_features import create, from_timm


@MODELS.register_module()
class ViTPyramid(Peer):
    """A ViT of timm on patches of 16 pixels, and from its last map a pyramid of strides 4, 8, 16 and 32.

    Source: "Exploring Plain Vision Transformer Backbones for Object Detection", arXiv 2203.16527, section 3: stride 8
    by one transposed convolution of stride 2, stride 4 by two with layer norm and GELU between, stride 32 by max
    pooling; each transposed convolution halves the channels. Attention is global, the paper's windows are not used.

    Args:
        model_name: of timm, with patches of 16 pixels. No weights are downloaded.
        out_indices, frozen_stages, norm_eval, init_cfg: see `Peer`. A stage is a quarter of the blocks; the pyramid is
            never frozen.
        with_cp: recompute blocks in the backward pass instead of storing their activations.
        drop_path_rate: largest stochastic-depth rate, growing over the blocks.
        kwargs: for timm's constructor.

    Raises:
        ValueError: the model is unknown or no such transformer, or an argument is out of range.
    """

    multiple = 16

    def __init__(
        self,
        model_name: str = 'vit_small_patch16_224',
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: Mapping | None = None,
        **kwargs,
    ):
        check_options(out_indices, frozen_stages)
        net = create(model_name, drop_path_rate=drop_path_rate, global_pool='', **kwargs)
        if {info['reduction'] for info in net.feature_info} != {self.multiple}:
            raise ValueError(f"timm's {model_name} is no plain transformer on patches of {self.multiple} pixels")
        net.set_grad_checkpointing(with_cp)
        width, depth = net.embed_dim, len(net.blocks)
        quarters = {f'blocks.{i}': 1 + 4 * i // depth for i in range(depth)}
        stem = dict.fromkeys(('patch_embed', 'norm_pre', *(name for name, _ in net.named_parameters(recurse=False))), 0)
        channels = (width // 4, width // 2, width, width)
        parts = stem | quarters
        super().__init__(model_name, net, channels, parts, out_indices, frozen_stages, norm_eval, None, init_cfg)
        self.kwargs = kwargs
        self.pyramid = nn.ModuleList(_scale(width, i) for i in self.out_indices)

    def _features(self, x: Tensor) -> Sequence[Tensor]:
        last = len(self.net.blocks) - 1
        (x,) = self.net.forward_intermediates(x, indices=[last], norm=True, output_fmt='NCHW', intermediates_only=True)
        return [scale(x) for scale in self.pyramid]

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        return from_timm(self.net, self.name, self.kwargs, state)


def _scale(width: int, stage: int) -> nn.Module:
    """From stride 16 to that of a stage, 0 to 3."""
    if stage == 0:
        half = width // 2
        up = (nn.ConvTranspose2d(width, half, 2, 2), LayerNorm2d(half), nn.GELU())
        return nn.Sequential(*up, nn.ConvTranspose2d(half, width // 4, 2, 2))
    if stage == 1:
        return nn.ConvTranspose2d(width, width // 2, 2, 2)
    return nn.Identity() if stage == 2 else nn.MaxPool2d(2, 2, ceil_mode=True)
