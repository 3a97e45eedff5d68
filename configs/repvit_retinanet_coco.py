# RetinaNet 1x on COCO, the comparison of small backbones in PVT (arXiv 2102.12122, section 5.2) and others since:
# AdamW, lr 1e-4, weight decay 1e-4, 8 GPUs x 2 images, 1333x800, 12 epochs with steps after 8 and 11.
# 117266 images with objects / 16 = 7330 iterations an epoch, 12 epochs = 87960.
# Published with these settings: 36.7 box AP with PVT-Tiny, 31.8 with ResNet-18. With RepViT: not trained here.
_base_ = [
    '_base_/models/retinanet_fpn.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/adamw_1x.py',
    '_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth'),
    )
)
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4))
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
