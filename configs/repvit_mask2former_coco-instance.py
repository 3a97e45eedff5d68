# Mask2Former on COCO instances (arXiv 2112.01527, section 4 and table 2): large-scale jitter to 1024x1024, 50 epochs at
# 8 GPUs x 2 images; the schedule's arithmetic is in _base_/schedules/mask2former_50e.py.
# Published with these settings: 43.7 mask AP with ResNet-50, 45.0 with Swin-T. With RepViT: not trained here.
_base_ = [
    '_base_/models/mask2former.py',
    '_base_/datasets/coco_instance_lsj.py',
    '_base_/schedules/mask2former_50e.py',
    '_base_/iter_runtime.py',
]
model = dict(
    data_preprocessor=dict(
        pad_seg=False, batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024), pad_mask=True)]
    ),
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth'),
    ),
    panoptic_head=dict(num_stuff_classes=0, loss_cls=dict(class_weight=[1.0] * 80 + [0.1])),
    panoptic_fusion_head=dict(num_stuff_classes=0),
    test_cfg=dict(panoptic_on=False),
)
default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))
