# UPerNet on ADE20K by the recipe of Swin (arXiv 2103.14030, section 4.3 and appendix A2.3): AdamW, lr 6e-5, weight
# decay 0.01 but not on norms, 1,500 iterations of warm-up, linear decay to 0, 8 GPUs x 2 images for 160,000 iterations
# (127 epochs), crops of 512x512, an auxiliary head of weight 0.4. No stochastic depth of 0.2, because RepViT has
# none in the reference. Backbone batch norms are frozen, as in the reference.
# No published result pairs RepViT with this head. mmseg's training of it: Swin-T 44.4 mIoU.
_base_ = [
    '_base_/models/upernet.py',
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
