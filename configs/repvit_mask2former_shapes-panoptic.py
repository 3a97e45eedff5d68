# Mask2Former small enough to train on two CPU cores in ten minutes, from random weights, on the embedded data set:
# 2100 iterations of 4 images are 4.2 epochs of 2,000 images. Classes take longer to learn than masks, so their loss has
# twice the weight of the paper's, and a query counts from a probability of 0.2.
_base_ = [
    '_base_/models/mask2former.py',
    '_base_/datasets/shapes_panoptic_2000.py',
    '_base_/iter_runtime.py',
]
WIDTH, HEADS = 64, 4
things, stuff = 8, 4
attention = dict(embed_dims=WIDTH, num_heads=HEADS)
ffn = dict(embed_dims=WIDTH, feedforward_channels=2 * WIDTH)
position = dict(num_feats=WIDTH // 2)
model = dict(
    data_preprocessor=dict(batch_augments=None),
    backbone=dict(arch='m0_6'),
    panoptic_head=dict(
        in_channels=[40, 80, 160, 320],
        feat_channels=WIDTH,
        out_channels=WIDTH,
        num_things_classes=things,
        num_stuff_classes=stuff,
        num_queries=25,
        pixel_decoder=dict(
            encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
            positional_encoding=position,
        ),
        positional_encoding=position,
        transformer_decoder=dict(
            num_layers=3, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)
        ),
        loss_cls=dict(loss_weight=4.0, class_weight=[1.0] * (things + stuff) + [0.1]),
    ),
    panoptic_fusion_head=dict(num_things_classes=things, num_stuff_classes=stuff),
    train_cfg=dict(num_points=1024),
    test_cfg=dict(instance_on=False, object_mask_thr=0.2, iou_thr=0.5),
)

train_cfg = dict(type='DenseIterLoop', max_iters=2100, val_interval=700)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
embedding = dict(decay_mult=0.0)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        custom_keys=dict(query_embed=embedding, query_feat=embedding, level_embed=embedding, level_encoding=embedding),
        norm_decay_mult=0.0,
    ),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', begin=0, end=2100, by_epoch=False, eta_min=1e-5),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=700, save_best='coco_panoptic/PQ', rule='greater')
)
log_processor = dict(window_size=25)
