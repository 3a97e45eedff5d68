"""Checkpoints load completely or not at all; a refusal says why and changes nothing."""

import logging
from collections import OrderedDict

import pytest
import timm
import torch
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import MODEL_WRAPPERS, MODELS
from torch import nn

from repvit_dense.backbones import RepViT
from repvit_dense.checkpoints.layouts import LAYOUTS, convert
from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.reparam import reparameterize_model


class Detector(BaseModel):
    """A detector's structure: backbone, neck, and heads with layers that depend on the number of classes."""

    def __init__(self, arch, num_classes=80, out_indices=(0, 1, 2, 3), backbone=None):
        super().__init__()
        self.backbone = backbone or RepViT(arch, out_indices=out_indices)
        self.neck = nn.Conv2d(8, 4, 1)
        self.rpn_head = nn.Conv2d(4, 3, 1)
        self.rpn_head.num_classes = 1
        self.roi_head = nn.Module()
        self.roi_head.num_classes = num_classes
        self.roi_head.fc_cls = nn.Linear(4, num_classes + 1)
        self.roi_head.fc_reg = nn.Linear(4, 4 * num_classes)
        self.roi_head.conv_logits = nn.Conv2d(4, num_classes, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.backbone(inputs)


def one_stage(arch, num_classes):
    model = Detector(arch)
    del model.rpn_head, model.roi_head
    model.bbox_head = nn.Conv2d(4, 9 * num_classes, 1)
    model.bbox_head.num_classes = num_classes
    return model


def same(a, b):
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def with_prefix(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def reset(module):
    """Return the module with every tensor set to a value that no checkpoint has."""
    with torch.no_grad():
        for value in module.state_dict().values():
            value.fill_(-3)
    return module


# --- checkpoints that fit ---


@pytest.mark.parametrize('name', LAYOUTS)
@pytest.mark.parametrize(('container', 'prefix'), [(None, ''), ('model', ''), ('state_dict', 'module.')])
def test_a_backbone_loads_classification_weights(tiny, tiny_arch, log, name, container, prefix):
    head = {f'head.{h}.l.weight': torch.ones(7, 32) for h in ('head', 'head_dist')}
    state = with_prefix(convert(tiny.state_dict() | head, to=name), prefix)
    checkpoint = {container: state} if container else state
    other = reset(RepViT(tiny_arch))
    assert load_checkpoint(other, checkpoint) is checkpoint
    assert same(other.state_dict(), tiny.state_dict())
    messages = [text for _, text in log]
    assert len(messages) == 2
    assert f'{name} layout' in messages[0]
    assert f'{len(tiny.state_dict())} tensors loaded' in messages[0]
    assert 'as expected: classifier head (2 tensors)' in messages[1]
    assert all(level == logging.INFO for level, _ in log)


@pytest.mark.parametrize('tap', ['stage_body', 'stage_end'])
@pytest.mark.parametrize('out_indices', [(0,), (0, 1), (1, 2), (3,)])
def test_weights_of_later_blocks_are_reported_as_unused(tiny, tiny_arch, log, out_indices, tap):
    short = reset(RepViT(tiny_arch, out_indices=out_indices, tap=tap))
    load_checkpoint(short, convert(tiny.state_dict(), to='official'))
    full, last = tiny.state_dict(), out_indices[-1]
    assert same(short.state_dict(), {key: full[key] for key in short.state_dict()})
    text = ' '.join(text for _, text in log)
    assert ('stage 3' in text) == (last < 3)
    assert (f'last block of stage {last}' in text) == (last < 3 and tap == 'stage_body')


def test_plain_weights_precede_averaged_ones_which_are_mentioned(tiny, tiny_arch, log):
    plain = convert(tiny.state_dict(), to='official')
    averaged = convert({key: value + 1 for key, value in tiny.state_dict().items()}, to='official')
    other = RepViT(tiny_arch)
    load_checkpoint(other, {'model_ema': averaged, 'model': plain, 'epoch': 3})
    assert same(other.state_dict(), tiny.state_dict())
    assert 'averaged weights (model_ema)' in log[-1][1]
    load_checkpoint(other, {'model_ema': averaged})
    assert torch.equal(other.stem.conv1.conv.weight, tiny.stem.conv1.conv.weight + 1)


def test_the_module_keeps_its_dtype(tiny, tiny_arch):
    half = RepViT(tiny_arch).to(torch.bfloat16)
    load_checkpoint(half, tiny.state_dict())
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.stem.conv1.conv.weight, tiny.stem.conv1.conv.weight.bfloat16())


def test_batch_counters_may_be_missing(tiny, tiny_arch):
    state = {key: value for key, value in tiny.state_dict().items() if not key.endswith('num_batches_tracked')}
    other = RepViT(tiny_arch)
    load_checkpoint(other, state)
    assert same(other.state_dict(), tiny.state_dict())


def test_fused_weights_fit_a_fused_backbone(tiny, tiny_arch):
    fused = reparameterize_model(tiny)
    other = reset(RepViT(tiny_arch, deploy=True))
    load_checkpoint(other, convert(fused.state_dict(), to='official'))
    assert same(other.state_dict(), fused.state_dict())


@pytest.mark.parametrize('wrapper', ['', 'module.'])
@pytest.mark.parametrize('name', LAYOUTS)
def test_a_detector_loads_checkpoints_in_every_layout(tiny_arch, randomize_bn, log, name, wrapper):
    model = randomize_bn(Detector(tiny_arch))
    state = OrderedDict(with_prefix(convert(model.state_dict(), to=name), wrapper))
    other = reset(Detector(tiny_arch))
    assert load_checkpoint(other, {'meta': {'epoch': 12}, 'state_dict': state})['meta'] == {'epoch': 12}
    assert same(other.state_dict(), model.state_dict())
    assert len(log) == 1


def test_a_detector_without_the_last_stage(tiny_arch):
    model, other = Detector(tiny_arch), Detector(tiny_arch, out_indices=(0, 1, 2))
    load_checkpoint(other, convert(model.state_dict(), to='official'))
    assert same(other.state_dict(), {key: model.state_dict()[key] for key in other.state_dict()})


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.net.'])
def test_other_modules_load_their_own_weights(prefix):
    source, other = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    load_checkpoint(other, {'state_dict': with_prefix(source.state_dict(), prefix)})
    assert same(other.state_dict(), source.state_dict())


def test_wrappers_are_looked_through(tiny, tiny_arch, monkeypatch):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    monkeypatch.setitem(MODEL_WRAPPERS.module_dict, 'Wrapper', Wrapper)
    other = RepViT(tiny_arch)
    load_checkpoint(Wrapper(other), tiny.state_dict())
    assert same(other.state_dict(), tiny.state_dict())


def test_init_weights_loads_once(tiny, tiny_arch, tmp_path, monkeypatch):
    """A second `init_weights` leaves the weights that were trained since; mmengine only warns."""
    infos = set()
    monkeypatch.setattr(
        BaseModule, '_dump_init_info', lambda m: infos.update(i['init_info'] for i in m._params_init_info.values())
    )
    torch.save({'model': convert(tiny.state_dict(), to='official')}, tmp_path / 'pretrained.pth')
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'pretrained.pth')}
    model = Detector(tiny_arch, backbone=MODELS.build({'type': 'RepViT', 'arch': tiny_arch, 'init_cfg': init_cfg}))
    model.init_weights()
    assert same(model.backbone.state_dict(), tiny.state_dict())
    assert f'DensePretrainedInit: load from {tmp_path}/pretrained.pth' in infos
    with torch.no_grad():
        model.backbone.stem.conv1.conv.weight.fill_(9)
    model.init_weights()
    assert model.backbone.stem.conv1.conv.weight.unique().tolist() == [9]


# --- refusals ---


def official(arch):
    return {'model': convert(RepViT(arch).state_dict(), to='official')}


def legacy():
    state = timm.create_model('repvit_m0_9').state_dict()
    return {key.replace('token_mixer.conv1.', 'token_mixer.conv1.c.'): value for key, value in state.items()}


def without(state, ending):
    return {key: value for key, value in state.items() if not key.endswith(ending)}


REFUSALS = {
    # case: the module, the checkpoint (both from an arch), words of the message
    'wrong variant': (
        RepViT,
        lambda a: official('m1_5'),
        ['look like m1_5', 'depths 4 4 24 4', 'widths 64 128 256 512'],
    ),
    'fewer stages': (
        RepViT,
        lambda a: RepViT(a, out_indices=(0, 1)).state_dict(),
        ['depths 1 2,', 'the model is depths 1 2 1 2'],
    ),
    'legacy timm': (RepViT, lambda a: legacy(), ['repvit_m1, _m2 or _m3', 'm1_1']),
    'resnet': (RepViT, lambda a: {'conv1.weight': torch.ones(1)}, ['another architecture', 'conv1.weight']),
    'mobilenet': (
        RepViT,
        lambda a: timm.create_model('efficientformer_l1').state_dict(),
        ['another architecture', 'stem.'],
    ),
    'fused file': (
        RepViT,
        lambda a: RepViT(a, deploy=True).state_dict(),
        ['are fused', 'deploy=True', 'training checkpoint'],
    ),
    'unfused file': (
        lambda a: RepViT(a, deploy=True),
        lambda a: RepViT(a).state_dict(),
        ['the model is fused', 'before switch_to_deploy'],
    ),
    'detector for a backbone': (
        RepViT,
        lambda a: {'state_dict': Detector(a).state_dict()},
        ['whole detector or segmentor', 'neck, roi_head, rpn_head', 'CHECKPOINT', '--from or --resume'],
    ),
    'wrapped detector for a backbone': (
        RepViT,
        lambda a: with_prefix(Detector(a).state_dict(), 'module.'),
        ['whole detector or segmentor', 'neck, roi_head, rpn_head'],
    ),
    'missing tensor': (
        RepViT,
        lambda a: without(RepViT(a).state_dict(), 'stages.3.blocks.1.channel_mixer.conv2.bn.bias'),
        ['stages.3.blocks.1.channel_mixer.conv2.bn.bias is missing'],
    ),
    'surplus tensor': (
        RepViT,
        lambda a: RepViT(a).state_dict() | {'stages.0.pre_downsample.se.fc1.weight': torch.ones(1)},
        ['se.fc1.weight has no place'],
    ),
    'wrong shape': (
        RepViT,
        lambda a: RepViT(a).state_dict() | {'stages.1.blocks.0.se.fc1.weight': torch.ones(2, 2, 1, 1)},
        ['stages.1.blocks.0.se.fc1.weight is (2, 2, 1, 1) in the file and (8, 16, 1, 1) in the model'],
    ),
    'no weights': (RepViT, lambda a: {'epoch': 3, 'optimizer': {}}, ['no weights', 'epoch, optimizer']),
    'backbone for a detector': (
        Detector,
        lambda a: with_prefix(RepViT(a).state_dict(), 'backbone.'),
        ['pretrained backbone weights', 'the model is a whole Detector', 'backbone.init_cfg'],
    ),
    'classifier for a detector': (
        Detector,
        lambda a: official('m1_1'),
        ['official layout, m1_1', 'backbone.init_cfg'],
    ),
    'other detector': (
        Detector,
        lambda a: {'backbone.conv1.weight': torch.ones(1), 'neck.weight': torch.ones(1)},
        ['another architecture', 'backbone.conv1.weight'],
    ),
    'detector of another variant': (
        Detector,
        lambda a: Detector(a, backbone=RepViT({'embed_dims': (8, 16, 24, 32), 'depths': (1, 2, 3, 2)})).state_dict(),
        ['look like depths 1 2 3 2', 'the model is depths 1 2 1 2'],
    ),
    'detector with other parts': (
        Detector,
        lambda a: {k.replace('neck.', 'decode_head.'): v for k, v in Detector(a).state_dict().items()},
        ['does not fit a Detector', 'neck.weight is missing', 'decode_head.weight has no place'],
    ),
    'fused detector': (Detector, lambda a: reparameterize_model(Detector(a).eval()).state_dict(), ['are fused']),
    'classes': (
        lambda a: Detector(a, num_classes=8),
        lambda a: Detector(a, num_classes=80).state_dict(),
        ['trained for 80 classes, the model has 8', 'only classification layers', 'roi_head.fc_cls.weight'],
    ),
    'one class': (
        lambda a: Detector(a, num_classes=1),
        lambda a: Detector(a, num_classes=3).state_dict(),
        ['trained for 3 classes, the model has 1'],
    ),
    'classes for each anchor': (
        lambda a: one_stage(a, num_classes=8),
        lambda a: one_stage(a, num_classes=80).state_dict(),
        ['trained for 80 classes, the model has 8'],
    ),
    'classes and more': (
        lambda a: Detector(a, num_classes=8),
        lambda a: Detector(a, num_classes=80).state_dict() | {'neck.weight': torch.ones(4, 4, 1, 1)},
        ['does not fit', 'neck.weight is (4, 4, 1, 1) in the file', '2 more (7 in all)'],
    ),
    'other module': (
        lambda a: nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)]),
        lambda a: {'0.weight': torch.ones(2, 2), 'x': torch.ones(1)},
        ['does not fit a Sequential', '0.bias is missing', '3 more (8 in all)'],
    ),
}


@pytest.mark.parametrize('case', REFUSALS)
def test_a_refusal_gives_its_reason_and_changes_nothing(case, tiny_arch):
    build, source, words = REFUSALS[case]
    module = build(tiny_arch)
    before = copied(module)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(module, source(tiny_arch))
    for word in words:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 600
    assert same(module.state_dict(), before)


def test_a_refusal_names_the_file(tiny, tmp_path):
    torch.save({'conv1.weight': torch.ones(1)}, tmp_path / 'resnet.pth')
    with pytest.raises(CheckpointError, match=rf'{tmp_path}/resnet\.pth: .*another architecture'):
        load_checkpoint(tiny, tmp_path / 'resnet.pth')
