"""Backbones, registered in mmengine's root registry: mmdet, mmseg and every other OpenMMLab library finds them."""

from repvit_dense.backbones.edgevit import EdgeViT
from repvit_dense.backbones.ladder import Ladder
from repvit_dense.backbones.mobile_former import MobileFormer
from repvit_dense.backbones.pvt import PVT
from repvit_dense.backbones.repvit import RepViT
from repvit_dense.backbones.shufflenet import ShuffleNetV2
from repvit_dense.backbones.simple_fpn import ViTPyramid
from repvit_dense.backbones.timm_features import TimmFeatures

__all__ = ['EdgeViT', 'Ladder', 'MobileFormer', 'PVT', 'RepViT', 'ShuffleNetV2', 'TimmFeatures', 'ViTPyramid']
