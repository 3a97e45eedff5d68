# SegFormer's decoder on Cityscapes by its recipe (arXiv 2105.15203, section 4.1): as on ADE20K, but 8 GPUs x 1 image
# for 160,000 iterations (430 epochs), crops of 1024x1024, tested by windows of that size that move by 768 pixels.
# No published result pairs RepViT with this head. mmseg's trainings of it: MiT-B0 76.5, B1 78.6, B2 81.1 mIoU.
_base_ = [
    '_base_/models/segformer.py',
    '_base_/datasets/cityscapes.py',
    '_base_/schedules/adamw_poly_160k.py',
    '_base_/segmentation_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(1024, 1024)),
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth'),
    ),
    decode_head=dict(num_classes=19),
    test_cfg=dict(mode='slide', crop_size=(1024, 1024), stride=(768, 768)),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.0))))
auto_scale_lr = dict(base_batch_size=8)
