# DeepLabv3 on PASCAL VOC 2012 (aug), after the recipe of MobileViTv2 (arXiv 2206.02680, section 4, and its code):
# AdamW, lr 5e-4, weight decay 0.05 but not on norms and biases, 500 iterations of warm-up from a tenth, cosine decay to
# 1e-6, gradients clipped to norm 10, 128 images a step (8 GPUs x 16), 50 epochs, crops of 512x512, 512 channels in the
# pooling pyramid, an auxiliary head of weight 0.4.
# Differences: the pyramid runs at stride 32 with rates 3, 6, 9 instead of stride 16 with 6, 12, 18, because RepViT has
# no dilated stages; 50 epochs are counted on the 10,582 images of trainaug (83 iterations each, 4,150 in all), without
# their additional images of COCO; no rotation, no noise, no moving average of the weights; backbone batch norms are
# frozen, as in the reference's downstream models.
# No published result pairs RepViT with this head.
_base_ = [
    '_base_/models/deeplabv3.py',
    '_base_/datasets/voc.py',
    '_base_/segmentation_runtime.py',
]
model = dict(
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth'),
    )
)

train_cfg = dict(type='DenseIterLoop', max_iters=4150, val_interval=830)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=500, end=4150, eta_min=1e-6),
]
auto_scale_lr = dict(enable=False, base_batch_size=128)
default_hooks = dict(checkpoint=dict(interval=830))
