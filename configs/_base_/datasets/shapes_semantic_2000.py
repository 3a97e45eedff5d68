# The embedded data set with four times the training images, in its own folder, resized to 160x160 for the network and
# scored at 256x256. From scratch a segmentor needs many pictures, and small ones cost less.
_base_ = './shapes_semantic.py'
embedded_data = dict(root='data/shapes-2000', num_train=2000)
data_root = 'data/shapes-2000/'
scale = (160, 160)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),  # after resizing: scores are taken at the original size
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
