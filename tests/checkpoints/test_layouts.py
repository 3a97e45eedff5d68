"""Recognising and converting layouts, loading all or nothing."""

import gzip
import json
import logging
import os
import re
import zlib
from collections import OrderedDict
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import MODELS
from torch import nn

from repvit_dense.backbones import RepViT
from repvit_dense.backbones.repvit import ARCHS
from repvit_dense.checkpoints.layouts import LAYOUTS, convert, detect_layout
from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError, read
from repvit_dense.compat import safe_loading as safe_loading_change
from repvit_dense.reparam import reparameterize_model

GOLDEN = Path(__file__).parents[1] / 'golden'
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
def safe_loading():
    with safe_loading_change.patched(read):
        yield


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
    ours = convert(filled(golden('official')[arch]), to='repvit_dense')
    with torch.device('meta'):
        expected = RepViT(arch, tap='stage_body').state_dict()
    body = {key: value.shape for key, value in ours.items() if not key.startswith('head.')}
    assert body == {key: value.shape for key, value in expected.items()}
    assert sum(key.startswith('head.head_dist.') for key in ours) == 7


@pytest.mark.parametrize('arch', ARCHS)
def test_fused_names(arch):
    official = fused_names(golden('official')[arch], 'token_mixer.0')
    ours = convert(filled(dict.fromkeys(official, ())), to='repvit_dense')
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
    assert same(convert(state, to='repvit_dense'), with_prefix(tiny.state_dict(), prefix) | {'neck.weight': torch.ones(1)})


@pytest.mark.parametrize('tap', ['stage_body', 'stage_end'])
@pytest.mark.parametrize('last', [0, 1, 2])
def test_shortened_networks_convert_there_and_back(tap, last):
    arch = {'embed_dims': (8, 16, 24, 32), 'depths': (2, 2, 4, 2)}
    state = RepViT(arch, out_indices=(last,), tap=tap).state_dict()
    for to in LAYOUTS:
        assert same(convert(convert(state, to=to), to='repvit_dense'), state)


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
    assert f'DensePretrainedInit: load from {tmp_path}/pretrained.pth' in seen
    with torch.no_grad():
        model.backbone.stem.conv1.conv.weight.fill_(9)
    model.init_weights()  # mmengine says that it was called before, and leaves what was trained since
    assert model.backbone.stem.conv1.conv.weight.unique().tolist() == [9]
