# Mask R-CNN small enough to train on two CPU cores in a few minutes, from random weights, on the embedded data set.
# Norms in the neck and the mask head, and one box regression for all classes, let it learn from few images.
_base_ = [
    '_base_/models/mask-rcnn_fpn.py',
    '_base_/datasets/shapes_instance.py',
    '_base_/default_runtime.py',
]
WIDTH = 64
roi_layer = dict(sampling_ratio=2)
model = dict(
    backbone=dict(arch='m0_6'),
    neck=dict(in_channels=[40, 80, 160, 320], out_channels=WIDTH, norm_cfg=dict(type='BN')),
    rpn_head=dict(in_channels=WIDTH, feat_channels=WIDTH),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=WIDTH, roi_layer=roi_layer),
        bbox_head=dict(in_channels=WIDTH, fc_out_channels=256, num_classes=8, reg_class_agnostic=True),
        mask_roi_extractor=dict(out_channels=WIDTH, roi_layer=roi_layer),
        mask_head=dict(
            in_channels=WIDTH, num_convs=2, conv_out_channels=WIDTH, num_classes=8, norm_cfg=dict(type='BN')
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=64, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=30)),
)

train_cfg = dict(type='DenseEpochLoop', max_epochs=3, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', begin=0, end=3, by_epoch=True, convert_to_iter_based=True, eta_min=1e-5),
]
auto_scale_lr = dict(enable=False, base_batch_size=2)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(save_best='coco/segm_mAP'))
log_processor = dict(window_size=25)
