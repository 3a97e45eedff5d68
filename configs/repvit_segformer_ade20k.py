# SegFormer's decoder on ADE20K by its recipe (arXiv 2105.15203, section 4.1): AdamW, lr 6e-5 and ten times that for the
# head, weight decay 0.01 but not on norms, 1,500 iterations of warm-up, linear decay to 0, 8 GPUs x 2 images for
# 160,000 iterations (127 epochs), crops of 512x512. Backbone batch norms are frozen, as in the reference.
# No published result pairs RepViT with this head. mmseg's trainings of it: MiT-B0 37.4, B1 41.0, B2 45.6 mIoU.
_base_ = [
    '_base_/models/segformer.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/adamw_poly_160k.py',
    '_base_/segmentation_runtime.py',
]
model = dict(
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='repvit_m1_1_distill_300e.pth'),
    )
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.0))))
