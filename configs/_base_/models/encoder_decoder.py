# Common settings of all segmentors: mmseg's encoder-decoder on RepViT-M1.1. Features are taken at the end of each
# stage, as in the reference for ADE20K.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),  # of the training crops; smaller images are padded to it
        test_cfg=dict(size_divisor=32),  # the input sizes of an exported model
    ),
    backbone=dict(type='RepViT', arch='m1_1', out_indices=(0, 1, 2, 3), tap='stage_end'),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
