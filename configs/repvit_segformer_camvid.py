# SegFormer's decoder with 128 channels on CamVid, tested at the full 480x360 pixels: 2,400 iterations of 4 crops of
# 320x320 out of images enlarged by 0.75 to 1.75, about 26 epochs, take minutes on two CPU cores.
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
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m0_6_distill_300e.pth'),
    ),
    decode_head=dict(in_channels=[40, 80, 160, 320], channels=128, num_classes=11, norm_cfg=dict(type='BN')),
)

train_cfg = dict(type='DenseIterLoop', max_iters=2400, val_interval=600)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=0.9, eta_min=0.0, begin=50, end=2400, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=600))
log_processor = dict(window_size=25)
