# BCCD: 364 photographs of blood smears, 640x480, boxes of three kinds of cells; 205 for training, 87 for validation and
# 72 for the test.
# Download: the folder BCCD of github.com/Shenggan/BCCD_Dataset (MIT), put or linked as data/bccd; it holds JPEGImages/,
# Annotations/ and ImageSets/. --data data/bccd converts its boxes.
_base_ = './coco_detection.py'
data_root = 'data/bccd/'
provenance = dict(data='BCCD', data_url='https://github.com/Shenggan/BCCD_Dataset', data_licence='MIT')
scale = (448, 448)
crop = (352, 352)
metainfo = dict(classes=('Platelets', 'RBC', 'WBC'), palette=[(70, 100, 240), (230, 60, 60), (60, 200, 80)])

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop, recompute_bbox=True, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4)),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='Pad', size=crop),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
images = dict(data_root=data_root, metainfo=metainfo, data_prefix=dict(img='JPEGImages/'))
train_dataloader = dict(
    batch_size=8,
    batch_sampler=None,
    dataset=dict(
        **images,
        ann_file='annotations/train.json',
        filter_cfg=dict(_delete_=True, filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(batch_size=8, dataset=dict(**images, ann_file='annotations/val.json', pipeline=test_pipeline))
test_dataloader = dict(batch_size=8, dataset=dict(**images, ann_file='annotations/test.json', pipeline=test_pipeline))

val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = dict(ann_file=data_root + 'annotations/test.json')
