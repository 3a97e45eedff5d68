"""`set_size` changes every size in a config, and the sizes of its tensors follow."""

import pytest
from mmengine.config import Config

from repvit_dense import config
from repvit_dense.config import sizes
from repvit_dense.config.structure import nested
from repvit_dense.errors import InputError


def resized(name, size):
    cfg = config.load(name)
    sizes.set_size(cfg, size)
    return cfg


def values(cfg, loader, *types):
    return [
        step[key]
        for step in nested(cfg[loader])
        if step.get('type') in types
        for key in ('scale', 'scales', 'size', 'crop_size', 'img_scale')
        if key in step
    ]


@pytest.mark.parametrize('name', config.names())
def test_every_config_has_the_new_size(name):
    cfg = resized(name, 256)
    assert sizes.current_size(cfg) == sizes.training_size(cfg) == (256, 256)
    before = cfg.to_dict()
    sizes.set_size(cfg, 256)
    assert cfg.to_dict() == before


@pytest.mark.parametrize('name', config.names())
def test_ranges_keep_their_proportions(name):
    cfg = config.load(name)
    old = values(cfg, 'train_dataloader', 'RandomResize', 'RandomChoiceResize')
    sizes.set_size(cfg, 256)
    new = values(cfg, 'train_dataloader', 'RandomResize', 'RandomChoiceResize')
    ratios = {side.count(max(side)) and max(side) / min(side) for side in map(flat, old)}
    if 'detr' in name or 'cascade' in name:  # two sides with factors of their own
        return
    assert {round(max(side) / min(side), 1) for side in map(flat, new)} == {round(ratio, 1) for ratio in ratios}


def flat(value):
    return [value] if isinstance(value, int) else [side for part in value for side in flat(part)]


def test_a_detector_fits_images_into_a_box():
    cfg = resized('repvit_maskrcnn_coco', (1024, 768))
    assert values(cfg, 'train_dataloader', 'Resize') == values(cfg, 'test_dataloader', 'Resize') == [(1024, 768)]


def test_crops_mosaics_and_padding_of_rtmdet():
    cfg = resized('repvit_rtmdet-ins_coco', 320)
    assert values(cfg, 'train_dataloader', 'CachedMosaic', 'RandomCrop', 'Pad', 'CachedMixUp') == [(320, 320)] * 4
    assert values(cfg, 'train_dataloader', 'RandomResize') == [(640, 640)]
    assert values(cfg, 'custom_hooks', 'RandomResize', 'RandomCrop', 'Pad') == [(320, 320)] * 3


def test_crops_and_whole_images_of_a_segmentor():
    cfg = resized('repvit_segformer_cityscapes', (512, 256))
    assert values(cfg, 'train_dataloader', 'RandomCrop') == [(256, 512)]  # height, width
    assert values(cfg, 'train_dataloader', 'RandomResize') == values(cfg, 'test_dataloader', 'Resize') == [(512, 256)]
    assert cfg.model.data_preprocessor.size == cfg.model.test_cfg.crop_size == (256, 512)
    assert cfg.model.test_cfg.stride == (192, 384)


def test_large_scale_jitter_and_the_padding_of_its_batches():
    cfg = resized('repvit_mask2former_coco-panoptic', 512)
    assert values(cfg, 'train_dataloader', 'RandomResize', 'RandomCrop') == [(512, 512)] * 2
    assert values(cfg, 'test_dataloader', 'Resize') == [(512, 512)]
    assert cfg.model.data_preprocessor.batch_augments[0]['size'] == (512, 512)


@pytest.mark.parametrize('size, width', [(320, 320), (256, 256), ((512, 256), 256)])
def test_anchors_of_ssd_lie_on_its_feature_maps(size, width):
    import torch
    from mmengine.registry import MODELS, init_default_scope

    cfg = resized('repvit_ssdlite_coco', size)
    anchors = cfg.model.bbox_head.anchor_generator
    assert anchors.max_sizes[-1] == width
    assert anchors.min_sizes[0] == round(48 * width / 320)
    init_default_scope('mmdet')
    neck = MODELS.build(cfg.model.neck).eval()
    columns, rows = (size, size) if isinstance(size, int) else size
    features = neck(
        [
            torch.zeros(1, channels, rows // stride, columns // stride)
            for channels, stride in zip(cfg.model.neck.in_channels, (16, 32), strict=True)
        ]
    )
    for stride, feature in zip(anchors.strides, features, strict=True):
        horizontal, vertical = (stride, stride) if isinstance(stride, int) else stride
        assert horizontal == round(columns / feature.shape[3]) and vertical == round(rows / feature.shape[2])


def test_the_size_of_ssd_is_that_of_its_recipe_again():
    cfg = resized('repvit_ssdlite_coco', 320)
    assert cfg.to_dict() == config.load('repvit_ssdlite_coco').to_dict()


@pytest.mark.parametrize(
    'name, size, words',
    [
        ('repvit_maskrcnn_coco', 16, 'from 32 to 8192 pixels'),
        ('repvit_ssdlite_coco', 300, '--size 300: must be a multiple of 32 for this config, such as 288 or 320'),
        ('repvit_semfpn_ade20k', (512, 300), '--size 512x300: must be a multiple of 32'),
        ('repvit_semfpn_shapes', (512, 256), 'give one number, such as 512'),
    ],
)
def test_an_impossible_size(name, size, words):
    with pytest.raises(InputError, match=words):
        resized(name, size)


def test_a_config_without_a_size():
    with pytest.raises(InputError, match='resize no image'):
        sizes.set_size(Config({'test_dataloader': {'dataset': {'pipeline': [{'type': 'LoadImageFromFile'}]}}}), 256)


def test_fractions_are_no_sizes():
    steps = [{'type': 'Resize', 'scale': (64, 64)}, {'type': 'RandomResizedCrop', 'scale': (0.5, 1.0)}]
    loader = {'dataset': {'pipeline': steps}}
    cfg = Config({'train_dataloader': loader, 'test_dataloader': loader})
    sizes.set_size(cfg, 128)
    assert values(cfg, 'train_dataloader', 'Resize', 'RandomResizedCrop') == [(128, 128), (0.5, 1.0)]


def test_the_border_that_cuts_an_image_out_of_a_mosaic():
    cfg = config.load('repvit_rtmdet-ins_coco')
    pipeline = cfg.train_dataloader.dataset.pipeline
    mosaic = next(i for i, step in enumerate(pipeline) if 'Mosaic' in step.type)
    old, _ = sizes.training_size(cfg)
    pipeline.insert(mosaic + 1, {'type': 'RandomAffine', 'border': (-old // 2, -old // 2)})
    sizes.set_size(cfg, (320, 192))
    assert pipeline[mosaic + 1]['border'] == [-160, -96]
