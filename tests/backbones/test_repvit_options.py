"""Options of RepViT itself: norms, stochastic depth, precision, memory, and its arguments."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense.backbones.repvit import ARCHS, RepViT
from repvit_dense.benchmark.training import saved_bytes
from repvit_dense.reparam import reparameterize_model
from tests.backbones.comparing import assert_close, backward, gradients_of, images

# --- training ---


def test_training_with_frozen_batch_norms_stores_at_most_55_percent_of_the_plain_form(plain_twin):
    model, plain = plain_twin('m0_6', norm_eval=True)
    x = images(512, dtype=torch.float64)
    saved = [saved_bytes(network, lambda n=network: n(x)) for network in (model.train(), plain.eval())]
    assert saved[0] < 0.55 * saved[1]


def test_drop_path_drops_in_training_only(build_tiny):
    model, plain = build_tiny(drop_path_rate=0.9), build_tiny()
    assert_close(model.eval()(images()), plain.eval()(images()), 1e-6)
    for network in (model, plain):
        network.norm_eval = True
    assert not torch.allclose(model.train()(images())[-1], plain.train()(images())[-1], rtol=0.01)


def test_drop_path_rate_grows_to_its_maximum(build_tiny):
    model = build_tiny(drop_path_rate=0.3)
    rates = [m.drop_path.p for m in model.modules() if getattr(getattr(m, 'drop_path', None), 'p', None)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)
    assert len(rates) == len(set(rates)) == sum((1, 2, 1, 2)) + 2 * 3 - 1  # the first rate is 0


def test_a_new_block_starts_as_the_identity(tiny_arch):
    block = RepViT(tiny_arch).stages[0].blocks[0]
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(block.channel_mixer.eval()(x), x)


@pytest.mark.parametrize('norm_eval', [True, False])
def test_bfloat16_autocast_is_close(build_tiny, norm_eval):
    model, expected = (build_tiny(norm_eval=norm_eval).train() for _ in range(2))
    x = images(128)
    with torch.autocast('cpu', torch.bfloat16):
        features = model(x)
        backward(features)
    full = expected(x)
    backward(full)
    assert all(feature.dtype == torch.bfloat16 for feature in features)
    assert_close([feature.float() for feature in features], full, 0.05)
    low, high = (torch.cat([g.flatten() for g in gradients_of(network)]) for network in (model, expected))
    assert (low - high).norm() < 0.1 * high.norm()


# --- norms ---


def test_sync_batch_norm_is_fused(build_tiny):
    synced, expected = build_tiny(norm_cfg={'type': 'SyncBN'}).eval(), build_tiny().eval()
    assert any(isinstance(module, nn.SyncBatchNorm) for module in synced.modules())
    synced.load_state_dict(expected.state_dict())
    assert_close(synced(images()), expected(images()), 1e-6)
    assert_close(reparameterize_model(synced)(images()), expected(images()), 1e-5)


def test_sync_batch_norm_trains_on_a_cpu_with_norm_eval(build_tiny):
    synced, expected = (build_tiny(norm_cfg={'type': name}, norm_eval=True).train() for name in ('SyncBN', 'BN'))
    synced.load_state_dict(expected.state_dict())
    for model in (synced, expected):
        backward(model(images()))
    assert_close(gradients_of(synced), gradients_of(expected), 1e-6)


def test_norm_cfg_reaches_every_batch_norm(build_tiny):
    model = build_tiny(norm_cfg={'type': 'BN', 'eps': 1e-3, 'momentum': 0.02, 'requires_grad': False})
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    assert {(bn.eps, bn.momentum, bn.weight.requires_grad) for bn in norms} == {(1e-3, 0.02, False)}


# --- construction ---


def scopes():
    import mmdet.registry
    import mmseg.registry

    return {'mmengine': MODELS, 'mmdet': mmdet.registry.MODELS, 'mmseg': mmseg.registry.MODELS}


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg'])
def test_every_registry_builds_it(tiny_arch, scope):
    model = scopes()[scope].build({'type': 'RepViT', 'arch': tiny_arch, 'out_indices': (1, 3)})
    assert type(model) is RepViT
    assert model.out_channels == (16, 32)


@pytest.mark.parametrize('arch', ['m9_9', 'M1_1', ''])
def test_an_unknown_arch_lists_the_known_ones(arch):
    with pytest.raises(ValueError, match=f"unknown arch '{arch}'.*{', '.join(ARCHS)}"):
        RepViT(arch)


@pytest.mark.parametrize(
    'arch',
    [{}, {'embed_dims': (8, 16, 24, 32)}, {'embed_dims': (8, 16, 24), 'depths': (1, 1, 1)}, {'widths': (8,) * 4}],
    ids=str,
)
def test_an_incomplete_arch_is_refused(arch):
    with pytest.raises(ValueError, match='four numbers each'):
        RepViT(arch)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'tap': 'stage'}, "unknown tap 'stage'; known: stage_body, stage_end"),
        ({'norm_cfg': {'type': 'GN', 'num_groups': 2}}, "got 'GN'"),
        ({'norm_cfg': {'type': 'IN'}}, "got 'IN'"),
        ({'norm_cfg': {'type': 'NoSuchNorm'}}, "got 'NoSuchNorm'"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(tiny_arch, arguments, message):
    with pytest.raises(ValueError, match=message):
        RepViT(tiny_arch, **arguments)
