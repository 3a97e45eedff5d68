"""The authors' detectors and segmentors, files of mmdet 2.28 and mmseg 0.30, load into the packaged configs.

The files are built here: the backbone's names and shapes are in `golden/`; those of neck and heads (FPN, RPN, RoI
heads, FPN head) are written out below as mmdet 2 and mmseg 0 named them.
"""

import gzip
import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from repvit_dense import config
from repvit_dense.checkpoints.loading import CheckpointError, load_checkpoint

GOLDEN = Path(__file__).parents[1] / 'golden' / 'official_state_dict_shapes.json.gz'
WIDTHS = {'m1_1': (64, 128, 256, 512), 'm1_5': (64, 128, 256, 512), 'm2_3': (80, 160, 320, 640)}
ARCHS = tuple(WIDTHS)  # published as detectors and segmentors


def with_bias(name, *shape):
    return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}


def conv_bn(name, *shape):
    norm = {f'{name}.bn.{part}': shape[:1] for part in ('weight', 'bias', 'running_mean', 'running_var')}
    return {f'{name}.conv.weight': shape, **norm, f'{name}.bn.num_batches_tracked': ()}


def fpn(widths):
    shapes = {}
    for i, width in enumerate(widths):
        shapes |= with_bias(f'neck.lateral_convs.{i}.conv', 256, width, 1, 1)
        shapes |= with_bias(f'neck.fpn_convs.{i}.conv', 256, 256, 3, 3)
    return shapes


def mask_rcnn():
    shapes = with_bias('rpn_head.rpn_conv', 256, 256, 3, 3)
    shapes |= with_bias('rpn_head.rpn_cls', 3, 256, 1, 1) | with_bias('rpn_head.rpn_reg', 12, 256, 1, 1)
    head = 'roi_head.bbox_head'
    shapes |= with_bias(f'{head}.fc_cls', 81, 1024) | with_bias(f'{head}.fc_reg', 320, 1024)
    shapes |= with_bias(f'{head}.shared_fcs.0', 1024, 12544) | with_bias(f'{head}.shared_fcs.1', 1024, 1024)
    for i in range(4):
        shapes |= with_bias(f'roi_head.mask_head.convs.{i}.conv', 256, 256, 3, 3)
    shapes |= with_bias('roi_head.mask_head.upsample', 256, 256, 2, 2)
    return shapes | with_bias('roi_head.mask_head.conv_logits', 80, 256, 1, 1)


def fpn_head():
    shapes = with_bias('decode_head.conv_seg', 150, 128, 1, 1)
    for place in ('0.0', '1.0', '2.0', '2.2', '3.0', '3.2', '3.4'):  # the missing numbers are upsamplings
        inputs = 256 if place.endswith('.0') else 128
        shapes |= conv_bn(f'decode_head.scale_heads.{place}', 128, inputs, 3, 3)
    return shapes


HEADS = {'repvit_maskrcnn_coco': mask_rcnn, 'repvit_semfpn_ade20k': fpn_head}
TAPS = {'repvit_maskrcnn_coco': 'stage_body', 'repvit_semfpn_ade20k': 'stage_end'}


def published(name, arch):
    """Return a checkpoint as the authors' training wrote it: weights in `state_dict`, classes in `meta`."""
    with gzip.open(GOLDEN) as file:
        backbone = json.load(file)[arch]
    shapes = {f'backbone.{key}': shape for key, shape in backbone.items() if not key.startswith('classifier')}
    shapes |= fpn(WIDTHS[arch]) | HEADS[name]()
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.rand(tuple(shape), generator=generator) for key, shape in shapes.items()}
    state |= {key: torch.tensor(9) for key in state if key.endswith('num_batches_tracked')}
    return {'meta': {'CLASSES': classes_of(name), 'mmdet_version': '2.28.2'}, 'state_dict': state}


def classes_of(name):
    cfg = config.load(name)
    return tuple(config.dataset_meta(cfg.test_dataloader.dataset, cfg.default_scope)['classes'])


def model_of(name, arch, **backbone):
    cfg = config.load(name, backbone=f'repvit_{arch}')
    cfg.model.backbone.update(init_cfg=None, **backbone)
    import mmseg.models  # noqa: F401  registers them

    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('name', HEADS)
def test_every_tensor_is_used(name, arch, capsys):
    checkpoint = published(name, arch)
    model = model_of(name, arch)
    load_checkpoint(model, checkpoint)
    loaded = model.state_dict()
    for key, value in checkpoint['state_dict'].items():
        if not key.startswith('backbone.'):
            torch.testing.assert_close(loaded[key], value.to(loaded[key].dtype))
    # The file determines every tensor of the model.
    assert len(loaded) == len(checkpoint['state_dict'])
    total = sum(value.double().sum() for value in checkpoint['state_dict'].values() if value.ndim)
    loaded_total = sum(value.double().sum() for value in loaded.values() if value.ndim)
    assert loaded_total.item() == pytest.approx(total.item(), rel=1e-9)


@pytest.mark.parametrize('name', HEADS)
def test_the_config_has_the_tap_of_the_published_training(name):
    assert config.load(name).model.backbone.tap == TAPS[name]


@pytest.mark.parametrize('name', HEADS)
def test_the_other_tap_is_refused(name):
    other = {'stage_body': 'stage_end', 'stage_end': 'stage_body'}[TAPS[name]]
    model = model_of(name, 'm1_1', tap=other)
    with pytest.raises(CheckpointError, match=f"was trained with tap='{TAPS[name]}', the model has tap='{other}'"):
        load_checkpoint(model, published(name, 'm1_1'))
