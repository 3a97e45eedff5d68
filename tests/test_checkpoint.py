"""Reading without running code, recognising and converting layouts, loading all or nothing."""

import argparse
import gzip
import http.server
import io
import json
import logging
import os
import pickle
import re
import socket
import threading
import zlib
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, Runner
from safetensors.torch import save_file
from torch import nn

from repvit_dense import checkpoint as checkpoint_module
from repvit_dense.backbones import RepViT, catalogue
from repvit_dense.backbones.repvit import ARCHS
from repvit_dense.checkpoint import (
    LAYOUTS,
    CheckpointError,
    convert,
    detect_layout,
    load_checkpoint,
    read,
    use_safe_loading,
)
from repvit_dense.reparam import reparameterize_model

GOLDEN = Path(__file__).parent / 'golden'
PREFIXES = ('', 'module.', 'backbone.', 'model.', 'timm_model.', 'module.backbone.', 'ema.module.')


@cache
def golden(layout):
    with gzip.open(GOLDEN / f'{layout}_state_dict_shapes.json.gz') as file:
        return json.load(file)


def filled(shapes):
    """A state dict of these shapes; every tensor carries a value of its own, seeded by its key, and takes no memory."""
    return {key: torch.tensor(float(zlib.crc32(key.encode()))).expand(shape) for key, shape in shapes.items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def fused_names(keys, block):
    """Names after fusing, by the rule of each implementation: a convolution with its norm leaves its own name."""
    keys = {re.sub(r'(classifier|head)\..*\.', r'\1.', key) for key in keys}  # both heads become one linear layer
    keys = {re.sub(rf'{re.escape(block)}\.(conv\.c|conv\.bn|conv1|bn)\.', f'{block}.', key) for key in keys}
    keys = {re.sub(r'\.(c|bn)\.(\w+)$', r'.\2', key) for key in keys}
    return {key for key in keys if key.endswith(('weight', 'bias'))}


@pytest.fixture
def tiny(tiny_arch, randomize_bn):
    return randomize_bn(RepViT(tiny_arch)).eval()


@pytest.fixture
def log():
    """What mmengine's current logger says to people: (level, text)."""
    records = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: records.append((record.levelno, record.getMessage()))
    logger = MMLogger.get_instance(os.urandom(4).hex(), log_level='INFO')  # the latest one is the current one
    logger.addHandler(handler)
    return records


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


@pytest.fixture
def safe_loading(monkeypatch):
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    use_safe_loading()


class Detector(BaseModel):
    """The shape of a detector: backbone, neck and a head whose layers depend on the number of classes."""

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


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def with_prefix(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def reset(module):
    """The same module with every tensor set to a value no checkpoint holds."""
    with torch.no_grad():
        for value in module.state_dict().values():
            value.fill_(-3)
    return module


# --- layouts ---


@pytest.mark.parametrize('source', LAYOUTS)
@pytest.mark.parametrize('arch', ARCHS)
def test_round_trip_through_every_layout(arch, source):
    official = filled(golden('official')[arch])
    state = convert(official, to=source)
    layout = detect_layout(state)
    assert (layout.name, layout.prefix, layout.fused) == (source, '', False)
    assert (layout.depths, layout.widths) == (ARCHS[arch]['depths'], ARCHS[arch]['embed_dims'])
    for to in LAYOUTS:
        assert same(convert(convert(state, to=to), to=source), state)
    assert same(convert(state, to='official'), official)
    assert same(convert({'model': state, 'epoch': 300}, to='official'), official)


@pytest.mark.parametrize('arch', [arch for arch in ARCHS if arch != 'm0_6'])  # timm lacks m0_6
def test_official_and_timm_names_agree_with_the_golden_ones(arch):
    official, theirs = filled(golden('official')[arch]), filled(golden('timm')[arch])
    assert {k: list(v.shape) for k, v in convert(official, to='timm').items()} == golden('timm')[arch]
    assert {k: list(v.shape) for k, v in convert(theirs, to='official').items()} == golden('official')[arch]


@pytest.mark.parametrize('arch', ARCHS)
def test_our_names_are_those_of_the_backbone(arch):
    ours = convert(filled(golden('official')[arch]), to='ours')
    with torch.device('meta'):
        expected = RepViT(arch, tap='stage_body').state_dict()
    body = {key: value.shape for key, value in ours.items() if not key.startswith('head.')}
    assert body == {key: value.shape for key, value in expected.items()}
    assert sum(key.startswith('head.head_dist.') for key in ours) == 7


@pytest.mark.parametrize('arch', ARCHS)
def test_fused_names(arch):
    official = fused_names(golden('official')[arch], 'token_mixer.0')
    ours = convert(filled(dict.fromkeys(official, ())), to='ours')
    with torch.device('meta'):
        expected = RepViT(arch, deploy=True).state_dict()
    assert ours.keys() == {*expected, 'head.weight', 'head.bias'}
    for source in LAYOUTS:
        state = convert(ours, to=source)
        assert detect_layout(state).name == source
        assert detect_layout(state).fused
        for to in LAYOUTS:
            assert same(convert(convert(state, to=to), to=source), state)
    if arch in golden('timm'):
        assert convert(ours, to='timm').keys() == fused_names(golden('timm')[arch], 'token_mixer')


@pytest.mark.parametrize('fused', [False, True], ids=['train', 'fused'])
@pytest.mark.parametrize('prefix', PREFIXES)
@pytest.mark.parametrize('name', LAYOUTS)
def test_layout_is_detected_behind_any_prefix(tiny, tiny_arch, name, prefix, fused):
    if fused:
        tiny.switch_to_deploy()
    state = with_prefix(convert(tiny.state_dict(), to=name), prefix) | {'neck.weight': torch.ones(1)}
    layout = detect_layout(state)
    assert (layout.name, layout.prefix, layout.fused) == (name, prefix, fused)
    assert (layout.depths, layout.widths) == (tiny_arch['depths'], tiny_arch['embed_dims'])
    assert same(convert(state, to='ours'), with_prefix(tiny.state_dict(), prefix) | {'neck.weight': torch.ones(1)})


@pytest.mark.parametrize('tap', ['stage_body', 'stage_end'])
@pytest.mark.parametrize('last', [0, 1, 2])
def test_shortened_networks_convert_there_and_back(tap, last):
    arch = {'embed_dims': (8, 16, 24, 32), 'depths': (2, 2, 4, 2)}
    state = RepViT(arch, out_indices=(last,), tap=tap).state_dict()
    for to in LAYOUTS:
        assert same(convert(convert(state, to=to), to='ours'), state)


@pytest.mark.parametrize('keys', [('features.9999999999999.a.weight',), ('stages.99999999999.blocks.0.weight',)])
def test_absurd_indices_are_refused_at_once(keys):
    state = dict.fromkeys(('features.0.0.c.weight', 'stem.conv1.c.weight', *keys), torch.ones(1))
    with pytest.raises(CheckpointError, match='another architecture'):
        detect_layout(state)


# --- agreement with timm's network ---


@pytest.fixture(scope='module')
def twin(randomize_bn):
    """timm's network with random statistics in float64, an image, and its features."""
    torch.manual_seed(0)
    net = randomize_bn(timm.create_model('repvit_m0_9')).double().eval()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        return net, image, net.forward_intermediates(image, intermediates_only=True)


@pytest.fixture
def double():
    """timm's `fuse` builds its convolutions in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_close(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize('layout', ['official', 'timm', 'timm_features'])
def test_features_equal_timms_with_its_weights(twin, layout):
    net, image, expected = twin
    ours = reset(RepViT('m0_9').double()).eval()
    load_checkpoint(ours, {'model': convert(net.state_dict(), to=layout)})
    assert_close(ours(image), expected)


@torch.no_grad()
def test_timms_fused_weights_fit_the_fused_backbone(twin, double):
    net, image, expected = twin
    fused = timm.create_model('repvit_m0_9').double().eval()
    fused.load_state_dict(net.state_dict())
    fused.fuse()
    ours = reset(RepViT('m0_9', deploy=True).double()).eval()
    load_checkpoint(ours, fused.state_dict())
    assert_close(ours(image), expected)


@torch.no_grad()
def test_timm_takes_our_weights(randomize_bn):
    ours = randomize_bn(RepViT('m0_9')).double().eval()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    theirs = timm.create_model('repvit_m0_9', num_classes=0).double().eval()
    theirs.load_state_dict(convert(ours.state_dict(), to='timm'))
    assert_close(ours(image), theirs.forward_intermediates(image, intermediates_only=True))
    flat = timm.create_model('repvit_m0_9', features_only=True).double().eval()
    flat.load_state_dict(convert(ours.state_dict(), to='timm_features'))
    assert_close(ours(image), flat(image))


# --- loading what fits ---


@pytest.mark.parametrize('name', LAYOUTS)
@pytest.mark.parametrize(('container', 'prefix'), [(None, ''), ('model', ''), ('state_dict', 'module.')])
def test_backbone_takes_classification_weights(tiny, tiny_arch, log, name, container, prefix):
    head = {f'head.{h}.l.weight': torch.ones(7, 32) for h in ('head', 'head_dist')}
    state = with_prefix(convert(tiny.state_dict() | head, to=name), prefix)
    checkpoint = {container: state} if container else state
    other = reset(RepViT(tiny_arch))
    assert load_checkpoint(other, checkpoint) is checkpoint
    assert same(other.state_dict(), tiny.state_dict())
    said = [text for _, text in log]
    assert len(said) == 2
    assert f'{name} layout' in said[0]
    assert f'{len(tiny.state_dict())} tensors loaded' in said[0]
    assert 'as expected: classifier head (2 tensors)' in said[1]
    assert all(level == logging.INFO for level, _ in log)


@pytest.mark.parametrize('tap', ['stage_body', 'stage_end'])
@pytest.mark.parametrize('out_indices', [(0,), (0, 1), (1, 2), (3,)])
def test_what_the_backbone_does_not_build_is_expected_to_be_left_over(tiny, tiny_arch, log, out_indices, tap):
    short = reset(RepViT(tiny_arch, out_indices=out_indices, tap=tap))
    load_checkpoint(short, convert(tiny.state_dict(), to='official'))
    full, last = tiny.state_dict(), out_indices[-1]
    assert same(short.state_dict(), {key: full[key] for key in short.state_dict()})
    text = ' '.join(text for _, text in log)
    assert ('stage 3' in text) == (last < 3)
    assert (f'last block of stage {last}' in text) == (last < 3 and tap == 'stage_body')


def test_plain_weights_are_preferred_and_averaged_ones_mentioned(tiny, tiny_arch, log):
    plain, averaged = (
        convert(tiny.state_dict(), to='official'),
        convert(copied(reset(RepViT(tiny_arch))), to='official'),
    )
    other = RepViT(tiny_arch)
    load_checkpoint(other, {'model_ema': averaged, 'model': plain, 'epoch': 3})
    assert same(other.state_dict(), tiny.state_dict())
    assert 'averaged weights (model_ema)' in log[-1][1]
    load_checkpoint(other, {'model_ema': averaged})  # nothing else to be had
    assert other.stem.conv1.conv.weight.unique().tolist() == [-3]


def test_averaged_copies_beside_the_weights_are_not_taken(tiny, tiny_arch):
    state = with_prefix(tiny.state_dict(), 'backbone.')
    averaged = with_prefix(copied(reset(RepViT(tiny_arch))), 'ema.backbone.')
    assert detect_layout(averaged | state).prefix == 'backbone.'


def test_dtype_stays_that_of_the_module(tiny, tiny_arch):
    half = RepViT(tiny_arch).to(torch.bfloat16)
    load_checkpoint(half, tiny.state_dict())
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.stem.conv1.conv.weight, tiny.stem.conv1.conv.weight.bfloat16())


def test_a_missing_batch_counter_is_no_obstacle(tiny, tiny_arch):
    state = {key: value for key, value in tiny.state_dict().items() if not key.endswith('num_batches_tracked')}
    other = RepViT(tiny_arch)
    load_checkpoint(other, state)
    assert same(other.state_dict(), tiny.state_dict())


def test_fused_weights_of_ours_fit_a_fused_backbone(tiny, tiny_arch):
    fused = reparameterize_model(tiny)
    other = reset(RepViT(tiny_arch, deploy=True))
    load_checkpoint(other, convert(fused.state_dict(), to='official'))
    assert same(other.state_dict(), fused.state_dict())


@pytest.mark.parametrize('wrapper', ['', 'module.'])
@pytest.mark.parametrize('name', LAYOUTS)
def test_whole_network_takes_our_and_the_reference_checkpoints(tiny_arch, randomize_bn, log, name, wrapper):
    model = randomize_bn(Detector(tiny_arch))
    checkpoint = {
        'meta': {'epoch': 12},
        'state_dict': OrderedDict(with_prefix(convert(model.state_dict(), to=name), wrapper)),
    }
    other = reset(Detector(tiny_arch))
    assert load_checkpoint(other, checkpoint)['meta'] == {'epoch': 12}
    assert same(other.state_dict(), model.state_dict())
    assert len(log) == 1


def test_whole_network_without_the_last_stage(tiny_arch, randomize_bn):
    model, other = Detector(tiny_arch), Detector(tiny_arch, out_indices=(0, 1, 2))
    load_checkpoint(other, convert(model.state_dict(), to='official'))
    assert same(other.state_dict(), {key: model.state_dict()[key] for key in other.state_dict()})


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.net.'])
def test_any_other_module_is_loaded_strictly(prefix):
    source, other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_checkpoint(other, {'state_dict': with_prefix(source.state_dict(), prefix)})
    assert same(other.state_dict(), source.state_dict())


def test_wrappers_are_looked_through(tiny, tiny_arch):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    from mmengine.registry import MODEL_WRAPPERS

    MODEL_WRAPPERS.register_module(module=Wrapper, force=True)
    try:
        other = RepViT(tiny_arch)
        load_checkpoint(Wrapper(other), tiny.state_dict())
    finally:
        MODEL_WRAPPERS.module_dict.pop('Wrapper')
    assert same(other.state_dict(), tiny.state_dict())


# --- refusals ---


def of_variant(arch):
    return {'model': filled(golden('official')[arch])}


def legacy():
    return {
        k.replace('token_mixer.conv1.', 'token_mixer.conv1.c.'): v for k, v in filled(golden('timm')['m0_9']).items()
    }


def truncated_stages(arch):
    return RepViT(arch, out_indices=(0, 1)).state_dict()


def without(state, ending):
    return {key: value for key, value in state.items() if not key.endswith(ending)}


def fused_state(arch):
    return RepViT(arch, deploy=True).state_dict()


def one_stage(arch, num_classes):
    model = Detector(arch)
    del model.rpn_head, model.roi_head
    model.bbox_head = nn.Conv2d(4, 9 * num_classes, 1)
    model.bbox_head.num_classes = num_classes
    return model


REFUSALS = {
    'wrong variant': (
        RepViT,
        lambda a: of_variant('m1_5'),
        ['look like m1_5', 'depths 4 4 24 4', 'widths 64 128 256 512'],
    ),
    'fewer stages': (RepViT, truncated_stages, ['depths 1 2,', 'the model is depths 1 2 1 2']),
    'legacy timm': (RepViT, lambda a: legacy(), ['repvit_m1, _m2 or _m3', 'm1_1']),
    'resnet': (RepViT, lambda a: {'conv1.weight': torch.ones(1)}, ['another architecture', 'conv1.weight']),
    'mobilenet': (
        RepViT,
        lambda a: timm.create_model('efficientformer_l1').state_dict(),
        ['another architecture', 'stem.'],
    ),
    'fused file': (RepViT, fused_state, ['are fused', 'deploy=True', 'training checkpoint']),
    'unfused file': (
        lambda a: RepViT(a, deploy=True),
        lambda a: RepViT(a).state_dict(),
        ['the model is fused', 'before switch_to_deploy'],
    ),
    'detector for a backbone': (
        RepViT,
        lambda a: {'state_dict': Detector(a).state_dict()},
        ['whole detector or segmentor', 'neck, roi_head, rpn_head', 'CHECKPOINT', 'load_from or --resume'],
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
        lambda a: of_variant('m1_1'),
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
def test_refused_with_reason_and_nothing_changed(case, tiny_arch):
    build, source, words = REFUSALS[case]
    module = build(tiny_arch)
    before = copied(module)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(module, source(tiny_arch))
    for word in words:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 600
    assert same(module.state_dict(), before)


def test_refusal_names_the_file(tiny, tmp_path):
    torch.save({'conv1.weight': torch.ones(1)}, tmp_path / 'resnet.pth')
    with pytest.raises(CheckpointError, match=rf'{tmp_path}/resnet\.pth: .*another architecture'):
        load_checkpoint(tiny, tmp_path / 'resnet.pth')


# --- reading ---


def test_read_takes_paths_urls_and_both_formats(tiny, tmp_path, monkeypatch):
    state = copied(tiny)
    torch.save({'model': state}, tmp_path / 'a.pth')
    torch.save(state, tmp_path / 'b.pt', _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / 'c.safetensors')
    assert same(read(tmp_path / 'a.pth')['model'], state)
    assert same(read(str(tmp_path / 'b.pt')), state)
    assert same(read((tmp_path / 'c.safetensors').as_uri()), state)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert same(read('~/a.pth')['model'], state)
    assert read(tmp_path / 'c.safetensors', torch.device('meta'))['stem.conv1.conv.weight'].is_meta


def test_a_command_line_saved_with_the_weights_is_harmless(tmp_path):
    torch.save({'model': {}, 'args': argparse.Namespace(lr=0.1)}, tmp_path / 'a.pth')
    assert read(tmp_path / 'a.pth')['args'].lr == 0.1


def damaged(tmp_path, kind, state):
    path = tmp_path / 'weights.pth'
    if kind in ('truncated', 'empty', 'no zip'):
        torch.save(state, path)
        content = path.read_bytes()
        path.write_bytes({'truncated': content[: len(content) // 2], 'empty': b'', 'no zip': content[:2]}[kind])
    elif kind == 'flipped':
        torch.save(state, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == 'safetensors':
        path = path.with_suffix('.safetensors')
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == 'safetensors header':
        path = path.with_suffix('.safetensors')
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:100])
    return path


@pytest.mark.parametrize('kind', ['truncated', 'empty', 'no zip', 'flipped', 'safetensors', 'safetensors header'])
def test_damaged_files_are_named_as_such(tmp_path, tiny, kind):
    path = damaged(tmp_path, kind, copied(tiny))
    with pytest.raises(CheckpointError, match=rf'{re.escape(str(path))}: truncated.*corrupt.*get it again'):
        read(path)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'\n<!DOCTYPE html><html>sign in</html>', 'web page'),
        (b'version https://git-lfs.github.com/spec/v1 oid', 'never was a checkpoint'),
        (pickle.dumps({'a': 1}, protocol=5), 'not written by torch.save'),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, words):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path / 'a.pth')


def test_bare_list_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='holds one list'):
        read(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    ('source', 'words'),
    [
        ('missing/epoch_12.pth', r'missing/epoch_12\.pth: no such file'),
        ('timm/repvit_m1_1.dist_in1k', r'no such file.*nearest: timm/repvit_m1_1\.dist_'),
        ('file:///missing/a.pth', 'no such file'),
        ('s3://bucket/a.pth', "'s3://' cannot be read safely; download"),
        ('torchvision://resnet5', r'unknown model.*nearest: .*resnet50'),
        ('.', 'cannot be read'),
    ],
)
def test_what_cannot_be_found_says_so(source, words):
    with pytest.raises(CheckpointError, match=words):
        read(source)


# --- files that want to run code ---


class Runs:
    """Unpickled in the ordinary way, it calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def write_malicious(folder, call='os.system', container='zip'):
    """A checkpoint that creates the file `folder/ran` if anything in it is executed; the pair of both paths."""
    ran, path = folder / 'ran', folder / 'malicious.pth'
    calls = {
        'os.system': Runs(os.system, f'touch {ran}'),
        'exec': Runs(exec, f'open({str(ran)!r}, "w")'),
        'open': Runs(io.open, str(ran), 'w'),
        'touch': Runs(Path.touch, ran),
    }
    content = {'state_dict': {'weight': torch.ones(1)}, 'meta': {'epoch': 1, 'iter': 1}, 'extra': calls[call]}
    if container == 'pickle':
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == 'zip')
    return path, ran


def test_the_malicious_file_of_these_tests_is_real(tmp_path):
    path, ran = write_malicious(tmp_path)
    torch.load(path, weights_only=False)
    assert ran.exists()


@pytest.mark.parametrize('container', ['zip', 'legacy', 'pickle'])
@pytest.mark.parametrize('call', ['os.system', 'exec', 'open', 'touch'])
def test_reading_runs_nothing(tmp_path, monkeypatch, call, container):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')  # must not open the door again
    path, ran = write_malicious(tmp_path, call, container)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert not ran.exists()
    assert 'not trusted, and nothing of it was executed: it asks for' in str(caught.value)
    if container != 'pickle':  # which has the tensors' own loader in it, and that is refused first
        assert {'os.system': 'posix.system', 'touch': 'pathlib'}.get(call, call) in str(caught.value)


@pytest.mark.parametrize(
    'content',
    [
        Runs(getattr, HistoryBuffer, '__init__'),
        Runs(getattr, np.ndarray, 'tofile'),
        Runs(np.dtype, 'O8', False, True),
        Runs(np.dtype, [('a', 'O')]),
        np.array([{}], dtype=object),
        np.array(['text']),
    ],
    ids=['attribute of history', 'attribute of array', 'object dtype', 'void dtype', 'objects', 'text'],
)
def test_only_plain_numbers_come_from_numpy(tmp_path, content):
    torch.save({'state_dict': {'weight': torch.ones(1)}, 'x': content}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='nothing of it was executed'):
        read(tmp_path / 'a.pth')


def test_a_crafted_dtype_cannot_reach_foreign_memory(tmp_path):
    class Crafted:
        """A float64 whose pickled state says: each element is a thousand of them."""

        def __reduce__(self):
            return np.dtype, ('f8', False, True), (3, '<', (np.dtype('f8'), (1000,)), None, None, -1, -1, 0)

    scalar = np.float64(0).__reduce__()[0]
    torch.save({'x': Runs(scalar, Crafted(), bytes(8))}, tmp_path / 'a.pth')
    assert read(tmp_path / 'a.pth') == {'x': 0.0}


def test_numbers_and_arrays_of_numpy_are_read(tmp_path):
    content = {
        'a': np.arange(6.0).reshape(2, 3),
        'b': np.float32(1.5),
        'c': np.array([1, 2], '>i4'),
        'd': np.bool_(True),
    }
    torch.save(content, tmp_path / 'a.pth')
    back = read(tmp_path / 'a.pth')
    assert all(np.array_equal(back[key], content[key]) for key in content)
    again = pickle.loads(pickle.dumps(back))
    assert type(again['a']) is np.ndarray


def test_init_cfg_runs_nothing(tmp_path, tiny_arch):
    path, ran = write_malicious(tmp_path)
    net = RepViT(tiny_arch, init_cfg={'type': 'Pretrained', 'checkpoint': str(path)})
    with pytest.raises(CheckpointError, match='nothing of it was executed'):
        net.init_weights()
    assert not ran.exists()


class StockBackbone(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.layer = nn.Linear(2, 2)


@pytest.mark.usefixtures('safe_loading')
def test_init_cfg_of_a_stock_backbone_is_safe_too(tmp_path):
    path, ran = write_malicious(tmp_path)
    with pytest.raises(CheckpointError, match='nothing of it was executed'):
        StockBackbone({'type': 'Pretrained', 'checkpoint': str(path)}).init_weights()
    assert not ran.exists()
    torch.save(
        {'state_dict': {'layer.weight': torch.full((2, 2), 5.0), 'layer.bias': torch.ones(2)}}, tmp_path / 'a.pth'
    )
    net = StockBackbone({'type': 'Pretrained', 'checkpoint': str(tmp_path / 'a.pth')})
    net.init_weights()
    assert net.layer.weight.unique().tolist() == [5]


@pytest.mark.usefixtures('safe_loading')
@pytest.mark.parametrize('scheme', ['pavi', 's3', 'petrel', 'cluster:s3', 'mmcls'])
def test_schemes_that_cannot_be_read_safely_are_refused(scheme):
    with pytest.raises(CheckpointError, match='cannot be read safely'):
        CheckpointLoader.load_checkpoint(f'{scheme}://a/b.pth')


# --- with mmengine's runner ---


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs, mode='tensor'):
        out = self.layer(torch.stack(inputs))
        return {'loss': out.sum()} if mode == 'loss' else out


class Data(torch.utils.data.Dataset):
    metainfo = {'classes': ('a', 'b'), 'palette': [(1, 2, 3), (4, 5, 6)]}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {'inputs': torch.ones(2)}


def runner(work_dir, epochs=1, **options):
    name = f'{Path(work_dir).name}_{epochs}_{len(options)}_{os.urandom(4).hex()}'
    return Runner(
        Toy(),
        str(work_dir),
        train_dataloader={'dataset': Data(), 'batch_size': 2, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        train_cfg={'by_epoch': True, 'max_epochs': epochs},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.1}},
        param_scheduler=[
            {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'end': 2},
            {'type': 'MultiStepLR', 'milestones': [1]},
            {'type': 'CosineAnnealingLR', 'T_max': 2},
        ],
        custom_hooks=[{'type': 'EMAHook'}],
        experiment_name=name,
        log_level='WARNING',
        **options,
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A work directory with the checkpoint of a short run, with everything mmengine puts into one."""
    work_dir = tmp_path_factory.mktemp('trained')
    run = runner(work_dir)
    run.message_hub.update_info('best_score', np.float64(0.5))
    run.message_hub.update_info('per_class', np.arange(3, dtype=np.int64))
    run.train()
    return work_dir


def test_a_checkpoint_of_mmengine_is_read_completely(trained):
    content = read(trained / 'epoch_1.pth')
    reference = torch.load(trained / 'epoch_1.pth', weights_only=False)
    assert (
        content.keys() == reference.keys() >= {'optimizer', 'param_schedulers', 'message_hub', 'meta', 'ema_state_dict'}
    )
    assert content['meta'] == reference['meta']
    assert content['param_schedulers'] == reference['param_schedulers']
    assert same(content['state_dict'], reference['state_dict'])
    info = content['message_hub']['runtime_info']
    assert (info['best_score'], info['per_class'].tolist()) == (0.5, [0, 1, 2])
    for name, history in reference['message_hub']['log_scalars'].items():
        ours = content['message_hub']['log_scalars'][name]
        assert np.array_equal(ours._log_history, history._log_history)
        assert ours.statistics('mean') == history.mean()


@pytest.mark.usefixtures('safe_loading')
def test_mmengine_resumes_through_the_safe_reader(trained):
    run = runner(trained, epochs=2, load_from=str(trained / 'epoch_1.pth'), resume=True)
    run.train()
    assert (run.epoch, run.iter) == (2, 4)
    again = read(trained / 'epoch_2.pth')  # what was read safely can be saved and read again
    assert len(again['message_hub']['log_scalars']['train/loss']._log_history) == 4


@pytest.mark.usefixtures('safe_loading')
@pytest.mark.parametrize('resume', [False, True], ids=['load_from', 'resume'])
def test_loading_and_resuming_run_nothing(tmp_path, resume):
    path, ran = write_malicious(tmp_path)
    run = runner(tmp_path, load_from=str(path), resume=resume)
    before = copied(run.model)
    with pytest.raises(CheckpointError, match='nothing of it was executed'):
        run.train()
    assert not ran.exists()
    assert same(run.model.state_dict(), before)


@pytest.mark.usefixtures('safe_loading')
def test_a_config_inside_a_checkpoint_is_not_executed_on_resume(trained, tmp_path):
    content, ran = read(trained / 'epoch_1.pth'), tmp_path / 'ran'
    content['meta']['config'] = f'import pathlib\npathlib.Path({str(ran)!r}).touch()'
    torch.save(content, tmp_path / 'a.pth')
    Config.fromstring(content['meta']['config'], '.py')  # what mmengine's resume does with such a text
    assert ran.exists()
    ran.unlink()
    run = runner(tmp_path, epochs=2, load_from=str(tmp_path / 'a.pth'), resume=True)
    run.train()
    assert run.epoch == 2
    assert not ran.exists()
    assert 'pathlib' in read(tmp_path / 'a.pth')['meta']['config_text']


def test_initialising_a_whole_network_once_and_twice(tiny, tiny_arch, tmp_path, monkeypatch):
    seen = set()
    monkeypatch.setattr(
        BaseModule, '_dump_init_info', lambda m: seen.update(i['init_info'] for i in m._params_init_info.values())
    )
    torch.save({'model': convert(tiny.state_dict(), to='official')}, tmp_path / 'pretrained.pth')
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'pretrained.pth')}
    model = Detector(tiny_arch, backbone=MODELS.build({'type': 'RepViT', 'arch': tiny_arch, 'init_cfg': init_cfg}))
    model.init_weights()
    assert same(model.backbone.state_dict(), tiny.state_dict())
    assert f'PretrainedBackbone: load from {tmp_path}/pretrained.pth' in seen
    with torch.no_grad():
        model.backbone.stem.conv1.conv.weight.fill_(9)
    model.init_weights()  # mmengine says that it was called before, and leaves what was trained since
    assert model.backbone.stem.conv1.conv.weight.unique().tolist() == [9]


# --- downloads ---


@pytest.fixture
def server(tmp_path):
    """A web server over `tmp_path/web`: its address and the paths that were asked for."""
    folder, asked = tmp_path / 'web', []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        yield f'http://127.0.0.1:{web.server_port}', folder, asked
        web.shutdown()


def test_a_download_is_kept(server, cache_dir, tiny):
    address, folder, asked = server
    torch.save({'model': copied(tiny)}, folder / 'a.pth')
    for _ in range(2):
        assert same(read(f'{address}/a.pth')['model'], tiny.state_dict())
    assert asked == ['/a.pth']
    assert [path.name for path in cache_dir.iterdir()] == ['a.pth']


@pytest.mark.parametrize('content', [b'<html>404</html>', b'PK\x03\x04 cut short'])
def test_a_useless_download_is_not_kept(server, cache_dir, content):
    address, folder, _ = server
    (folder / 'a.pth').write_bytes(content)
    with pytest.raises(CheckpointError):
        read(f'{address}/a.pth')
    assert list(cache_dir.iterdir()) == []


def test_without_network_the_message_says_where_to_put_the_file(cache_dir):
    with socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{closed.getsockname()[1]}/a.pth'
    with pytest.raises(CheckpointError) as caught:
        read(url)
    assert url in str(caught.value)
    assert str(cache_dir / 'a.pth') in str(caught.value)
    assert 'by hand' in str(caught.value)


def test_a_missing_page_is_reported(server, cache_dir):
    with pytest.raises(CheckpointError, match='404'):
        read(f'{server[0]}/missing.pth')


def test_catalogue_names_use_the_same_cache(cache_dir, tiny):
    cache_dir.mkdir(parents=True)
    save_file(copied(tiny), cache_dir / 'repvit_m1_1.dist_450e_in1k.safetensors')
    torch.save(copied(tiny), cache_dir / 'repvit_m1_1_distill_450e.pth')
    for name in ('timm/repvit_m1_1.dist_450e_in1k', 'repvit_m1_1_distill_450e.pth'):
        assert same(read(name), tiny.state_dict())
        assert same(read(catalogue.resolve(name)[0]), tiny.state_dict())


@pytest.mark.parametrize('source', ['torchvision://net', 'open-mmlab://net', 'openmmlab://old'])
@pytest.mark.usefixtures('safe_loading')
def test_schemes_of_mmengine_resolve_to_safe_downloads(server, cache_dir, tiny, monkeypatch, source):
    address, folder, asked = server
    torch.save(copied(tiny), folder / 'net.pth')
    for function in ('get_torchvision_models', 'get_external_models'):
        monkeypatch.setattr(f'mmengine.runner.checkpoint.{function}', lambda: {'net': f'{address}/net.pth'})
    monkeypatch.setattr('mmengine.runner.checkpoint.get_deprecated_model_names', lambda: {'old': 'net'})
    assert same(CheckpointLoader.load_checkpoint(source), tiny.state_dict())
    assert asked == ['/net.pth']


@pytest.mark.parametrize(('rank', 'downloads'), [(0, 1), (1, 0)])
def test_only_the_first_rank_downloads(server, cache_dir, monkeypatch, rank, downloads):
    address, folder, asked = server
    torch.save({'a': torch.ones(1)}, folder / 'a.pth')
    reached = []

    def barrier():
        reached.append(len(asked))
        if rank:  # meanwhile the first one has it
            cache_dir.mkdir(parents=True)
            torch.save({'a': torch.ones(1)}, cache_dir / 'a.pth')

    monkeypatch.setattr(checkpoint_module, 'get_dist_info', lambda: (rank, 2))
    monkeypatch.setattr(torch.distributed, 'barrier', barrier)
    read(f'{address}/a.pth')
    assert reached == [downloads]
    assert len(asked) == downloads


def test_a_failed_download_lets_the_other_ranks_go_on(server, cache_dir, monkeypatch):
    reached = []
    monkeypatch.setattr(checkpoint_module, 'get_dist_info', lambda: (0, 2))
    monkeypatch.setattr(torch.distributed, 'barrier', lambda: reached.append(True))
    with pytest.raises(CheckpointError):
        read(f'{server[0]}/missing.pth')
    assert reached == [True]
