# PASCAL VOC 2012 with the extra annotations of SBD (Hariharan et al. 2011): the 10,582 images of trainaug.txt, with a
# label map for each in SegmentationClassAug; 1,449 validation images, 21 classes with the background. Crops of 512x512
# out of images whose shorter side is 256 to 768 pixels.
_base_ = './segmentation.py'
data_root = 'data/VOCdevkit/VOC2012/'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomChoiceResize',
        scales=list(range(256, 769, 32)),
        resize_type='ResizeShortestEdge',
        max_size=1024,
    ),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        type='PascalVOCDataset',
        data_root=data_root,
        ann_file='ImageSets/Segmentation/trainaug.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='PascalVOCDataset',
        data_root=data_root,
        ann_file='ImageSets/Segmentation/val.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    ),
)
test_dataloader = val_dataloader
