"""Blocks of timm that `reparameterize_model` can fuse.

`_timm_adapted.adapt` gives a module of timm the class whose last base is the module's class.
"""

import copy

from timm.models import byobnet, efficientvit_mit, fasternet, fastvit, ghostnet, hgnet, repghost, starnet, swiftformer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense.reparam import conv_like, fold_bn, reparameterize_model

# --- branches that timm merges: MobileOne (arXiv 2206.04040), RepVGG (2101.03697), FastViT (2303.14189), RepGhost
# (2211.06088), GhostNetV3 (2404.11202) ---


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


class RepGhostModule(_Fusable, repghost.RepGhostModule):
    """timm's `repghost.RepGhostModule` that `reparameterize_model` can fuse."""


class GhostModule(_Fusable, ghostnet.GhostModuleV3):
    """timm's `ghostnet.GhostModuleV3` that `reparameterize_model` can fuse."""


class GhostBottleneck(_Fusable, ghostnet.GhostBottleneckV3):
    """timm's `ghostnet.GhostBottleneckV3` that `reparameterize_model` can fuse, with the two modules inside it."""

    def fuse(self) -> nn.Module:
        return reparameterize_model(super().fuse(), inplace=True)


# --- batch norms that timm leaves behind a convolution ---


class _Foldable(nn.Module):
    """Adds `fuse()`, which returns a new module with the batch norm folded into the convolution before it.

    A subclass names timm's class as its last base, and in `layers` the part of the block that holds the two layers, the
    convolution and the norm. Without a batch norm nothing is folded.
    """

    layers = '', 'conv', 'bn'

    def fuse(self) -> nn.Module:
        fused = copy.deepcopy(self)
        path, conv, norm = self.layers
        part = fused.get_submodule(path)
        first, second = getattr(part, conv), getattr(part, norm, None)
        if isinstance(second, _BatchNorm):
            setattr(part, conv, conv_like(first, *fold_bn(first.weight, first.bias, second)))
            setattr(part, norm, nn.Identity())
        fused.__class__ = type(self).__bases__[-1]
        return fused


class HGNetConv(_Foldable, hgnet.ConvBNAct):
    """timm's `hgnet.ConvBNAct` that `reparameterize_model` can fuse."""


class StarConv(_Foldable, starnet.ConvBN):
    """timm's `starnet.ConvBN` that `reparameterize_model` can fuse."""


class EfficientVitConv(_Foldable, efficientvit_mit.ConvNormAct):
    """timm's `efficientvit_mit.ConvNormAct` that `reparameterize_model` can fuse."""

    layers = '', 'conv', 'norm'


class SwiftEmbedding(_Foldable, swiftformer.Embedding):
    """timm's `swiftformer.Embedding` that `reparameterize_model` can fuse."""

    layers = '', 'proj', 'norm'


class SwiftEncoder(_Foldable, swiftformer.ConvEncoder):
    """timm's `swiftformer.ConvEncoder` that `reparameterize_model` can fuse."""

    layers = '', 'dwconv', 'norm'


class SwiftLocal(_Foldable, swiftformer.LocalRepresentation):
    """timm's `swiftformer.LocalRepresentation` that `reparameterize_model` can fuse."""

    layers = '', 'dwconv', 'norm'


class FasterEmbedding(_Foldable, fasternet.PatchEmbed):
    """timm's `fasternet.PatchEmbed` that `reparameterize_model` can fuse."""

    layers = '', 'proj', 'norm'


class FasterMerging(_Foldable, fasternet.PatchMerging):
    """timm's `fasternet.PatchMerging` that `reparameterize_model` can fuse."""

    layers = '', 'reduction', 'norm'


class FasterBlock(_Foldable, fasternet.MLPBlock):
    """timm's `fasternet.MLPBlock` that `reparameterize_model` can fuse."""

    layers = 'mlp', '0', '1'


FUSABLE = (
    MobileOneBlock,
    RepVggBlock,
    FastMobileOneBlock,
    LargeKernelConv,
    RepMixer,
    PositionalEncoding,
    RepGhostModule,
    GhostModule,
    GhostBottleneck,
    HGNetConv,
    StarConv,
    EfficientVitConv,
    SwiftEmbedding,
    SwiftEncoder,
    SwiftLocal,
    FasterEmbedding,
    FasterMerging,
    FasterBlock,
)
