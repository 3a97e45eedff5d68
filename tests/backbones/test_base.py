"""Options that every backbone has, on a tiny RepViT: returned stages, freezing, recomputation, refusals."""

import copy
import math
from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense.backbones.layers import is_frozen
from repvit_dense.backbones.repvit import ARCHS, TAPS, RepViT
from repvit_dense.benchmark.training import saved_bytes
from tests.backbones.comparing import assert_close, backward, images

PARTS = ('stem', 'stages.0', 'stages.1', 'stages.2', 'stages.3')
every_tap = pytest.mark.parametrize('tap', TAPS)

# --- returned stages ---


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('size', [(33, 47), (32, 32), (65, 100)])
def test_odd_sizes_are_rounded_up(arch, size):
    with torch.device('meta'):
        model, x = RepViT(arch).eval(), torch.empty(1, 3, *size)
    expected = [
        (1, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for channels, stride in zip(ARCHS[arch]['embed_dims'], (4, 8, 16, 32), strict=True)
    ]
    assert [tuple(feature.shape) for feature in model(x)] == expected


@every_tap
@pytest.mark.parametrize('out_indices', [c for n in range(1, 5) for c in combinations(range(4), n)], ids=str)
def test_no_parameter_is_without_gradient(build_tiny, out_indices, tap):
    model = build_tiny(out_indices=out_indices, tap=tap).train()
    backward(model(images()))
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without, 'distributed training stops at parameters that get no gradient'


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 3), (2,)], ids=str)
def test_out_channels_and_strides_describe_the_outputs(build_tiny, out_indices):
    model = build_tiny(out_indices=out_indices).eval()
    features = model(images())
    assert [feature.shape[1] for feature in features] == list(model.out_channels)
    assert [64 // feature.shape[-1] for feature in features] == list(model.out_strides)


@every_tap
def test_out_indices_select_from_all_features(build_tiny, tap):
    whole = build_tiny(tap=tap).eval()
    part = build_tiny(tap=tap, out_indices=(0, 2)).eval()
    part.load_state_dict(whole.state_dict(), strict=False)
    assert_close(part(images()), whole(images())[::2], 1e-6)


# --- freezing ---


@pytest.mark.parametrize('frozen_stages', range(-1, 5))
def test_frozen_stages_stay_frozen_after_train(build_tiny, frozen_stages):
    model = build_tiny(frozen_stages=frozen_stages)
    parts = PARTS[: frozen_stages + 1]
    model.eval().train()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(parts), name
    for name, module in model.named_modules():
        if name.startswith(('stem', 'stages.')):
            assert module.training != name.startswith(parts), name


@pytest.mark.parametrize('frozen_stages', [0, 2])
def test_frozen_stages_keep_their_statistics(build_tiny, frozen_stages):
    model = build_tiny(frozen_stages=frozen_stages).train()
    before = copy.deepcopy(model.state_dict())
    model(images())
    for name, _ in model.named_buffers():
        unchanged = torch.equal(before[name], model.state_dict()[name])
        assert unchanged == name.startswith(PARTS[: frozen_stages + 1]), name


def test_a_frozen_part_leaves_the_gradients_of_the_others_alone(build_tiny):
    free, partly = build_tiny(norm_eval=True).train(), build_tiny(norm_eval=True, frozen_stages=2).train()
    for model in (free, partly):
        backward(model(images()))
    expected = dict(free.named_parameters())
    trained = {name: parameter for name, parameter in partly.named_parameters() if parameter.grad is not None}
    assert all(name.startswith(('stages.2', 'stages.3')) for name in trained)
    assert_close([p.grad for p in trained.values()], [expected[name].grad for name in trained], 1e-5)


def norm_modes(model):
    return [module.training for module in model.modules() if isinstance(module, _BatchNorm)]


def test_norm_eval_keeps_batch_norms_in_eval_mode_and_nothing_else(build_tiny):
    model = build_tiny(norm_eval=True).eval().train()
    assert not any(norm_modes(model))
    assert all(module.training for module in model.modules() if not isinstance(module, _BatchNorm))


def test_without_norm_eval_batch_norms_train(build_tiny):
    assert all(norm_modes(build_tiny().eval().train()))


def test_norm_eval_keeps_statistics(build_tiny):
    model = build_tiny(norm_eval=True).train()
    before = copy.deepcopy(model.state_dict())
    backward(model(images()))
    torch.testing.assert_close(dict(model.named_buffers()), {n: before[n] for n, _ in model.named_buffers()})


@pytest.mark.parametrize(
    ('training', 'tracks', 'expected'), [(False, True, True), (True, True, False), (False, False, False)]
)
def test_a_batch_norm_is_frozen_in_eval_mode_if_it_has_statistics(training, tracks, expected):
    assert is_frozen(nn.BatchNorm2d(4, track_running_stats=tracks).train(training)) == expected


def test_batch_norms_without_statistics_are_live_in_eval_mode(build_tiny):
    model = build_tiny()
    for bn in model.modules():
        if isinstance(bn, _BatchNorm):
            bn.track_running_stats = False
            bn.running_mean = bn.running_var = bn.num_batches_tracked = None
    assert_close(model.eval()(images()), model.train()(images()), 1e-6)


# --- recomputation ---


@pytest.mark.parametrize('norm_eval', [True, False])
@pytest.mark.parametrize('frozen_stages', [-1, 0, 2])
def test_recomputation_changes_memory_only(build_tiny, norm_eval, frozen_stages):
    options = {'norm_eval': norm_eval, 'frozen_stages': frozen_stages, 'drop_path_rate': 0.5}
    model, expected = (build_tiny(with_cp=with_cp, **options).train() for with_cp in (True, False))
    for network in (model, expected):
        torch.manual_seed(3)  # drops the same paths in both
        for _ in range(2):  # the second step depends on the statistics after the first
            backward(network(images()))
    gradients = [[p.grad for p in network.parameters() if p.requires_grad] for network in (model, expected)]
    assert_close(*gradients, 1e-5)
    torch.testing.assert_close(dict(model.named_buffers()), dict(expected.named_buffers()))


def test_recomputation_stores_less(build_tiny):
    recomputing, storing = (build_tiny(with_cp=with_cp).double().train() for with_cp in (True, False))
    x = images(128, dtype=torch.float64)
    assert saved_bytes(recomputing, lambda: recomputing(x)) < 0.5 * saved_bytes(storing, lambda: storing(x))


# --- refusals ---


@pytest.mark.parametrize('out_indices', [(), (4,), (-1,), (1, 0), (1, 1), (0, 1.5)], ids=str)
def test_wrong_out_indices_are_refused(tiny_arch, out_indices):
    with pytest.raises(ValueError, match='out_indices'):
        RepViT(tiny_arch, out_indices=out_indices)


@pytest.mark.parametrize('frozen_stages', [5, -2])
def test_wrong_frozen_stages_are_refused(tiny_arch, frozen_stages):
    with pytest.raises(ValueError, match='frozen_stages must be -1'):
        RepViT(tiny_arch, frozen_stages=frozen_stages)


def test_arguments_of_a_config_are_not_changed(tiny_arch):
    init_cfg, norm_cfg = {'type': 'Pretrained', 'checkpoint': 'somewhere.pth'}, {'type': 'BN'}
    RepViT(tiny_arch, init_cfg=init_cfg, norm_cfg=norm_cfg)
    assert init_cfg == {'type': 'Pretrained', 'checkpoint': 'somewhere.pth'}
    assert norm_cfg == {'type': 'BN'}
