# SegFormer's decoder with 128 channels on CamVid: 2,600 iterations of 4 crops of 384x384 out of images enlarged by 0.9
# to 2.4, about 28 epochs, take an hour of one CPU core. Whole images are tested, enlarged by 1.5; scored at 480x360.
# Published mIoU on the 233 test images at this size: ENet 51.3 (arXiv 1606.02147), FC-DenseNet103 66.9 (1611.09326).
_base_ = [
    '_base_/models/segformer.py',
    '_base_/datasets/camvid.py',
    '_base_/segmentation_runtime.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop}}),
    backbone=dict(
        arch='m0_6',
        norm_eval=True,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m0_6_distill_300e.pth'),
    ),
    decode_head=dict(
        in_channels=[40, 80, 160, 320],
        channels=128,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        # The square root of the median frequency of a class over its own: roads fill a third of the pixels, bicyclists
        # 0.3 in 100.
        loss_decode=dict(class_weight=[0.52, 0.44, 2.14, 0.38, 1.0, 0.68, 1.96, 2.0, 0.87, 2.65, 3.92]),
    ),
)

train_cfg = dict(type='DenseIterLoop', max_iters=2600, val_interval=650)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=8e-4, weight_decay=0.02, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(backbone=dict(lr_mult=0.5))),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', power=0.9, eta_min=0.0, begin=100, end=2600, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=650, max_keep_ckpts=1))
log_processor = dict(window_size=25)
custom_hooks = [
    dict(type='DenseNonFiniteLossHook'),
    dict(type='DenseSaveOnSignalHook'),
    dict(type='DenseProgressHook'),
    dict(type='DenseCurvesHook'),
    dict(type='DenseBatchesHook'),
    dict(type='EMAHook', ema_type='MomentumAnnealingEMA', gamma=10, momentum=0.002, update_buffers=True),
]
