"""Layouts are recognised and converted without loss, and converted weights compute the same features."""

import gzip
import json
import re
import zlib
from functools import cache
from pathlib import Path

import pytest
import timm
import torch

from repvit_dense.backbones import RepViT
from repvit_dense.backbones.repvit import ARCHS
from repvit_dense.checkpoints.layouts import LAYOUTS, convert, detect_layout
from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError

GOLDEN = Path(__file__).parents[1] / 'golden'
PREFIXES = ('', 'module.', 'backbone.', 'model.', 'timm_model.', 'module.backbone.', 'ema.module.')


@cache
def golden(layout):
    with gzip.open(GOLDEN / f'{layout}_state_dict_shapes.json.gz') as file:
        return json.load(file)


def filled(shapes):
    """Return a state dict of these shapes; each tensor repeats one value, derived from its key, and needs no memory."""
    return {key: torch.tensor(float(zlib.crc32(key.encode()))).expand(shape) for key, shape in shapes.items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def with_prefix(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def fused_names(keys, block):
    """Return the names after fusing: a convolution with its norm keeps one name, without that of its parts."""
    keys = {re.sub(r'(classifier|head)\..*\.', r'\1.', key) for key in keys}  # both heads become one linear layer
    keys = {re.sub(rf'{re.escape(block)}\.(conv\.c|conv\.bn|conv1|bn)\.', f'{block}.', key) for key in keys}
    keys = {re.sub(r'\.(c|bn)\.(\w+)$', r'.\2', key) for key in keys}
    return {key for key in keys if key.endswith(('weight', 'bias'))}


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
    official, published_by_timm = filled(golden('official')[arch]), filled(golden('timm')[arch])
    assert {k: list(v.shape) for k, v in convert(official, to='timm').items()} == golden('timm')[arch]
    assert {k: list(v.shape) for k, v in convert(published_by_timm, to='official').items()} == golden('official')[arch]


@pytest.mark.parametrize('arch', ARCHS)
def test_the_package_layout_has_the_names_of_the_backbone(arch):
    state = convert(filled(golden('official')[arch]), to='repvit_dense')
    with torch.device('meta'):
        expected = RepViT(arch, tap='stage_body').state_dict()
    body = {key: value.shape for key, value in state.items() if not key.startswith('head.')}
    assert body == {key: value.shape for key, value in expected.items()}
    assert sum(key.startswith('head.head_dist.') for key in state) == 7


@pytest.mark.parametrize('arch', ARCHS)
def test_fused_names(arch):
    official = fused_names(golden('official')[arch], 'token_mixer.0')
    fused = convert(filled(dict.fromkeys(official, ())), to='repvit_dense')
    with torch.device('meta'):
        expected = RepViT(arch, deploy=True).state_dict()
    assert fused.keys() == {*expected, 'head.weight', 'head.bias'}
    for source in LAYOUTS:
        state = convert(fused, to=source)
        assert detect_layout(state).name == source
        assert detect_layout(state).fused
        for to in LAYOUTS:
            assert same(convert(convert(state, to=to), to=source), state)
    if arch in golden('timm'):
        assert convert(fused, to='timm').keys() == fused_names(golden('timm')[arch], 'token_mixer')


@pytest.mark.parametrize('fused', [False, True], ids=['train', 'fused'])
@pytest.mark.parametrize('prefix', PREFIXES)
@pytest.mark.parametrize('name', LAYOUTS)
def test_a_layout_is_recognised_behind_any_prefix(tiny, tiny_arch, name, prefix, fused):
    if fused:
        tiny.switch_to_deploy()
    neck = {'neck.weight': torch.ones(1)}
    state = with_prefix(convert(tiny.state_dict(), to=name), prefix) | neck
    layout = detect_layout(state)
    assert (layout.name, layout.prefix, layout.fused) == (name, prefix, fused)
    assert (layout.depths, layout.widths) == (tiny_arch['depths'], tiny_arch['embed_dims'])
    assert same(convert(state, to='repvit_dense'), with_prefix(tiny.state_dict(), prefix) | neck)


@pytest.mark.parametrize('tap', ['stage_body', 'stage_end'])
@pytest.mark.parametrize('last', [0, 1, 2])
def test_shortened_networks_convert_there_and_back(tap, last):
    arch = {'embed_dims': (8, 16, 24, 32), 'depths': (2, 2, 4, 2)}
    state = RepViT(arch, out_indices=(last,), tap=tap).state_dict()
    for to in LAYOUTS:
        assert same(convert(convert(state, to=to), to='repvit_dense'), state)


def test_plain_weights_precede_averaged_copies_beside_them(tiny, tiny_arch):
    averaged = with_prefix(RepViT(tiny_arch).state_dict(), 'ema.backbone.')
    assert detect_layout(averaged | with_prefix(tiny.state_dict(), 'backbone.')).prefix == 'backbone.'


@pytest.mark.parametrize('key', ['features.9999999999999.a.weight', 'stages.99999999999.blocks.0.weight'])
def test_absurd_indices_are_refused_at_once(key):
    state = dict.fromkeys(('features.0.0.c.weight', 'stem.conv1.c.weight', key), torch.ones(1))
    with pytest.raises(CheckpointError, match='another architecture'):
        detect_layout(state)


# --- agreement with timm's network ---


@pytest.fixture(scope='module')
def twin(randomize_bn):
    """Return timm's network with random batch norms in float64, an image, and its features."""
    torch.manual_seed(0)
    net = randomize_bn(timm.create_model('repvit_m0_9')).double().eval()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        return net, image, net.forward_intermediates(image, intermediates_only=True)


@pytest.fixture
def double():
    """Set the default dtype, in which timm's `fuse` builds its convolutions, to float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_close(ours, theirs):
    torch.testing.assert_close(list(ours), list(theirs), rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize('layout', ['official', 'timm', 'timm_features'])
def test_features_equal_timms_with_its_weights(twin, layout):
    net, image, expected = twin
    ours = RepViT('m0_9').double().eval()
    load_checkpoint(ours, {'model': convert(net.state_dict(), to=layout)})
    assert_close(ours(image), expected)


@torch.no_grad()
def test_timms_fused_weights_fit_the_fused_backbone(twin, double):
    net, image, expected = twin
    fused = timm.create_model('repvit_m0_9').double().eval()
    fused.load_state_dict(net.state_dict())
    fused.fuse()
    ours = RepViT('m0_9', deploy=True).double().eval()
    load_checkpoint(ours, fused.state_dict())
    assert_close(ours(image), expected)


@torch.no_grad()
def test_timm_loads_our_weights(randomize_bn):
    ours = randomize_bn(RepViT('m0_9')).double().eval()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    theirs = timm.create_model('repvit_m0_9', num_classes=0).double().eval()
    theirs.load_state_dict(convert(ours.state_dict(), to='timm'))
    assert_close(ours(image), theirs.forward_intermediates(image, intermediates_only=True))
    flat = timm.create_model('repvit_m0_9', features_only=True).double().eval()
    flat.load_state_dict(convert(ours.state_dict(), to='timm_features'))
    assert_close(ours(image), flat(image))
