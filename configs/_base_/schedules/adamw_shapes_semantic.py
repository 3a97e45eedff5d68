# From random weights on the embedded data set: 3,200 iterations of AdamW at 4 images a step, 6.4 epochs of 2,000.
train_cfg = dict(type='DenseIterLoop', max_iters=3200, val_interval=800)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=3200, eta_min=1e-5),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
