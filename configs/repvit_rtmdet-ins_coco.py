# RTMDet-Ins, size s, on COCO (arXiv 2212.07784, section 4.1 and table 1): AdamW, lr 4e-3 for 150 epochs, then cosine to
# a twentieth over 150 more, weight decay 0.05 but none on norms and biases, 8 GPUs x 32 images of 640x640; mosaic and
# mixup from a cache until 20 epochs before the end, then large-scale jitter; averaged weights with momentum 2e-4.
# 117266 images with objects / 256 = 459 iterations an epoch, 300 epochs = 137700.
# Published: 44.0 box, 38.7 mask AP with its own backbone (10.2 M parameters). With RepViT: not trained here.
_base_ = [
    '_base_/models/rtmdet-ins.py',
    '_base_/datasets/coco_instance.py',
    '_base_/schedules/adamw_1x.py',
    '_base_/default_runtime.py',
]
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth')))

scale = (640, 640)
grey = 114
load = [
    dict(type='LoadImageFromFile'),
    # COCO's masks stay polygons: ten times faster than bitmaps here. Masks as run-length codes need poly2mask=True.
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
]
crop = dict(type='RandomCrop', crop_size=scale, recompute_bbox=True, allow_negative_crop=True)
pad = dict(type='Pad', size=scale, pad_val=dict(img=(grey, grey, grey)))
augment = [dict(type='YOLOXHSVRandomAug'), dict(type='RandomFlip', prob=0.5), pad]
pack = [dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)), dict(type='PackDetInputs')]
train_pipeline = [
    *load,
    dict(type='CachedMosaic', img_scale=scale, pad_val=float(grey)),
    dict(type='RandomResize', scale=(1280, 1280), ratio_range=(0.5, 2.0), keep_ratio=True),  # the mosaic is this large
    crop,
    *augment,
    dict(type='CachedMixUp', img_scale=scale, ratio_range=(1.0, 1.0), max_cached_images=20, pad_val=(grey, grey, grey)),
    *pack,
]
last_pipeline = [
    *load,
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    crop,
    *augment,
    *pack,
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    pad,
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(batch_size=32, num_workers=10, batch_sampler=None, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=5, num_workers=10, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=300, val_interval=10, dynamic_intervals=[(280, 1)])
optim_wrapper = dict(
    optimizer=dict(lr=4e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, bypass_duplicate=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR', begin=150, end=300, T_max=150, by_epoch=True, convert_to_iter_based=True, eta_min=2e-4
    ),
]
auto_scale_lr = dict(base_batch_size=256)
default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))
custom_hooks = [
    dict(type='DenseNonFiniteLossHook'),
    dict(type='DenseSaveOnSignalHook'),
    dict(type='DenseProgressHook'),
    dict(type='DenseCurvesHook'),
    dict(type='DenseBatchesHook'),
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True),
    dict(type='PipelineSwitchHook', switch_epoch=280, switch_pipeline=last_pipeline),
]
