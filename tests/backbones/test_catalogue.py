"""Rows of the catalogue against the backbones they build and the weights they name."""

import ast
import gc
import math
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import ShuffleNet_V2_X1_0_Weights

from repvit_dense import backbones, catalogue, catalogue_rows, config
from repvit_dense.backbones.repvit import ARCHS
from repvit_dense.catalogue_sizes import SIZES

ENTRIES = catalogue.BACKBONES.values()
PEERS = [entry for entry in ENTRIES if entry.type != 'RepViT']
TIMM = [entry for entry in PEERS if 'model_name' in entry.args]
LARGE = 12  # million parameters
LICENCES = {
    'apache-2.0': 'Apache-2.0',
    'mit': 'MIT',
    'cvnets-license': 'LicenseRef-apple-cvnets',
    'fastvit-license': 'LicenseRef-apple-fastvit',
    'mobileone-license': 'LicenseRef-apple-mobileone',
}


def name_of(entry):
    return entry.name


def test_every_repvit_variant_is_listed():
    entries = {entry.args['arch']: entry for entry in ENTRIES if entry.type == 'RepViT'}
    assert entries.keys() == ARCHS.keys()
    for arch, entry in entries.items():
        assert entry.name == f'repvit_{arch}'
        assert entry.channels == ARCHS[arch]['embed_dims']
        assert entry.licence == 'Apache-2.0'


def test_peers_have_their_usual_names():
    names = {entry.name for entry in PEERS}
    assert len(names) == len(PEERS) == len(ENTRIES) - len(ARCHS)
    assert {'mobilenetv1', 'mobilenetv2', 'mobilenetv3_large', 'shufflenetv2', 'resnet18', 'resnet50'} <= names
    assert {f'mobilevitv2_{n}' for n in ('050', '075', '100', '125', '150', '175', '200')} <= names
    assert {f'edgevit_{n}' for n in ('xxs', 'xs', 's')} <= names
    assert {f'mobile_former_{n}m' for n in (26, 52, 96, 151, 214, 294, 508)} <= names
    assert {f'ladder_{rung}' for rung in range(9)} <= names
    assert {f'swiftformer_{n}' for n in ('xs', 's', 'l1', 'l3')} | {f'hgnetv2_b{i}' for i in range(5)} <= names
    assert {f'convnext_{n}' for n in ('atto', 'femto', 'pico', 'tiny')} | {
        f'starnet_s{i}' for i in range(1, 5)
    } <= names
    assert {f'mobileone_s{i}' for i in range(5)} | {f'efficientformerv2_{n}' for n in ('s0', 's1', 's2', 'l')} <= names


@pytest.mark.parametrize('entry', ENTRIES, ids=name_of)
def test_default_weights_are_listed_and_licensed(entry):
    assert entry.default_weights in (entry.weights or {''})
    assert bool(entry.licence) == bool(entry.weights)


def test_backbones_without_published_weights():
    without = {entry.name for entry in ENTRIES if not entry.weights}
    others = {name for name in without if not name.startswith(('edgevit_', 'mobile_former_'))}
    assert others == {f'ladder_{rung}' for rung in range(1, 8)}


@pytest.fixture(scope='module', params=PEERS, ids=name_of)
def peer(request, build_row):
    """Return a row and its backbone in training mode, built once for all tests; a large one of timm without values."""
    torch.manual_seed(0)
    is_large = request.param in TIMM and SIZES[request.param.name][0] > LARGE
    with torch.device('meta' if is_large else 'cpu'):
        net = build_row(request.param).train()
    yield request.param, net
    gc.collect()


def image(net, *shape):
    return torch.rand(shape, device=next(net.parameters()).device)


@torch.no_grad()
@pytest.mark.parametrize('size', [(64, 96), (70, 110)])
def test_features_have_the_channels_and_strides_of_the_row(peer, size):
    entry, net = peer
    shapes = [tuple(feature.shape) for feature in net.eval()(image(net, 1, 3, *size))]
    expected = zip(entry.channels, (4, 8, 16, 32), strict=True)
    assert shapes == [(1, c, math.ceil(size[0] / s), math.ceil(size[1] / s)) for c, s in expected]
    assert (net.out_channels, net.out_strides) == (entry.channels, entry.strides)


def test_every_parameter_gets_a_gradient(peer):
    """Check all parameters: distributed training stops at one without a gradient."""
    _, net = peer
    for parameter in net.parameters():
        parameter.grad = None
    sum(feature.square().mean() for feature in net.train()(image(net, 2, 3, 70, 110))).backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.is_meta or p.grad.isfinite().all() for p in net.parameters())


def test_parameters_without_weight_decay_are_named(peer):
    """Parameters besides kernels, matrices, norms and biases are position embeddings, tables, or channel scales.

    SwiftFormer's `w_g` is a matrix with one column.
    """
    entry, net = peer
    norms = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
    rest = set()
    for path, module in net.named_modules():
        for name, _ in module.named_parameters(path, recurse=False):
            kernel = isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.MultiheadAttention)
            if not (isinstance(module, norms) or kernel or re.search(r'(^|[._])(bias|w_g)$', name)):
                rest.add(name)
    assert rest == {name for name in rest if any(part in name for part in entry.no_decay)}
    for part in entry.no_decay:
        assert any(part in name for name in rest), part


@pytest.mark.parametrize('entry', TIMM, ids=name_of)
def test_weights_licence_and_normalisation_agree_with_timm(entry):
    published = timm.get_pretrained_cfg(entry.default_weights.removeprefix('timm/'))
    assert published.hf_hub_id == entry.default_weights
    assert LICENCES[published.license] == entry.licence
    assert entry.mean == pytest.approx([255 * value for value in published.mean])
    assert entry.std == pytest.approx([255 * value for value in published.std])


@pytest.mark.parametrize(
    ('name', 'weights'),
    [
        ('repvit_m1_1', 'timm/repvit_m1_1.dist_300e_in1k'),
        ('m1_5', 'timm/repvit_m1_5.dist_300e_in1k'),
        ('repvit_m2_3', 'timm/repvit_m2_3.dist_450e_in1k'),
        ('m0_6', 'repvit_m0_6_distill_300e.pth'),
        ('swin_tiny', 'timm/swin_tiny_patch4_window7_224.ms_in1k'),
        ('pvt_small', 'pvt_small.pth'),
    ],
)
def test_default_weights_are_those_of_the_recipes(name, weights):
    assert catalogue.find(name).default_weights == weights


@pytest.mark.parametrize(
    ('name', 'url', 'file'),
    [
        (
            'timm/repvit_m1_1.dist_450e_in1k',
            'https://huggingface.co/timm/repvit_m1_1.dist_450e_in1k/resolve/main/model.safetensors',
            'repvit_m1_1.dist_450e_in1k.safetensors',
        ),
        (
            'repvit_m0_9_distill_450e.pth',
            'https://github.com/THU-MIG/RepViT/releases/download/v1.0/repvit_m0_9_distill_450e.pth',
            'repvit_m0_9_distill_450e.pth',
        ),
        (
            'repvit_m2_3_ade20k.pth',
            'https://github.com/THU-MIG/RepViT/releases/download/v1.0/repvit_m2_3_ade20k.pth',
            'repvit_m2_3_ade20k.pth',
        ),
        (
            'timm/fastvit_sa12.apple_in1k',
            'https://huggingface.co/timm/fastvit_sa12.apple_in1k/resolve/main/model.safetensors',
            'fastvit_sa12.apple_in1k.safetensors',
        ),
        (
            'shufflenetv2_x1-5666bf0f80.pth',
            ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1.url,
            'shufflenetv2_x1-5666bf0f80.pth',
        ),
    ],
)
def test_weights_resolve_to_url_and_cache_name(name, url, file):
    assert catalogue.resolve(name) == (url, file)


def test_no_two_downloads_share_a_file_name():
    # The ends of the ladder load the weights of other rows.
    names = {name for entry in ENTRIES for name in entry.weights} | catalogue.PUBLISHED.keys()
    assert len({catalogue.resolve(name)[1] for name in names}) == len(names)


def test_two_urls_of_the_hub_have_different_cache_names():
    url = 'https://huggingface.co/someone/their.model/resolve/main/model.safetensors?download=true'
    assert catalogue.cache_name(url) == 'their.model.safetensors'


def test_an_error_for_an_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError, match=r'm1_2.*repvit_m1_\d'):
        catalogue.find('repvit_m1_2')
    with pytest.raises(ValueError, match=r'repvit_m1_1\.dist_450e_in1k'):
        catalogue.resolve('timm/repvit_m1_1.dist_450')
    with pytest.raises(ValueError, match=r"'swin-tiny'; did you mean 'swin_tiny'"):
        catalogue.find('swin-tiny')


@pytest.mark.parametrize('module', [catalogue, catalogue_rows], ids=lambda module: module.__name__)
def test_it_imports_the_standard_library_and_errors(module):
    tree = ast.parse(Path(module.__file__).read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    light = {'repvit_dense', 'repvit_dense.errors', 'repvit_dense.catalogue_rows'}
    assert {name.partition('.')[0] for name in modules - light} <= sys.stdlib_module_names


def test_the_readme_states_the_number_of_backbones():
    readme = Path(__file__).parents[2] / 'README.md'
    assert f'{len(ENTRIES)} backbones' in ' '.join(readme.read_text().split())


# --- adding a backbone ---

NEW_BACKBONE = """
from mmengine.registry import MODELS
from torch import nn

from repvit_dense.backbones.base import Peer


@MODELS.register_module()
class DenseThin(Peer):
    def __init__(self, drop_path_rate=0.0, **options):
        super().__init__('Thin', **options)
        widths = (3, 4, 8, 12, 16)
        stages = [nn.Conv2d(*widths[i : i + 2], stride, stride) for i, stride in enumerate((4, 2, 2, 2))]
        net = nn.Sequential(*stages[: self.out_indices[-1] + 1])
        self.set_net(net, widths[1:], {str(i): i + 1 for i in range(len(net))})

    def _features(self, x):
        outs = []
        for stage in self.net:
            x = stage(x)
            outs.append(x)
        return [outs[i] for i in self.out_indices]
"""


def test_every_file_of_the_folder_is_imported():
    modules = {path.stem for path in Path(backbones.__file__).parent.glob('[!_]*.py')}
    assert {f'repvit_dense.backbones.{name}' for name in modules} <= sys.modules.keys()


def test_registered_names_begin_with_dense_or_repvit():
    types = {name: cls for name, cls in MODELS.module_dict.items() if cls.__module__.startswith('repvit_dense.')}
    assert {entry.type for entry in ENTRIES} <= types.keys()
    assert all(name.startswith(('Dense', 'RepViT')) for name in types)


def test_a_backbone_is_added_by_one_file_and_one_row(tmp_path, monkeypatch, build_row):
    (tmp_path / 'thin.py').write_text(NEW_BACKBONE)
    monkeypatch.setattr(backbones, '__path__', [*backbones.__path__, str(tmp_path)])
    row = catalogue.Backbone('thin', 'DenseThin', {}, (4, 8, 12, 16), (4, 8, 16, 32), '', {}, '')
    monkeypatch.setitem(catalogue.BACKBONES, 'thin', row)
    try:
        backbones.import_families()
        cfg = config.load('repvit_retinanet_coco', backbone='thin')
        assert (cfg.model.backbone.type, cfg.model.neck.in_channels) == ('DenseThin', [8, 12, 16])
        net = build_row('thin', out_indices=(0, 3), frozen_stages=1)
        assert [tuple(out.shape) for out in net(torch.rand(1, 3, 64, 96))] == [(1, 4, 16, 24), (1, 16, 2, 3)]
        assert [p.requires_grad for p in net.parameters()] == [False] * 2 + [True] * 6
    finally:
        MODELS.module_dict.pop('DenseThin', None)
        sys.modules.pop('repvit_dense.backbones.thin', None)
