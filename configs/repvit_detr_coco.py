# DETR on COCO (arXiv 2005.12872, section 4 and appendix A.4): AdamW, lr 1e-4, of the backbone 1e-5, weight decay 1e-4,
# gradients clipped at 0.1, dropout 0.1, batch norms frozen, shorter side 480 to 800 and for every other image a crop.
# The paper trains 300 epochs (drop after 200) or 500 (after 400) at 64 images a step; here it is mmdet's schedule, 150
# epochs with a drop after 100 at 8 GPUs x 2 images: 117266 images with objects / 16 = 7330 iterations an epoch, 1099500
# in all, twice as many steps as in the 300 epochs of the paper.
# Published: 42.0 box AP with ResNet-50 after 500 epochs. With RepViT: not trained here.
_base_ = [
    '_base_/models/detr.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/adamw_1x.py',
    '_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth'),
    )
)
resize = dict(type='RandomChoiceResize', scales=[(1333, side) for side in range(480, 801, 32)], keep_ratio=True)
crop = [
    dict(type='RandomChoiceResize', scales=[(1333, side) for side in (400, 500, 600)], keep_ratio=True),
    dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[[resize], [*crop, resize]]),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(max_epochs=150)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=150, by_epoch=True, milestones=[100], gamma=0.1)]
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
