"""ShuffleNetV2, in torchvision's implementation; timm does not have it."""

from mmengine.registry import MODELS
from torch import Tensor, nn
from torchvision.models import shufflenet_v2_x1_0

from repvit_dense.backbones.base import Peer, run_block

STAGES = ('stage2', 'stage3', 'stage4')  # torchvision's names; the first stage is a pooling without parameters


@MODELS.register_module()
class DenseShuffleNetV2(Peer):
    """ShuffleNetV2 1x (arXiv 1807.11164, table 5); the feature of stride 4 is the output of the first pooling.

    Args:
        drop_path_rate: ignored, because there are no residual branches to drop. Every backbone accepts it.
        options: arguments of `DenseBackbone`.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, drop_path_rate: float = 0.0, **options):
        super().__init__('ShuffleNetV2', **options)
        net = shufflenet_v2_x1_0()
        for name in ('conv5', 'fc', *STAGES[self.out_indices[-1] :]):
            setattr(net, name, nn.Identity())
        parts = {'conv1': 0} | {name: i + 2 for i, name in enumerate(STAGES)}
        self.set_net(net, (24, 116, 232, 464), parts)

    def _features(self, x: Tensor) -> list[Tensor]:
        outs = [self.net.maxpool(self.net.conv1(x))]
        for name in STAGES[: self.out_indices[-1]]:
            outs.append(run_block(getattr(self.net, name), self.with_cp, outs[-1]))
        return [outs[i] for i in self.out_indices]

    def from_published(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        not_built = ('conv5.', 'fc.', *(f'{name}.' for name in STAGES[self.out_indices[-1] :]))
        unused = [key for key in state if key.startswith(not_built)]
        return {key: value for key, value in state.items() if key not in unused}, unused
