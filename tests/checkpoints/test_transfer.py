"""Weights of another model: all that fits is loaded, layers of other classes start anew, and one line says so."""

import copy
import functools
import re

import pytest
import torch

from repvit_dense import config
from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.checkpoints.transfer import Classes, transfer
from repvit_dense.config.building import build_on_meta
from repvit_dense.config.editing import set_class_counts
from repvit_dense.config.weights import class_layers
from repvit_dense.model import build_model

MASKED = 'repvit_maskrcnn_shapes'
OLD, NEW = ['a', 'b', 'c', 'd'], ['x', 'c', 'a', 'y', 'z']


def config_of(name, classes=4, backbone='m0_6', **changes):
    """Return a packaged config for another backbone and number of classes."""
    cfg = config.load(name, backbone=backbone)
    set_class_counts(cfg.model, classes, classes)
    if name == MASKED:
        cfg.model.roi_head.bbox_head.reg_class_agnostic = False
    cfg.merge_from_dict(changes)
    return cfg


@functools.cache
def layers_of(name, classes=4):
    """Return the class layers of a config; its backbone does not matter."""
    return class_layers(config_of(name, classes))


def other(state):
    """Return a state dict of the same shapes with other, finite values."""
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in state.items()
    }


@pytest.fixture(scope='module')
def mask_rcnn():
    """Return a Mask R-CNN with four classes."""
    torch.manual_seed(0)
    return build_model(config_of(MASKED))


@pytest.fixture(scope='module')
def source(mask_rcnn):
    """Return the weights of a Mask R-CNN with four classes."""
    return other(mask_rcnn.state_dict())


@pytest.fixture
def start(mask_rcnn, source):
    """Return `start(classes, state, trained, name)`, which gives a model's values after and before, and the line."""

    def call(classes=OLD, state=source, trained=OLD, name=MASKED, model=None):
        model = model or (
            copy.deepcopy(mask_rcnn) if (name, len(classes)) == (MASKED, 4) else built(name, len(classes))
        )
        before = {key: value.clone() for key, value in model.state_dict().items()}
        classes = Classes(classes, layers_of(name, len(classes)), trained)
        line = transfer(model, {'state_dict': state}, 'x.pth', classes)
        return model.state_dict(), before, line

    return call


def built(name, classes=4, backbone='m0_6'):
    return build_model(config_of(name, classes, backbone))


@pytest.mark.parametrize('name', config.names())
def test_every_head_starts_its_class_layers_anew_and_loads_the_rest(name):
    """The number of classes stays, so that only names tell the two apart."""
    cfg = config.load(name, ['model.backbone.init_cfg=None'])
    model, layers = build_on_meta(cfg, 'model'), class_layers(cfg)
    heads = {key.partition('.')[0] for key in layers}
    assert heads
    assert heads <= {'roi_head', 'bbox_head', 'panoptic_head', 'decode_head', 'auxiliary_head'}
    state = model.state_dict()
    count = len(state)
    line = transfer(model, {'state_dict': state}, 'x.pth', Classes(NEW, layers, OLD))
    assert re.match(rf'{count - len(layers)} of {count} tensors \([89]\d% of the parameters\) from x.pth; ', line)
    assert 'started anew because the classes differ: ' in line
    line = transfer(model, {'state_dict': state}, 'x.pth', Classes(OLD, layers, OLD))
    assert line == f'all {count} tensors from x.pth'


# --- classes ---


def test_rows_of_classes_with_the_same_name_are_copied(start, source):
    after, before, line = start(NEW)
    rows = {'roi_head.bbox_head.fc_cls': True, 'roi_head.mask_head.conv_logits': False}
    for layer, has_background in rows.items():
        for key in (f'{layer}.weight', f'{layer}.bias'):
            expected = before[key].clone()
            expected[[1, 2]] = source[key][[2, 0]]
            if has_background:
                expected[5] = source[key][4]
            assert torch.equal(after[key], expected)
    regression = 'roi_head.bbox_head.fc_reg.weight'  # four rows per class
    assert torch.equal(after[regression], before[regression])
    assert (
        'only the rows of the classes c, a; started anew because the classes differ: roi_head.bbox_head.fc_reg' in line
    )


def test_other_names_start_anew_and_the_rest_is_loaded(start, source):
    after, before, line = start(['p', 'q', 'r', 's'])
    for key, value in after.items():
        assert torch.equal(value, before[key] if key in layers_of(MASKED) else source[key])
    assert (
        'anew because the classes differ: roi_head.bbox_head.fc_cls, roi_head.bbox_head.fc_reg, roi_head.mask' in line
    )


def test_the_same_classes_in_another_order(start, source):
    after, _, _ = start(OLD[::-1])
    key = 'roi_head.mask_head.conv_logits.weight'
    assert torch.equal(after[key], source[key].flip(0))


@pytest.mark.parametrize('trained', [None, ['a', 'a', 'c', 'd'], [f'{i}' for i in range(100_000)]])
def test_names_that_say_nothing_about_the_rows(start, trained):
    """No names, one twice, and too many: nothing is copied."""
    after, before, line = start(['a', 'b', 'c', 'e'], trained=trained)
    assert all(torch.equal(after[key], before[key]) for key in layers_of(MASKED))
    assert ('because the file names no classes' in line) == (trained is None)


def test_a_panoptic_head_has_a_row_for_each_thing_and_stuff():
    layers = class_layers(config.load('repvit_mask2former_shapes-panoptic'))
    assert layers == {'panoptic_head.cls_embed.weight': 1, 'panoptic_head.cls_embed.bias': 1}


# --- another head, a backbone alone ---


@pytest.mark.parametrize(
    'name, anew',
    [
        ('repvit_retinanet_coco', 'neck, bbox_head'),
        ('repvit_ssdlite_coco', 'neck, bbox_head'),
        ('repvit_segformer_shapes', 'decode_head'),
    ],
)
def test_a_checkpoint_of_another_head_gives_its_backbone(start, source, name, anew):
    after, before, line = start(name=name)
    assert line.endswith(f'started anew because the file has none that fits: {anew}')
    for key, value in after.items():
        assert torch.equal(value, (source if key.startswith('backbone.') else before)[key])


def test_parts_of_another_head_that_fit_are_loaded(start, source):
    """A detector without masks takes neck, RPN and box head of one with masks."""
    cfg = config_of(MASKED)
    cfg.model.roi_head.pop('mask_head'), cfg.model.roi_head.pop('mask_roi_extractor')
    after, _, line = start(model=build_model(cfg))
    assert line == f'all {len(after)} tensors from x.pth'
    assert all(torch.equal(after[key], source[key]) for key in after)


@pytest.mark.parametrize('backbone, prefix', [('m0_6', 'module.'), ('mobilenetv2', ''), ('mobilenetv2', 'backbone.')])
def test_a_backbone_alone(start, backbone, prefix):
    model = built('repvit_segformer_shapes', backbone=backbone)
    network = model.backbone if backbone == 'm0_6' else model.backbone.net  # published weights
    state = {prefix + key: value for key, value in other(network.state_dict()).items()}
    after, _, line = start(state=state, trained=None, name='repvit_segformer_shapes', model=model)
    assert line.endswith('from x.pth; started anew because the file has none that fits: decode_head')
    key = next(key for key in after if key.startswith('backbone.') and after[key].ndim == 4)
    assert torch.equal(after[key], next(value for value in state.values() if value.ndim == 4))


def test_a_peer_with_fewer_outputs_does_without_the_norms(start):
    """The norms behind the network depend on the taps, not on the network."""
    state = other(built(MASKED, backbone='poolformer_s12').state_dict())
    model = built('repvit_retinanet_coco', backbone='poolformer_s12')
    _, _, line = start(state=state, name='repvit_retinanet_coco', model=model)
    assert line.endswith('none that fits: backbone.out_norms, neck, bbox_head')


# --- refusals ---


@pytest.mark.parametrize(
    'backbone, changes, words',
    [
        ('m0_9', {}, ['look like m0_6', 'the model is m0_9', '--backbone m0_6']),
        ('mobilenetv2', {}, ['another architecture than mobilenetv2']),
        (
            'm0_6',
            {'model.roi_head.bbox_head.fc_out_channels': 128},
            ['of another size', 'fc_cls.weight is (5, 256) in the file and (5, 128)', 'shared_fcs.0.weight'],
        ),
    ],
)
def test_weights_of_another_size_are_refused_and_nothing_changes(source, backbone, changes, words):
    model = build_model(config_of(MASKED, 4, backbone, **changes))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match='^x.pth: ') as refused:
        transfer(model, {'state_dict': source}, 'x.pth', Classes(OLD, layers_of(MASKED), OLD))
    for word in words:
        assert word in str(refused.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('key', ['neck.fpn_convs.0.conv.weight', 'roi_head.bbox_head.fc_cls.weight'])
def test_values_of_a_diverged_training_are_refused(start, source, key):
    with pytest.raises(CheckpointError, match=f'{key} has NaN'):
        start(OLD[::-1], {**source, key: source[key] * float('nan')})


def test_no_weights(start):
    with pytest.raises(CheckpointError, match='no weights in it; its keys are'):
        start(state={})


# --- old files and averaged weights ---


def test_the_number_of_batches_may_be_missing(start, source):
    state = {key: value for key, value in source.items() if not key.endswith('num_batches_tracked')}
    after, _, line = start(state=state)
    assert line == f'all {len(after)} tensors from x.pth'


def test_averaged_weights_of_mmengine_are_taken(mask_rcnn, source):
    """Its hook stores the average as `state_dict`, and the weights before it as `ema_state_dict`."""
    model = copy.deepcopy(mask_rcnn)
    raw = {f'module.{key}': torch.zeros_like(value) for key, value in source.items()}
    checkpoint = {'state_dict': source, 'ema_state_dict': {'steps': torch.tensor(3), **raw}}
    transfer(model, checkpoint, 'x.pth', Classes(OLD, {}, OLD))
    assert all(torch.equal(value, source[key]) for key, value in model.state_dict().items())
