# Semantic FPN on ADE20K, the reference recipe of RepViT (arXiv 2307.09283, section 4.3, and its code): AdamW, lr 2e-4,
# weight decay 1e-4, polynomial decay of power 0.9 down to 1e-6, 8 GPUs x 4 images for 40,000 iterations (63 epochs),
# crops of 512x512, test images resized to a multiple of 32, backbone batch norms frozen, ImageNet weights of 300
# epochs.
# Published with these settings: 40.6 mIoU (RepViT-M1.5 43.6; M2.3, from the weights of 450 epochs, 46.1; PoolFormer-S12
# 37.2, EfficientFormer-L1 38.9, PoolFormer-S24 40.3, EfficientFormer-L3 43.5).
_base_ = [
    '_base_/models/semantic-fpn.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/adamw_poly_40k.py',
    '_base_/segmentation_runtime.py',
]
model = dict(
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth'),
    )
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),  # after resizing: scores are taken at the original size
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=4)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
