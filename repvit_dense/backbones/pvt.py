"""The first Pyramid Vision Transformer, in mmdet's implementation; timm does not have it."""

from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import Tensor

from repvit_dense.backbones.base import Peer, run_block

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
MLP_RATIOS = (8, 8, 4, 4)


@MODELS.register_module()
class DensePVT(Peer):
    """Pyramid Vision Transformer v1 (arXiv 2102.12122, table 1), with 64 channels per head.

    Args:
        depths: blocks per stage: 2 2 2 2 is PVT-Tiny, 3 4 6 3 PVT-Small.
        drop_path_rate: largest stochastic-depth rate; the rates grow over the blocks.
        options: arguments of `DenseBackbone`.

    Raises:
        ValueError: an argument is out of range.
    """

    multiple = 32  # patches are cut without padding, down to the last stage

    def __init__(self, depths: Sequence[int] = (2, 2, 2, 2), drop_path_rate: float = 0.0, **options):
        from mmdet.models.backbones.pvt import PyramidVisionTransformer

        super().__init__('PVT', **options)
        stages = range(self.out_indices[-1] + 1)
        net = PyramidVisionTransformer(
            num_stages=len(stages),
            num_layers=[depths[i] for i in stages],
            num_heads=[HEADS[i] for i in stages],
            patch_sizes=[4, 2, 2, 2][: len(stages)],
            strides=[4, 2, 2, 2][: len(stages)],
            paddings=[0] * len(stages),
            sr_ratios=[REDUCTIONS[i] for i in stages],
            mlp_ratios=[MLP_RATIOS[i] for i in stages],
            out_indices=self.out_indices,
            drop_path_rate=drop_path_rate,
        )
        # mmdet's stage is a patch embedding, blocks and a norm; the first patch embedding counts as the stem.
        parts = {'layers.0.0': 0} | {f'layers.{i}': i + 1 for i in stages}
        self.set_net(net, [64 * heads for heads in HEADS], parts)

    def init_weights(self) -> None:
        if self.init_cfg is None:
            self.net.init_weights()  # mmdet's random initialisation
        else:
            super().init_weights()

    def _features(self, x: Tensor) -> list[Tensor]:
        outs = []
        for patch_embed, blocks, norm in self.net.layers:
            x, size = patch_embed(x)
            for block in blocks:
                x = run_block(block, self.with_cp, x, size)
            x = norm(x).transpose(1, 2).unflatten(2, size)
            outs.append(x)
        return [outs[i] for i in self.out_indices]

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        from mmdet.models.backbones.pvt import pvt_convert

        published = {key for key in state if key.startswith(('patch_embed', 'pos_embed', 'block'))}
        if not published:
            return state, []
        unused = [key for key in state if key.startswith(('cls_token', 'norm', 'head'))]
        converted = {key: value for key, value in state.items() if key not in {*published, *unused}}
        shapes = self.net.state_dict()
        for key, value in pvt_convert({key: state[key] for key in state if key in published}).items():
            if int(key.split('.')[1]) >= len(self.net.layers):
                unused.append(key)
            elif key.endswith('pos_embed') and value.shape[1] == shapes[key].shape[1] + 1:
                converted[key] = value[:, 1:]  # the first position belongs to the class token
            else:
                converted[key] = value
        return converted, unused
