# Mask R-CNN 1x on COCO, the reference recipe of RepViT (arXiv 2307.09283, section 4.2): AdamW, lr 2e-4, weight decay
# 0.05, 12 epochs, 8 GPUs x 2 images, 1333x800, backbone batch norms frozen, ImageNet weights of 300 epochs.
# Published with these settings: 39.8 box AP, 37.2 mask AP on val2017.
_base_ = [
    '_base_/models/mask-rcnn_fpn.py',
    '_base_/datasets/coco_instance.py',
    '_base_/schedules/adamw_1x.py',
    '_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth'),
    )
)
