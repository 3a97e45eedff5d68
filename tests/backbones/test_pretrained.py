"""Published ImageNet weights in the peers through `init_cfg`: all tensors are loaded, or none with a clear error."""

import logging
import os

import pytest
import timm
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from safetensors.torch import save_file
from torch import nn
from torchvision.models import shufflenet_v2_x1_0

from repvit_dense import catalogue
from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError

# The first, smallest network of every module of timm.
FAMILIES = {
    timm.model_entrypoint(row.args['model_name']).__module__: row.name
    for row in reversed(catalogue.BACKBONES.values())
    if 'model_name' in row.args
}


@pytest.fixture
def log():
    records = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_instance(os.urandom(4).hex(), log_level='INFO')  # the latest one is the current one
    logger.addHandler(handler)
    return records


@torch.no_grad()
def randomize(net):
    """Draw every tensor, so that none equals that of a new network."""
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 0.9)
    return net


def classifier(name):
    """Return the state dict of timm's whole network, the form in which a row's weights are published."""
    return randomize(timm.create_model(catalogue.find(name).args['model_name'])).state_dict()


def build(name, **options):
    entry = catalogue.find(name)
    return MODELS.build({'type': entry.type, **entry.args, **options})


@pytest.mark.parametrize('name', FAMILIES.values())
def test_classifiers_of_timm_are_loaded(name, tmp_path, log):
    published = classifier(name)
    file = tmp_path / 'model.safetensors'
    save_file(published, file)
    net = build(name, init_cfg={'type': 'Pretrained', 'checkpoint': str(file)})
    net.init_weights()
    state = net.net.state_dict()
    assert all(torch.equal(value, published[key]) for key, value in state.items())
    messages = [text for text in log if 'model.safetensors' in text and 'initialize' not in text]
    assert f'{file}: ImageNet weights of {net.name}, {len(net.state_dict())} tensors loaded' in messages
    unused = f'classifier and other parts that this backbone does not build ({len(published) - len(state)} tensors)'
    assert any(unused in text for text in messages)


@pytest.mark.parametrize('spoiled', ['', 'shape', 'kind', 'count'])
def test_weights_with_other_names_are_taken_in_order_if_kinds_and_shapes_agree(spoiled):
    published = classifier('efficientnet_lite0')
    state = {f'{i}.{key.rpartition(".")[2]}': value for i, (key, value) in enumerate(published.items())}
    if spoiled == 'shape':
        state['0.weight'] = state['0.weight'][:, :1]
    elif spoiled == 'kind':
        state = {key.replace('1.weight', '1.gamma'): value for key, value in state.items()}
    elif spoiled == 'count':
        del state['0.weight']
    net = build('efficientnet_lite0')
    if spoiled:
        with pytest.raises(CheckpointError, match='another architecture than tf_efficientnet_lite0'):
            load_checkpoint(net, state)
    else:
        load_checkpoint(net, state)
        assert all(torch.equal(value, published[key]) for key, value in net.net.state_dict().items())


def test_later_stages_are_ignored():
    net = build('swin_tiny', out_indices=(0, 1))
    published = classifier('swin_tiny')
    load_checkpoint(net, published)
    assert all(torch.equal(value, published[key]) for key, value in net.net.state_dict().items())
    assert not any(key.startswith('layers.2.') for key in net.net.state_dict())


def test_the_authors_layout_of_swin_is_converted():
    """Check it as published: below 'model', with buffers, and each downsampling in the stage before it."""
    net = build('swin_tiny')
    published = classifier('swin_tiny')
    theirs = {'layers.0.blocks.0.attn.relative_position_index': torch.zeros(49, 49)}
    for key, value in published.items():
        for i in (1, 2, 3):
            key = key.replace(f'layers.{i}.downsample', f'layers.{i - 1}.downsample')
        theirs[key.replace('head.fc.', 'head.')] = value
    assert theirs.keys() != published.keys()
    load_checkpoint(net, {'model': theirs})
    assert all(torch.equal(value, published[key]) for key, value in net.net.state_dict().items())


def published_pvt(net):
    """Convert mmdet's state dict to the authors' layout: separate queries, a class token in the last stage."""
    state = {'cls_token': torch.ones(1, 1, 512), 'norm.weight': torch.ones(512), 'head.bias': torch.ones(1000)}
    names = {'0.projection': 'patch_embed{}.proj', '0.norm': 'patch_embed{}.norm', '1.0.pos_embed': 'pos_embed{}'}
    inner = {'attn.attn.out_proj': 'attn.proj', 'ffn.layers.0': 'mlp.fc1', 'ffn.layers.3': 'mlp.fc2'}
    for key, value in net.state_dict().items():
        _, stage, rest = key.split('.', 2)
        stage = int(stage) + 1
        for mmdets, authors in names.items():
            if rest.startswith(mmdets):
                state[rest.replace(mmdets, authors.format(stage))] = value
                break
        else:
            _, block, rest = rest.split('.', 2)
            for mmdets, authors in inner.items():
                rest = rest.replace(mmdets, authors)
            prefix = f'block{stage}.{int(block) - 1}.'
            if 'in_proj' in rest:
                kind, width = rest.rpartition('_')[2], len(value) // 3
                state[f'{prefix}attn.q.{kind}'] = value[:width]
                state[f'{prefix}attn.kv.{kind}'] = value[width:]
            else:
                state[prefix + rest] = value.flatten(1) if 'fc' in rest and value.ndim == 4 else value
    last = state['pos_embed4']
    return state | {'pos_embed4': torch.cat([torch.zeros(1, 1, 512), last], 1)}


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0, 1)])
def test_pvt_loads_the_authors_weights(out_indices):
    whole = randomize(build('pvt_tiny').net)
    net = build('pvt_tiny', out_indices=out_indices)
    load_checkpoint(net, published_pvt(whole))
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in net.net.state_dict().items())


def test_pvt_without_weights_is_initialised_by_mmdet():
    net = build('pvt_tiny')
    net.init_weights()
    assert net.net.layers[0][1][0].pos_embed.std().item() == pytest.approx(0.02, rel=0.1)


def test_shufflenet_loads_torchvisions_weights(tmp_path):
    published = randomize(shufflenet_v2_x1_0()).state_dict()
    torch.save(published, tmp_path / 'shufflenet.pth')
    net = build('shufflenetv2', init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / 'shufflenet.pth')})
    net.init_weights()
    assert all(torch.equal(value, published[key]) for key, value in net.net.state_dict().items())


@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.'])
@pytest.mark.parametrize('name', ['mobilenetv3_large', 'vit_tiny', 'swin_tiny'])
def test_a_state_dict_of_its_own_is_loaded(name, prefix):
    source, net = randomize(build(name)), build(name)
    load_checkpoint(net, {'state_dict': {prefix + key: value for key, value in source.state_dict().items()}})
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in net.state_dict().items())


class Detector(BaseModule):
    """A module that initialises its children by their `init_weights`, like a detector."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.neck = backbone, nn.Conv2d(4, 4, 1)


@pytest.mark.parametrize('name', ['efficientformerv2_s0', 'vit_tiny', 'mobileone_s0'])
def test_initialising_a_detector_keeps_loaded_weights(name, tmp_path):
    """Check networks with an `init_weights` of timm's, which would draw all weights again."""
    published = classifier(name)
    save_file(published, tmp_path / 'model.safetensors')
    checkpoint = str(tmp_path / 'model.safetensors')
    model = Detector(build(name, init_cfg={'type': 'Pretrained', 'checkpoint': checkpoint}))
    model.init_weights()
    assert all(torch.equal(value, published[key]) for key, value in model.backbone.net.state_dict().items())


REFUSALS = {
    'another size': (
        'mobileone_s0',
        lambda: classifier('mobileone_s1'),
        [
            'another variant than mobileone_s0: stem.',
            '(64, 3, 3, 3) in the file and (48, 3, 3, 3) in',
            'of this variant',
        ],
    ),
    'deeper': (
        'resnet18',
        lambda: randomize(timm.create_model('resnet34')).state_dict(),
        ['fit resnet18', 'has no place'],
    ),
    'another family': ('swin_tiny', lambda: classifier('resnet18'), ['another architecture than swin_tiny', 'conv1.']),
    'RepViT': ('pvt_tiny', lambda: build('m0_6').state_dict(), ['another architecture than PVT', 'stem.']),
    'missing': (
        'resnet18',
        lambda: {key: value for key, value in classifier('resnet18').items() if key != 'conv1.weight'},
        ['does not fit resnet18: net.conv1.weight is missing'],
    ),
    'a detector': (
        'resnet18',
        lambda: Detector(build('resnet18')).state_dict(),
        ['does not fit resnet18: neck.weight has no place in the model; neck.bias has no place'],
    ),
    'nothing': ('resnet18', lambda: {'epoch': 3}, ['no weights in it']),
}


@pytest.mark.parametrize('case', REFUSALS)
def test_refused_with_reason_and_nothing_changed(case):
    name, source, words = REFUSALS[case]
    net = build(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(net, source())
    for word in words:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 600
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
