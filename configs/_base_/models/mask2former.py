# Mask2Former (arXiv 2112.01527) from mmdet's stock parts, on RepViT-M1.1: a pixel decoder of 6 deformable-attention
# layers, 9 decoder layers with masked attention, 100 queries; for the 80 things and 53 stuff classes of COCO panoptic.
WIDTH, HEADS = 256, 8
attention = dict(embed_dims=WIDTH, num_heads=HEADS, dropout=0.0, batch_first=True)
ffn = dict(embed_dims=WIDTH, num_fcs=2, ffn_drop=0.0, act_cfg=dict(type='ReLU', inplace=True))
position = dict(num_feats=WIDTH // 2, normalize=True)
classes = dict(num_things_classes=80, num_stuff_classes=53)
mask_loss = dict(type='CrossEntropyLoss', use_sigmoid=True, reduction='mean', loss_weight=5.0)
dice_loss = dict(
    type='DiceLoss', use_sigmoid=True, activate=True, naive_dice=True, eps=1.0, reduction='mean', loss_weight=5.0
)
model = dict(
    type='Mask2Former',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        pad_mask=True,
        pad_seg=True,
        seg_pad_value=255,
        batch_augments=[
            dict(type='BatchFixedSizePad', size=(1024, 1024), pad_mask=True, pad_seg=True, seg_pad_value=255)
        ],
    ),
    backbone=dict(type='RepViT', arch='m1_1', out_indices=(0, 1, 2, 3), tap='stage_body'),
    panoptic_head=dict(
        type='Mask2FormerHead',
        in_channels=[64, 128, 256, 512],
        strides=[4, 8, 16, 32],
        feat_channels=WIDTH,
        out_channels=WIDTH,
        **classes,
        num_queries=100,
        num_transformer_feat_level=3,
        pixel_decoder=dict(
            type='MSDeformAttnPixelDecoder',
            num_outs=3,
            norm_cfg=dict(type='GN', num_groups=32),
            act_cfg=dict(type='ReLU'),
            encoder=dict(
                num_layers=6,
                layer_cfg=dict(
                    self_attn_cfg=dict(**attention, num_levels=3, num_points=4),
                    ffn_cfg=dict(**ffn, feedforward_channels=1024),
                ),
            ),
            positional_encoding=position,
        ),
        enforce_decoder_input_project=False,
        positional_encoding=position,
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=9,
            layer_cfg=dict(
                self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=dict(**ffn, feedforward_channels=2048)
            ),
        ),
        loss_cls=dict(
            type='CrossEntropyLoss',
            use_sigmoid=False,
            reduction='mean',
            loss_weight=2.0,
            class_weight=[1.0] * 133 + [0.1],  # the last one is 'no object'
        ),
        loss_mask=mask_loss,
        loss_dice=dice_loss,
    ),
    panoptic_fusion_head=dict(type='MaskFormerFusionHead', **classes, loss_panoptic=None),
    train_cfg=dict(
        num_points=12544,  # 112 x 112 points per mask, most of them at uncertain predictions
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='ClassificationCost', weight=2.0),
                dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
                dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0),
            ],
        ),
        sampler=dict(type='MaskPseudoSampler'),
    ),
    test_cfg=dict(
        panoptic_on=True,
        semantic_on=False,
        instance_on=True,
        max_per_image=100,
        iou_thr=0.8,
        filter_low_score=True,
    ),
)
