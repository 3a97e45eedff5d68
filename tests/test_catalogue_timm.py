"""Networks of timm by name: rows from timm's settings, and messages about names and networks that do not fit."""

import math

import pytest
import timm
import torch
from mmengine.registry import MODELS

from repvit_dense import backbones, catalogue, catalogue_timm  # noqa: F401  the first registers the classes
from repvit_dense.catalogue import find

# The first row of each kind of exemptions from weight decay and of norms.
ROWS = [row for row in reversed(catalogue.BACKBONES.values()) if row.type == 'DenseTimm']
TIMM = {(row.no_decay, row.args.get('out_norm')): row for row in ROWS}


@pytest.mark.parametrize(
    'name, licence, weights',
    [
        ('timm/resnet18', 'Apache-2.0', 'timm/resnet18.a1_in1k'),
        ('timm/resnet18.fb_swsl_ig1b_ft_in1k', 'CC-BY-NC-4.0', 'timm/resnet18.fb_swsl_ig1b_ft_in1k'),
        ('timm/regnetz_b16_evos', '', ''),
        ('timm/fastvit_mci0', 'LicenseRef-apple-amlr', 'timm/fastvit_mci0.apple_mclip'),
    ],
)
def test_licence_and_weights_are_those_of_the_tag(name, licence, weights):
    row = find(name)
    assert (row.name, row.licence, row.default_weights) == (name, licence, weights)
    assert not weights or catalogue.resolve(weights)[0] == row.weights[weights]


def test_the_address_is_timms():
    assert (
        find('timm/fastvit_mci0')
        .weights['timm/fastvit_mci0.apple_mclip']
        .startswith('https://huggingface.co/apple/mobileclip_s0_timm/')
    )
    assert find('timm/legacy_seresnet18').weights['timm/legacy_seresnet18.in1k'].startswith('https://github.com/')


@pytest.mark.parametrize('entry', TIMM.values(), ids=lambda entry: entry.name)
def test_rows_of_the_catalogue_follow_from_timm(entry):
    row = find(entry.default_weights)
    assert (row.channels, row.mean, row.std) == (entry.channels, entry.mean, entry.std)
    assert (row.licence, row.weights[entry.default_weights]) == (entry.licence, entry.weights[entry.default_weights])
    assert row.args.get('out_norm') == entry.args.get('out_norm')
    with torch.device('meta'):
        net = MODELS.build({'type': entry.type, **entry.args})
    matrices = [name for name, value in net.named_parameters() if value.numel() > max((*value.shape, 0))]
    exempt = [{name for name in matrices if any(word in name for word in part.no_decay)} for part in (row, entry)]
    assert exempt[0] == exempt[1]


@pytest.mark.parametrize(
    'name',
    ['test_maxvit', 'test_nfnet', 'halonet26t', 'swinv2_cr_tiny_ns_224', 'swinv2_tiny_window8_256', 'twins_svt_small'],
)
def test_features_have_the_channels_and_strides_of_the_row(name):
    size = (70, 110)
    row = find(f'timm/{name}')
    with torch.device('meta'):
        net = MODELS.build({'type': row.type, **row.args})
        shapes = [feature.shape[1:] for feature in net(torch.zeros(1, 3, *size))]
    expected = zip(row.channels, row.strides, strict=True)
    assert shapes == [(c, math.ceil(size[0] / s), math.ceil(size[1] / s)) for c, s in expected]


def test_tables_of_relative_positions_are_without_weight_decay():
    assert find('timm/swinv2_tiny_window8_256').no_decay == ('logit_scale', 'cpb_mlp')
    assert find('timm/twins_svt_small').no_decay == ('pos_block',)  # 'proj', the last word, would match attention too


@pytest.mark.parametrize(
    'name, message',
    [
        ('timm/resnet81', "no network 'resnet81'; did you mean 'resnet18'"),
        ('timm/RESNET18', "did you mean 'resnet18'"),
        ('timm/', 'lists all'),
        ('timm/resnet1*', 'names no single network.*timm/resnet18.* and 8 more'),
        ('timm/nothing*', 'match: none'),
        ('timm/resnet18.a9', 'its weights: resnet18.a1_in1k, '),
        ('timm/efficientnet_b2a', "it is 'timm/efficientnet_b2' now"),
        ('timm/levit_128', 'has features of strides 16, 32, 64; .* so 4, 8 are missing'),
        ('timm/visformer_tiny', 'so 4 is missing'),
        ('timm/test_coatnet', 'one size only'),
        ('timm/inception_v3', 'does not pad'),
    ],
)
def test_another_name_is_refused_with_a_remedy(name, message):
    with pytest.raises(ValueError, match=message):
        find(name)


def test_weights_of_timm_have_an_address_by_name():
    url, file = catalogue.resolve('timm/regnety_002.pycls_in1k')
    assert url == 'https://huggingface.co/timm/regnety_002.pycls_in1k/resolve/main/model.safetensors'
    assert file == 'regnety_002.pycls_in1k.safetensors'
    with pytest.raises(ValueError, match='has no weights'):
        catalogue.resolve('timm/regnety_002.nothing')
    with pytest.raises(ValueError, match='timm has no weights for timm/regnetz_b16_evos'):
        catalogue.resolve('timm/regnetz_b16_evos')


def test_lists_know_timm():
    assert 'timm/resnet18' in catalogue_timm.names('timm/resnet1*')
    assert len(catalogue_timm.names()) == len(timm.list_models())
    assert 'timm/resnet18.a1_in1k' in catalogue_timm.weights('timm/resnet18.*')
