# SSDLite at 320x320 on COCO, the mobile comparison of MobileViT (arXiv 2110.02178, section 4.2.1; settings as in its
# code): AdamW, lr 9e-4 after 500 iterations from 9e-5, cosine to 1e-6 over 200 epochs, weight decay 0.01, 4 GPUs x 32
# images, averaged weights with momentum 5e-4. Images are augmented as in SSD (arXiv 1512.02325,
# section 2.2).
# 117266 images with objects / 128 = 917 iterations an epoch, 200 epochs = 183400.
# Published: 27.7 box AP with MobileViT-S, 24.8 with MobileViT-XS, 22.1 with MobileNetV2. With RepViT: not trained here.
_base_ = [
    '_base_/models/ssdlite.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/adamw_1x.py',
    '_base_/default_runtime.py',
]
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth')))

scale = (320, 320)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Expand', mean=[123.675, 116.28, 103.53], to_rgb=True, ratio_range=(1, 4)),
    dict(type='MinIoURandomCrop', min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
    dict(type='Resize', scale=scale, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(batch_size=32, num_workers=8, batch_sampler=None, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=32, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=200, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=9e-4, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', begin=0, end=200, by_epoch=True, convert_to_iter_based=True, eta_min=1e-6),
]
auto_scale_lr = dict(base_batch_size=128)
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
custom_hooks = [
    dict(type='DenseNonFiniteLossHook'),
    dict(type='DenseSaveOnSignalHook'),
    dict(type='DenseProgressHook'),
    dict(type='DenseCurvesHook'),
    dict(type='DenseBatchesHook'),
    dict(type='EMAHook', momentum=0.0005, update_buffers=True),
]
