# Mask2Former on ADE20K, semantic, by its recipe (arXiv 2112.01527, section 4.1 and appendix A): AdamW, lr 1e-4 and a
# tenth of it for the backbone, weight decay 0.05 but not on norms, biases and embeddings, polynomial decay of power
# 0.9, gradients clipped to norm 0.01, 8 GPUs x 2 images for 160,000 iterations (127 epochs), crops of 512x512 out of
# images whose shorter side is 256 to 1024 pixels. Backbone batch norms are frozen, as in the reference.
# No published result pairs RepViT with this head. mmseg's trainings of it: ResNet-50 47.9, Swin-T 48.7 mIoU.
_base_ = [
    '_base_/models/mask2former_semantic.py',
    '_base_/datasets/ade20k.py',
    '_base_/segmentation_runtime.py',
]
model = dict(
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth'),
    )
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomChoiceResize',
        scales=[512 * tenths // 10 for tenths in range(5, 21)],
        resize_type='ResizeShortestEdge',
        max_size=2048,
    ),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(type='DenseIterLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
embedding = dict(lr_mult=1.0, decay_mult=0.0)
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='DenseNoDecayOptimWrapperConstructor',  # a custom key for the backbone would decay its norms
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1, decay_mult=1.0),
            query_embed=embedding,
            query_feat=embedding,
            level_embed=embedding,
        )
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=160000, by_epoch=False)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
