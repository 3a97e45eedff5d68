# SSDLite at 320x320 on blood cells, with smaller anchors than for COCO because platelets are 20 pixels wide there:
# 60 epochs of 205 images, 8 a step, take minutes on two CPU cores.
_base_ = [
    '_base_/models/ssdlite.py',
    '_base_/datasets/bccd.py',
    '_base_/default_runtime.py',
]
channels = (160, 320, 512, 256, 256, 128)
model = dict(
    backbone=dict(
        arch='m0_6',
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m0_6_distill_300e.pth'),
    ),
    neck=dict(in_channels=channels[:2], out_channels=channels),
    bbox_head=dict(
        in_channels=channels,
        num_classes=3,
        anchor_generator=dict(min_sizes=[20, 48, 100, 150, 202, 253], max_sizes=[48, 100, 150, 202, 253, 304]),
    ),
)

size = (320, 320)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Expand', mean=[123.675, 116.28, 103.53], to_rgb=True, ratio_range=(1, 2)),
    dict(type='MinIoURandomCrop', min_ious=(0.3, 0.5, 0.7, 0.9), min_crop_size=0.5),
    dict(type='Resize', scale=size, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(drop_last=True, dataset=dict(pipeline=train_pipeline))  # the extra layers' norms see 1x1 pixels
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

train_cfg = dict(type='DenseEpochLoop', max_epochs=60, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=9e-4, weight_decay=0.01), clip_grad=dict(max_norm=10)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', begin=0, end=60, by_epoch=True, convert_to_iter_based=True, eta_min=1e-6),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=5, save_best='coco/bbox_mAP_50'))
log_processor = dict(window_size=25)
