# The embedded data set: 256x256 pictures of eight shapes on four textures, drawn on first use, in the folder of
# shapes_instance.py.
embedded_data = dict(root='data/shapes', seed=0, num_train=500, num_val=100, size=(256, 256))
data_root = 'data/shapes/'
things = ('circle', 'square', 'triangle', 'star', 'ring', 'cross', 'heart', 'crescent')
metainfo = dict(
    classes=(*things, 'stripes', 'checks', 'speckle', 'waves'),
    palette=[
        *([230, 60, 60], [60, 200, 80], [70, 100, 240], [250, 220, 60]),  # things in bright colours
        *([240, 130, 40], [60, 210, 220], [230, 70, 200], [150, 80, 220]),
        *([60, 60, 60], [105, 105, 105], [150, 150, 150], [195, 195, 195]),  # textures in greys
    ],
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
    dict(type='LoadAnnotations'),  # after resizing: scores are taken at the original size
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # loading takes 10 ms; on two cores a worker process costs more
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        img_suffix='.png',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='train2017', seg_map_path='annotations/semantic_train2017'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        img_suffix='.png',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='val2017', seg_map_path='annotations/semantic_val2017'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
