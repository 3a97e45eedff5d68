"""Published ImageNet weights go into the peers through `init_cfg`: all of them, or none and one clear sentence."""

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

from repvit_dense.backbones import catalogue
from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError

# The smallest of each family of timm's.
FAMILIES = (
    *('mobilenetv1', 'mobilenetv3_large', 'mobilevit_xxs', 'mobilevitv2_050', 'efficientformer_l1'),
    *('efficientformerv2_s0', 'poolformer_s12', 'pvtv2_b0', 'swin_tiny', 'mvitv2_tiny', 'vit_tiny', 'fastvit_t8'),
    *('mobileone_s0', 'resnet18'),
)
LEFT = 'classifier and what else this backbone does not build'


@pytest.fixture
def log():
    records = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_instance(os.urandom(4).hex(), log_level='INFO')  # the latest one is the current one
    logger.addHandler(handler)
    return records


@torch.no_grad()
def drawn(net):
    """Every tensor at random: none equals that of a fresh network."""
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 0.9)
    return net


def classifier(name):
    """The published form of a row of timm's: the whole network, under timm's names."""
    return drawn(timm.create_model(catalogue.find(name).args['model_name'])).state_dict()


def build(name, **options):
    entry = catalogue.find(name)
    return MODELS.build({'type': entry.type, **entry.args, **options})


@pytest.mark.parametrize('name', FAMILIES)
def test_classifiers_of_timm_fill_the_backbone(name, tmp_path, log):
    published = classifier(name)
    file = tmp_path / 'model.safetensors'
    save_file(published, file)
    net = build(name, init_cfg={'type': 'Pretrained', 'checkpoint': str(file)})
    net.init_weights()
    state = net.net.state_dict()
    assert all(torch.equal(value, published[key]) for key, value in state.items())
    said = [text for text in log if 'model.safetensors' in text and 'initialize' not in text]
    assert f'{file}: ImageNet weights of {net.name}, {len(net.state_dict())} tensors loaded' in said
    left = len(published) - len(state)
    assert any(
        f'as expected: classifier and what else this backbone does not build ({left} tensors)' in t for t in said
    )


def test_later_stages_are_left_out():
    net = build('swin_tiny', out_indices=(0, 1))
    published = classifier('swin_tiny')
    load_checkpoint(net, published)
    assert all(torch.equal(value, published[key]) for key, value in net.net.state_dict().items())
    assert not any(key.startswith('layers.2.') for key in net.net.state_dict())


def test_the_authors_layout_of_swin_is_converted():
    """Downsampling counted with the stage before it, buffers saved along; as published, under 'model'."""
    ours = build('swin_tiny')
    published = classifier('swin_tiny')
    theirs = {'layers.0.blocks.0.attn.relative_position_index': torch.zeros(49, 49)}
    for key, value in published.items():
        for i in (1, 2, 3):
            key = key.replace(f'layers.{i}.downsample', f'layers.{i - 1}.downsample')
        theirs[key.replace('head.fc.', 'head.')] = value
    assert theirs.keys() != published.keys()
    load_checkpoint(ours, {'model': theirs})
    assert all(torch.equal(value, published[key]) for key, value in ours.net.state_dict().items())


def published_pvt(net):
    """The authors' names for mmdet's network: queries apart from keys and values, a class token in the last stage."""
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
def test_the_authors_weights_fill_a_pvt(out_indices):
    whole = drawn(build('pvt_tiny').net)
    net = build('pvt_tiny', out_indices=out_indices)
    load_checkpoint(net, published_pvt(whole))
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in net.net.state_dict().items())


def test_a_pvt_without_weights_is_initialised_as_mmdet_does():
    net = build('pvt_tiny')
    net.init_weights()
    assert net.net.layers[0][1][0].pos_embed.std().item() == pytest.approx(0.02, rel=0.1)


def test_torchvisions_weights_fill_a_shufflenet(tmp_path):
    published = drawn(shufflenet_v2_x1_0()).state_dict()
    torch.save(published, tmp_path / 'shufflenet.pth')
    net = build('shufflenetv2', init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / 'shufflenet.pth')})
    net.init_weights()
    assert all(torch.equal(value, published[key]) for key, value in net.net.state_dict().items())


@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.'])
@pytest.mark.parametrize('name', ['mobilenetv3_large', 'vit_tiny', 'swin_tiny'])
def test_a_state_dict_of_its_own_goes_back_in(name, prefix):
    source, net = drawn(build(name)), build(name)
    load_checkpoint(net, {'state_dict': {prefix + key: value for key, value in source.state_dict().items()}})
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in net.state_dict().items())


class Detector(BaseModule):
    """As a detector does, initialises its children, each through its own `init_weights`."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.neck = backbone, nn.Conv2d(4, 4, 1)


@pytest.mark.parametrize('name', ['efficientformerv2_s0', 'vit_tiny', 'mobileone_s0'])
def test_initialising_a_detector_keeps_what_was_loaded(name, tmp_path):
    """timm's networks have an `init_weights` of their own, which would draw everything anew."""
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
    'deeper': ('resnet18', lambda: drawn(timm.create_model('resnet34')).state_dict(), ['fit resnet18', 'has no place']),
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
