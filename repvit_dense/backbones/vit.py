"""A plain vision transformer with a simple feature pyramid, for heads that expect several scales."""

from collections.abc import Mapping, Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn

from repvit_dense import catalogue_timm
from repvit_dense.backbones.base import ALL_STAGES, Peer
from repvit_dense.backbones.layers import LayerNorm2d
from repvit_dense.backbones.timm_features import convert_from_timm, create


@MODELS.register_module()
class DenseViT(Peer):
    """A ViT of timm on patches of 16 pixels, and a pyramid of strides 4, 8, 16 and 32 made from its last map.

    Source: "Exploring Plain Vision Transformer Backbones for Object Detection", arXiv 2203.16527, section 3: stride 8
    by one transposed convolution of stride 2, stride 4 by two with layer norm and GELU between them, stride 32 by max
    pooling. Each transposed convolution halves the channels. Attention is global; the paper's windows are not used.

    Args:
        model_name: a model of timm with patches of 16 pixels. No weights are downloaded.
        out_indices, frozen_stages, norm_eval, with_cp, init_cfg: see `DenseBackbone`. A stage is a quarter of the
            blocks; the pyramid is never frozen.
        drop_path_rate: largest stochastic-depth rate; the rates grow over the blocks.
        kwargs: arguments of timm's constructor.

    Raises:
        ValueError: the model is unknown or not such a transformer, or an argument is out of range.
    """

    multiple = 16

    def __init__(
        self,
        model_name: str = 'vit_small_patch16_224',
        out_indices: Sequence[int] = ALL_STAGES,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: Mapping | None = None,
        **kwargs,
    ):
        super().__init__(
            model_name,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        net = create(model_name, drop_path_rate=drop_path_rate, global_pool='', **kwargs)
        if not catalogue_timm.is_plain(net):
            raise ValueError(f"timm's {model_name} is no plain transformer on patches of {self.multiple} pixels")
        net.set_grad_checkpointing(with_cp)
        width, depth = net.embed_dim, len(net.blocks)
        quarters = {f'blocks.{i}': 1 + 4 * i // depth for i in range(depth)}
        stem = dict.fromkeys(('patch_embed', 'norm_pre', *(name for name, _ in net.named_parameters(recurse=False))), 0)
        self.set_net(net, (width // 4, width // 2, width, width), stem | quarters)
        self.kwargs = kwargs
        self.pyramid = nn.ModuleList(_rescaling(width, i) for i in self.out_indices)

    def _features(self, x: Tensor) -> list[Tensor]:
        last = len(self.net.blocks) - 1
        (x,) = self.net.forward_intermediates(x, indices=[last], norm=True, output_fmt='NCHW', intermediates_only=True)
        return [rescale(x) for rescale in self.pyramid]

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        return convert_from_timm(self.net, self.name, self.kwargs, state)


def _rescaling(width: int, stage: int) -> nn.Module:
    """Return the layers from stride 16 to the stride of a stage, 0 to 3."""
    if stage == 0:
        half = width // 2
        up = (nn.ConvTranspose2d(width, half, 2, 2), LayerNorm2d(half), nn.GELU())
        return nn.Sequential(*up, nn.ConvTranspose2d(half, width // 4, 2, 2))
    if stage == 1:
        return nn.ConvTranspose2d(width, width // 2, 2, 2)
    return nn.Identity() if stage == 2 else nn.MaxPool2d(2, 2, ceil_mode=True)
