"""Backbones, registered in mmengine's root registry: mmdet, mmseg and every other OpenMMLab library finds them."""

from repvit_dense.backbones.repvit import RepViT

__all__ = ['RepViT']
