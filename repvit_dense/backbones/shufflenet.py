"""ShuffleNetV2, which timm lacks, from torchvision's implementation."""

from collections.abc import Mapping, Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn
from torchvision.models import shufflenet_v2_x1_0

from repvit_dense.backbones.peer import Peer, check_options, recomputed

BODY = ('stage2', 'stage3', 'stage4')  # the first stage is the stem's pooling, which has no parameters


@MODELS.register_module()
class ShuffleNetV2(Peer):
    """ShuffleNetV2 1x (arXiv 1807.11164, table 5); the feature of stride 4 is that after the first pooling.

    Args:
        out_indices, frozen_stages, norm_eval, init_cfg: see `Peer`.
        with_cp: recompute stages in the backward pass; a live batch norm then updates its statistics twice per step.
        drop_path_rate: taken because every backbone takes it; there are no residual branches to drop.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: Mapping | None = None,
    ):
        check_options(out_indices, frozen_stages)
        net = shufflenet_v2_x1_0()
        for name in ('conv5', 'fc', *BODY[out_indices[-1] :]):
            setattr(net, name, nn.Identity())
        parts = {'conv1': 0} | {name: i + 2 for i, name in enumerate(BODY)}
        channels = (24, 116, 232, 464)
        super().__init__('ShuffleNetV2', net, channels, parts, out_indices, frozen_stages, norm_eval, None, init_cfg)
        self.with_cp = with_cp

    def _features(self, x: Tensor) -> Sequence[Tensor]:
        outs = [self.net.maxpool(self.net.conv1(x))]
        for name in BODY[: self.out_indices[-1]]:
            outs.append(recomputed(getattr(self.net, name), self.with_cp, outs[-1]))
        return [outs[i] for i in self.out_indices]

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        unbuilt = ('conv5.', 'fc.', *(f'{name}.' for name in BODY[self.out_indices[-1] :]))
        unused = [key for key in state if key.startswith(unbuilt)]
        return {key: value for key, value in state.items() if key not in unused}, unused
