# Mask2Former on COCO panoptic (arXiv 2112.01527, section 4 and table 1): large-scale jitter to 1024x1024, 50 epochs at
# 8 GPUs x 2 images; the schedule's arithmetic is in _base_/schedules/mask2former_50e.py.
# Published with these settings: PQ 51.9 with ResNet-50, 53.2 with Swin-T. With RepViT: not trained here.
_base_ = [
    '_base_/models/mask2former.py',
    '_base_/datasets/coco_panoptic_lsj.py',
    '_base_/schedules/mask2former_50e.py',
    '_base_/iter_runtime.py',
]
model = dict(
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth'),
    )
)
default_hooks = dict(checkpoint=dict(save_best='coco_panoptic/PQ', rule='greater'))
