# Mask2Former (arXiv 2112.01527, section 4.1), 50 epochs of COCO at 16 images a step (8 GPUs x 2): AdamW, lr 1e-4, that
# of the backbone 1e-5, weight decay 0.05 but none on norms, biases and embeddings, gradients clipped at 0.01, lr
# divided by 10 at 0.889 and 0.963 of 118000 images x 50 epochs / 16 = 368750 iterations.
train_cfg = dict(type='DenseIterLoop', max_iters=368750, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

embedding = dict(lr_mult=1.0, decay_mult=0.0)
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='DenseNoDecayOptimWrapperConstructor',  # a custom key for the backbone would decay its norms
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999)),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1, decay_mult=1.0),
            query_embed=embedding,
            query_feat=embedding,
            level_embed=embedding,
            level_encoding=embedding,
        )
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=368750, by_epoch=False, milestones=[327778, 355092], gamma=0.1)
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
