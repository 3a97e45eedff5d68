"""The first Pyramid Vision Transformer, which timm lacks, from mmdet's implementation."""

from collections.abc import Mapping, Sequence

from mmengine.registry import MODELS
from torch import Tensor

from repvit_dense.backbones.peer import Peer, check_options, recomputed

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
MLP_RATIOS = (8, 8, 4, 4)


@MODELS.register_module()
class PVT(Peer):
    """Pyramid Vision Transformer v1 (arXiv 2102.12122, table 1), all of it 64 channels per head.

    Args:
        depths: blocks per stage: 2 2 2 2 is PVT-Tiny, 3 4 6 3 PVT-Small.
        out_indices, frozen_stages, norm_eval, init_cfg: see `Peer`. Later stages are not built.
        with_cp: recompute blocks in the backward pass instead of storing their activations.
        drop_path_rate: largest stochastic-depth rate, growing over the blocks.

    Raises:
        ValueError: an argument is out of range.
    """

    multiple = 32  # patches are cut without padding, down to the last stage

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: Mapping | None = None,
    ):
        from mmdet.models.backbones.pvt import PyramidVisionTransformer

        check_options(out_indices, frozen_stages)
        stages = range(out_indices[-1] + 1)
        net = PyramidVisionTransformer(
            num_stages=len(stages),
            num_layers=[depths[i] for i in stages],
            num_heads=[HEADS[i] for i in stages],
            patch_sizes=[4, 2, 2, 2][: len(stages)],
            strides=[4, 2, 2, 2][: len(stages)],
            paddings=[0] * len(stages),
            sr_ratios=[REDUCTIONS[i] for i in stages],
            mlp_ratios=[MLP_RATIOS[i] for i in stages],
            out_indices=tuple(out_indices),
            drop_path_rate=drop_path_rate,
        )
        channels = [64 * heads for heads in HEADS]
        # A stage of mmdet's is patch embedding, blocks, norm; the first patch embedding is the stem.
        parts = {'layers.0.0': 0} | {f'layers.{i}': i + 1 for i in stages}
        super().__init__('PVT', net, channels, parts, out_indices, frozen_stages, norm_eval, None, init_cfg)
        self.with_cp = with_cp

    def init_weights(self) -> None:
        if self.init_cfg is None:
            self.net.init_weights()  # mmdet's own, from nothing
        else:
            super().init_weights()

    def _features(self, x: Tensor) -> Sequence[Tensor]:
        outs = []
        for patch_embed, blocks, norm in self.net.layers:
            x, size = patch_embed(x)
            for block in blocks:
                x = recomputed(block, self.with_cp, x, size)
            x = norm(x).transpose(1, 2).unflatten(2, size)
            outs.append(x)
        return [outs[i] for i in self.out_indices]

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        from mmdet.models.backbones.pvt import pvt_convert

        blocks = {key for key in state if key.startswith(('patch_embed', 'pos_embed', 'block'))}
        if not blocks:
            return state, []
        unused = [key for key in state if key.startswith(('cls_token', 'norm', 'head'))]
        given = {key: value for key, value in state.items() if key not in {*blocks, *unused}}
        wanted = self.net.state_dict()
        for key, value in pvt_convert({key: state[key] for key in state if key in blocks}).items():
            if int(key.split('.')[1]) >= len(self.net.layers):
                unused.append(key)
            elif key.endswith('pos_embed') and value.shape[1] == wanted[key].shape[1] + 1:
                given[key] = value[:, 1:]  # the first position is that of the class token
            else:
                given[key] = value
        return given, unused
