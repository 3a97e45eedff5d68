# Cascade Mask R-CNN 3x on COCO, the system-level comparison of Swin (arXiv 2103.14030, section 4.2) and MViTv2
# (arXiv 2112.01526): AdamW, lr 1e-4, weight decay 0.05 but none on norms, 8 GPUs x 2 images, shorter side 480 to 800.
# 117266 images with objects / 16 = 7330 iterations an epoch, 36 epochs = 263880; lr divided by 10 after 27 and 33.
# Published with these settings: 50.5 box, 43.7 mask AP with Swin-T, 46.3 and 40.1 with ResNet-50; their box heads are
# larger (four convolutions before the fully connected layer). With RepViT: not trained here.
_base_ = [
    '_base_/models/cascade-mask-rcnn_fpn.py',
    '_base_/datasets/coco_instance.py',
    '_base_/schedules/adamw_1x.py',
    '_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        norm_eval=True,
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth'),
    )
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomChoiceResize', scales=[(1333, side) for side in range(480, 801, 32)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(max_epochs=36)
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05), paramwise_cfg=dict(norm_decay_mult=0.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
