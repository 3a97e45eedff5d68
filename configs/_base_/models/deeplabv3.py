# DeepLabv3 (arXiv 1706.05587) with an auxiliary FCN head on the stride-16 feature, from mmseg's stock parts.
# RepViT has no dilated stages, so the pooling pyramid runs at stride 32. Its rates are half those for stride 16 (6, 12,
# 18), so that its branches have the same reach in pixels of the image.
_base_ = './encoder_decoder.py'
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(out_indices=(2, 3)),  # strides 16 and 32; a feature that no head reads would get no gradient
    decode_head=dict(
        type='ASPPHead',
        in_channels=512,
        in_index=1,
        channels=512,
        dilations=(1, 3, 6, 9),
        dropout_ratio=0.1,
        num_classes=21,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=256,
        in_index=0,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=21,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
)
