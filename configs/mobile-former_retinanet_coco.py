# RetinaNet 1x on COCO with Mobile-Former as its backbone (arXiv 2108.05895); epochs, learning rate, steps, batch
# (8 GPUs x 2 images) and image size are those of repvit_retinanet_coco.
# The published ImageNet weights have no licence, so training starts from random weights, with live batch norms. With
# your own weights:
#   --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
#   model.backbone.norm_eval=True
# For another size: --backbone mobile_former_508m. Not trained here.
_base_ = ['repvit_retinanet_coco.py']
model = dict(
    backbone=dict(_delete_=True, type='DenseMobileFormer', arch='294m', out_indices=(1, 2, 3), norm_eval=False),
    neck=dict(in_channels=[48, 128, 192]),
)
optim_wrapper = dict(constructor='DenseNoDecayOptimWrapperConstructor', paramwise_cfg=dict(no_decay=['tokens']))
