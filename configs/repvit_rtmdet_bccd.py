# RTMDet with 96 channels on blood cells: 48 epochs of 205 images, 8 a step, take an hour of one CPU core.
_base_ = [
    '_base_/models/rtmdet.py',
    '_base_/datasets/bccd.py',
    '_base_/default_runtime.py',
]
WIDTH = 96
model = dict(
    backbone=dict(
        arch='m0_6',
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m0_6_distill_300e.pth'),
    ),
    neck=dict(in_channels=[80, 160, 320], out_channels=WIDTH),
    bbox_head=dict(num_classes=3, in_channels=WIDTH, feat_channels=WIDTH),
)

train_cfg = dict(type='DenseEpochLoop', max_epochs=48, val_interval=8)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, bypass_duplicate=True),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', begin=0, end=48, by_epoch=True, convert_to_iter_based=True, eta_min=1e-5),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=8, max_keep_ckpts=1, save_best='coco/bbox_mAP_50')
)
log_processor = dict(window_size=25)
custom_hooks = [
    dict(type='DenseNonFiniteLossHook'),
    dict(type='DenseSaveOnSignalHook'),
    dict(type='DenseProgressHook'),
    dict(type='DenseCurvesHook'),
    dict(type='DenseBatchesHook'),
    dict(type='EMAHook', ema_type='MomentumAnnealingEMA', gamma=10, momentum=0.004, update_buffers=True),
]
