"""RepViT against its published numbers, its reference features and timm's implementation, and against its contract."""

import copy
import math
import pickle
import zlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmcv.cnn.utils.fuse_conv_bn import fuse_conv_bn
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from repvit_dense.backbones import repvit
from repvit_dense.backbones.repvit import ARCHS, TAPS, RepViT, frozen
from repvit_dense.benchmark.training import saved_bytes
from repvit_dense.checkpoints.layouts import convert
from repvit_dense.reparam import reparameterize_model

GOLDEN = Path(__file__).parents[1] / 'golden' / 'repvit_reference.npz'
GOLDEN_TAPS = {'stage_body': 'before_last_block', 'stage_end': 'stage_end'}  # ours: the name in the file

# Published: parameters in training and deploy form, GMACs at 224 in deploy form.
PARAMETERS = {
    'm0_6': (2_165_652, 2_147_072),
    'm0_9': (4_717_792, 4_682_056),
    'm1_0': (6_403_004, 6_361_312),
    'm1_1': (7_774_864, 7_731_312),
    'm1_5': (13_616_384, 13_536_992),
    'm2_3': (22_404_232, 22_285_792),
}
GMACS = {'m0_6': 0.385, 'm0_9': 0.815, 'm1_0': 1.106, 'm1_1': 1.337, 'm1_5': 2.273, 'm2_3': 4.515}

every_arch = pytest.mark.parametrize('arch', ARCHS)
every_tap = pytest.mark.parametrize('tap', TAPS)


@pytest.fixture
def tiny(tiny_arch, randomize_bn):
    """`tiny(**arguments)` builds a tiny RepViT with random batch norms; same seed, same weights."""

    def build(**arguments):
        torch.manual_seed(0)
        return randomize_bn(RepViT(tiny_arch, **arguments))

    return build


@pytest.fixture
def plain_twin(randomize_bn):
    """`plain_twin(arch, **arguments)`: ours, and timm's features network with the same random weights, in float64."""

    def build(arch, **arguments):
        dims = ARCHS[arch]
        plain = timm.create_model('repvit_m1_1', features_only=True, embed_dim=dims['embed_dims'], depth=dims['depths'])
        ours = RepViT(arch, **arguments).double()
        ours.load_state_dict(convert(randomize_bn(plain.double()).state_dict(), to='repvit_dense'))
        return ours, plain

    return build


def images(size=64, batch=2, dtype=torch.float64):
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


def backward(features):
    """Gradients of a fixed random linear function of the features, which no symmetry makes vanish."""
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(feature.shape, dtype=torch.float64, generator=generator).to(feature) for feature in features]
    total = sum((feature * weight).mean() for feature, weight in zip(features, weights, strict=True))
    total.backward()


def assert_close(actual, expected, tolerance):
    """Largest difference relative to the largest expected value, per tensor.

    A tensor that ought to vanish (the gradient of a bias before a live batch norm) is measured against the others.
    """
    largest = [tensor.abs().max().item() for tensor in expected]
    floor = 1e-6 * max(largest)
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == b.shape
        error = (a - b).abs().max().item() / max(largest[i], floor)
        assert error < tolerance, f'tensor {i}: relative error {error:.1e}'


def assert_same_gradients(ours, plain, tolerance):
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    expected = convert(plain.state_dict() | gradients, to='repvit_dense')
    names = [name for name, _ in ours.named_parameters()]
    assert_close([parameter.grad for parameter in ours.parameters()], [expected[name] for name in names], tolerance)


def gradients_of(model):
    return [parameter.grad for parameter in model.parameters()]


# --- Agreement with what is published and with other implementations


def golden_weights(official):
    """The weights the reference features were made with: a function of each official key."""
    weights = {}
    for key, tensor in official.items():
        shape = tuple(tensor.shape)
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        if key.endswith('num_batches_tracked'):
            value = np.zeros(shape)
        elif key.endswith('running_var'):
            value = rng.uniform(0.5, 1.5, shape)
        elif key.endswith('bn.weight'):
            value = rng.uniform(0.3, 0.7, shape)
        elif key.endswith(('running_mean', 'bias')):
            value = rng.normal(0, 0.1, shape)
        else:
            value = rng.normal(0, 1 / math.sqrt(math.prod(shape[1:]) or 1), shape)
        weights[key] = torch.from_numpy(np.asarray(value, dtype=np.float32)).to(tensor.dtype)
    return weights


@every_tap
@pytest.mark.parametrize('arch', ['m0_9', 'm1_1', 'm2_3'])
def test_features_equal_the_reference_implementation(arch, tap):
    model = RepViT(arch, tap=tap).eval()
    weights = golden_weights(convert(model.state_dict(), to='official'))
    model.load_state_dict(convert(weights, to='repvit_dense'))
    x = np.random.default_rng(0).normal(0, 1, (1, 3, 96, 160)).astype(np.float32)
    with torch.no_grad():
        features = model.double()(torch.from_numpy(x).double())
    samples = [f.flatten()[:: max(1, f.numel() // 2000) if f.numel() >= 4000 else 1] for f in features]
    with np.load(GOLDEN) as golden:
        expected = [torch.from_numpy(golden[f'{arch}/{GOLDEN_TAPS[tap]}/{i}']).flatten() for i in range(4)]
    assert_close(samples, expected, 1e-5)


@every_arch
def test_parameter_counts_are_the_published_ones(arch):
    with torch.device('meta'):
        training, deploy = RepViT(arch), RepViT(arch, deploy=True)
    counts = tuple(sum(parameter.numel() for parameter in model.parameters()) for model in (training, deploy))
    assert counts == PARAMETERS[arch]


@every_arch
def test_macs_are_the_published_ones(arch):
    with torch.device('meta'):
        model = RepViT(arch, deploy=True).eval()
        x = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() / 2e9 == pytest.approx(GMACS[arch], rel=0.005)


@every_arch
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_every_form_has_the_features_of_the_plain_form(arch, dtype, tolerance, plain_twin):
    ours, plain = plain_twin(arch)
    ours, plain = ours.to(dtype).eval(), plain.to(dtype).eval()
    x = images(dtype=dtype)
    with torch.no_grad():
        expected = plain(x)
        assert_close(ours(x), expected, tolerance)
        assert_close(reparameterize_model(ours)(x), expected, tolerance)


@every_arch
def test_stage_end_is_the_output_of_the_block_before_downsampling(arch, plain_twin):
    ours, plain = plain_twin(arch, tap='stage_end')
    expected = {}
    for i in range(3):
        block = plain[f'stages_{i + 1}'].downsample.pre_block
        block.register_forward_hook(lambda block, args, output, i=i: expected.update({i: output}))
    with torch.no_grad():
        last = plain.eval()(images())[-1]
        features = ours.eval()(images())
    assert_close(features, [expected[0], expected[1], expected[2], last], 1e-10)


@every_arch
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_gradients_with_frozen_batch_norms_are_those_of_the_plain_form(arch, dtype, tolerance, plain_twin):
    ours, plain = plain_twin(arch, norm_eval=True)
    ours, plain = ours.to(dtype).train(), plain.to(dtype).eval()
    for network in (ours, plain):
        backward(network(images(dtype=dtype)))
    assert_same_gradients(ours, plain, tolerance)


def test_small_activations_on_a_gpu_go_through_every_branch_and_have_the_same_gradients(plain_twin, monkeypatch):
    monkeypatch.setattr(repvit, 'large', lambda x: False)
    monkeypatch.setattr(repvit.ConvBN, 'merged', None)  # would fail if it were called
    ours, plain = plain_twin('m0_6', norm_eval=True)
    for network in (ours.train(), plain.eval()):
        backward(network(images()))
    assert_same_gradients(ours, plain, 1e-10)


@every_arch
def test_training_with_live_batch_norms_is_that_of_the_plain_form(arch, plain_twin):
    ours, plain = plain_twin(arch)
    features, expected = (network.train()(images()) for network in (ours, plain))
    assert_close(features, expected, 1e-8)
    backward(features)
    backward(expected)
    assert_same_gradients(ours, plain, 1e-7)
    statistics = convert(plain.state_dict(), to='repvit_dense')
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, statistics[name])


def test_mmcv_fuse_conv_bn_is_silently_wrong_on_the_plain_form_where_ours_is_right(plain_twin):
    ours, plain = plain_twin('m0_6')
    with torch.no_grad():
        expected = plain.eval()(images())
        fused = reparameterize_model(ours.eval())(images())
        wrong = fuse_conv_bn(plain)(images())
    assert_close(fused, expected, 1e-10)
    assert all((a - b).abs().max() > 0.01 * b.abs().max() for a, b in zip(wrong, expected, strict=True))


def test_mmcv_fuse_conv_bn_does_our_backbone_no_harm(tiny):
    model = tiny().eval()
    expected = model(images(dtype=torch.float32))
    fused = fuse_conv_bn(model)
    assert_close(fused(images(dtype=torch.float32)), expected, 1e-5)
    assert_close(fused.eval()(images(dtype=torch.float32)), expected, 1e-5)


# --- Shapes and gradients


@every_arch
def test_every_variant_trains(arch):
    model = RepViT(arch).train()
    backward(model(images(dtype=torch.float32)))
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients_of(model))


@every_arch
@pytest.mark.parametrize('size', [(33, 47), (32, 32), (65, 100)])
def test_odd_sizes_are_rounded_up(arch, size):
    with torch.device('meta'):
        model, x = RepViT(arch).eval(), torch.empty(1, 3, *size)
    expected = [
        (1, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for channels, stride in zip(ARCHS[arch]['embed_dims'], (4, 8, 16, 32), strict=True)
    ]
    assert [tuple(feature.shape) for feature in model(x)] == expected


@pytest.mark.parametrize('size', [(33, 47), (32, 32), (65, 100), (1, 1)])
def test_odd_sizes_are_fused_exactly(tiny, size):
    model, x = tiny().eval(), images(size, dtype=torch.float32)
    assert_close(reparameterize_model(model)(x), model(x), 1e-5)


@every_tap
@pytest.mark.parametrize('out_indices', [c for n in range(1, 5) for c in combinations(range(4), n)], ids=str)
def test_no_parameter_is_without_gradient(tiny, out_indices, tap):
    model = tiny(out_indices=out_indices, tap=tap).train()
    backward(model(images(dtype=torch.float32)))
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without, 'distributed training stops at parameters that get no gradient'


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 3), (2,)], ids=str)
def test_out_channels_and_strides_describe_the_outputs(tiny, out_indices):
    model = tiny(out_indices=out_indices).eval()
    features = model(images(dtype=torch.float32))
    assert [feature.shape[1] for feature in features] == list(model.out_channels)
    assert [64 // feature.shape[-1] for feature in features] == list(model.out_strides)


@every_tap
def test_out_indices_select_from_all_features(tiny, tap):
    x = images(dtype=torch.float32)
    every = tiny(tap=tap).eval()
    some = tiny(tap=tap, out_indices=(0, 2)).eval()
    some.load_state_dict(every.state_dict(), strict=False)
    assert_close(some(x), every(x)[::2], 1e-6)


# --- Freezing


def modes(model):
    return {name: module.training for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


@pytest.mark.parametrize('frozen_stages', range(-1, 5))
def test_frozen_stages_stay_frozen_after_train(tiny, frozen_stages):
    model = tiny(frozen_stages=frozen_stages)
    parts = ('stem', 'stages.0', 'stages.1', 'stages.2', 'stages.3')[: frozen_stages + 1]
    model.eval().train()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(parts), name
    for name, module in model.named_modules():
        if name.startswith(('stem', 'stages.')):
            assert module.training != name.startswith(parts), name


@pytest.mark.parametrize('frozen_stages', [0, 2])
def test_frozen_stages_keep_their_statistics(tiny, frozen_stages):
    model = tiny(frozen_stages=frozen_stages).train()
    before = copy.deepcopy(model.state_dict())
    model(images(dtype=torch.float32))
    parts = ('stem', 'stages.0', 'stages.1', 'stages.2', 'stages.3')[: frozen_stages + 1]
    for name, _ in model.named_buffers():
        assert torch.equal(before[name], model.state_dict()[name]) == name.startswith(parts), name


def test_a_frozen_part_leaves_the_gradients_of_the_others_alone(tiny):
    free, partly = tiny(norm_eval=True).train(), tiny(norm_eval=True, frozen_stages=2).train()
    for model in (free, partly):
        backward(model(images(dtype=torch.float32)))
    expected = dict(free.named_parameters())
    trained = {name: parameter for name, parameter in partly.named_parameters() if parameter.grad is not None}
    assert all(name.startswith(('stages.2', 'stages.3')) for name in trained)
    assert_close([p.grad for p in trained.values()], [expected[name].grad for name in trained], 1e-5)


def test_norm_eval_keeps_batch_norms_in_eval_and_nothing_else(tiny):
    model = tiny(norm_eval=True).eval().train()
    assert not any(modes(model).values())
    assert all(module.training for module in model.modules() if not isinstance(module, _BatchNorm))


def test_without_norm_eval_batch_norms_train(tiny):
    assert all(modes(tiny().eval().train()).values())


def test_norm_eval_keeps_statistics(tiny):
    model = tiny(norm_eval=True).train()
    before = copy.deepcopy(model.state_dict())
    backward(model(images(dtype=torch.float32)))
    torch.testing.assert_close(dict(model.named_buffers()), {n: before[n] for n, _ in model.named_buffers()})


@pytest.mark.parametrize(
    ('training', 'tracks', 'expected'), [(False, True, True), (True, True, False), (False, False, False)]
)
def test_a_batch_norm_is_frozen_in_eval_mode_if_it_has_statistics(training, tracks, expected):
    assert frozen(nn.BatchNorm2d(4, track_running_stats=tracks).train(training)) == expected


def test_batch_norms_without_statistics_are_live_in_eval_mode(tiny):
    model = tiny()
    for bn in model.modules():
        if isinstance(bn, _BatchNorm):
            bn.track_running_stats = False
            bn.running_mean = bn.running_var = bn.num_batches_tracked = None
    x = images(dtype=torch.float32)
    assert_close(model.eval()(x), model.train()(x), 1e-6)


# --- Training options


@pytest.mark.parametrize('norm_eval', [True, False])
@pytest.mark.parametrize('frozen_stages', [-1, 0, 2])
def test_checkpointing_changes_memory_only(tiny, norm_eval, frozen_stages):
    models = [
        tiny(with_cp=with_cp, norm_eval=norm_eval, frozen_stages=frozen_stages, drop_path_rate=0.5).train()
        for with_cp in (False, True)
    ]
    for model in models:
        torch.manual_seed(3)  # the same paths dropped
        for _ in range(2):  # the second step shows what the first one left behind
            backward(model(images(dtype=torch.float32)))
    (expected, model) = models
    trained = [p.grad for p in model.parameters() if p.requires_grad]
    assert_close(trained, [p.grad for p in expected.parameters() if p.requires_grad], 1e-5)
    torch.testing.assert_close(dict(model.named_buffers()), dict(expected.named_buffers()))


def saved(network, size):
    """Bytes that a forward keeps for its backward."""
    return saved_bytes(network, lambda: network(images(size)))


def test_checkpointing_stores_less(tiny):
    checkpointed, every = (tiny(with_cp=with_cp).double().train() for with_cp in (True, False))
    assert saved(checkpointed, 128) < 0.5 * saved(every, 128)


def test_training_with_frozen_batch_norms_stores_55_percent_of_the_plain_form_at_most(plain_twin):
    ours, plain = plain_twin('m0_6', norm_eval=True)
    assert saved(ours.train(), 512) < 0.55 * saved(plain.eval(), 512)


def test_drop_path_drops_in_training_only(tiny):
    model, plain = tiny(drop_path_rate=0.9), tiny()
    x = images(dtype=torch.float32)
    assert_close(model.eval()(x), plain.eval()(x), 1e-6)
    for network in (model, plain):
        network.norm_eval = True
    assert not torch.allclose(model.train()(x)[-1], plain.train()(x)[-1], rtol=0.01)


def test_drop_path_rate_grows_to_its_maximum(tiny):
    model = tiny(drop_path_rate=0.3)
    rates = [m.drop_path.p for m in model.modules() if getattr(getattr(m, 'drop_path', None), 'p', None)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)
    assert len(rates) == len(set(rates)) == sum((1, 2, 1, 2)) + 2 * 3 - 1  # the first one's rate is 0


def test_sync_batch_norm_is_merged_and_fused(tiny):
    synced, expected = tiny(norm_cfg={'type': 'SyncBN'}).eval(), tiny().eval()
    assert any(isinstance(module, nn.SyncBatchNorm) for module in synced.modules())
    synced.load_state_dict(expected.state_dict())
    x = images(dtype=torch.float32)
    assert_close(synced(x), expected(x), 1e-6)
    assert_close(reparameterize_model(synced)(x), expected(x), 1e-5)


def test_sync_batch_norm_trains_on_a_cpu_with_norm_eval(tiny):
    synced, expected = (tiny(norm_cfg={'type': name}, norm_eval=True).train() for name in ('SyncBN', 'BN'))
    synced.load_state_dict(expected.state_dict())
    for model in (synced, expected):
        backward(model(images(dtype=torch.float32)))
    assert_close(gradients_of(synced), gradients_of(expected), 1e-6)


def test_norm_cfg_reaches_every_batch_norm(tiny):
    model = tiny(norm_cfg={'type': 'BN', 'eps': 1e-3, 'momentum': 0.02, 'requires_grad': False})
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    assert {(bn.eps, bn.momentum, bn.weight.requires_grad) for bn in norms} == {(1e-3, 0.02, False)}


@pytest.mark.parametrize('norm_eval', [True, False])
def test_bfloat16_autocast_is_close(tiny, norm_eval):
    model, expected = (tiny(norm_eval=norm_eval).train() for _ in range(2))
    x = images(128, dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        features = model(x)
        backward(features)
    full = expected(x)
    backward(full)
    assert all(feature.dtype == torch.bfloat16 for feature in features)
    assert_close([feature.float() for feature in features], full, 0.05)
    low, high = (torch.cat([g.flatten() for g in gradients_of(network)]) for network in (model, expected))
    assert (low - high).norm() < 0.1 * high.norm()


@pytest.mark.parametrize('form', ['training', 'deploy'])
def test_features_leave_channels_last_whatever_the_layout_of_the_image(tiny, form):
    x = images(dtype=torch.float32)
    assert x.is_contiguous()
    features = tiny(deploy=form == 'deploy')(x)
    assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in features)


@pytest.mark.parametrize('form', ['training', 'eval', 'deploy'])
def test_channels_last_changes_nothing(tiny, form):
    model = tiny()
    model = model.train() if form == 'training' else model.eval()
    if form == 'deploy':
        model = reparameterize_model(model)
    x = images(dtype=torch.float32)
    expected = model(x)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    features = last(x.to(memory_format=torch.channels_last))
    assert_close(features, expected, 1e-5)
    assert features[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('form', ['training', 'eval', 'deploy'])
def test_torch_compile_captures_the_whole_graph(tiny, form):
    model = tiny(norm_eval=True)
    model = model.train() if form == 'training' else model.eval()
    if form == 'deploy':
        model.switch_to_deploy()
    x = images(dtype=torch.float32)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    assert_close(compiled(x), model(x), 1e-5)


@pytest.mark.parametrize('form', ['eval', 'deploy'])
def test_an_exported_graph_holds_plain_convolutions(tiny, form):
    model, x = tiny().eval(), images(dtype=torch.float32)
    program = torch.export.export(reparameterize_model(model) if form == 'deploy' else model, (x,))
    operations = [node for node in program.graph.nodes if 'conv2d' in str(node.target)]
    assert {str(node.target) for node in operations} == {'aten.conv2d.default'}
    assert_close(program.module()(x), model(x), 1e-5)


# --- Life of a model: copies, files, deploy form


@pytest.mark.parametrize('deploy', [False, True])
def test_copies_and_pickles_equal_the_model(tiny, deploy):
    model = tiny(drop_path_rate=0.1, deploy=deploy).eval()
    x = images(dtype=torch.float32)
    expected = model(x)
    assert_close(copy.deepcopy(model)(x), expected, 1e-6)
    assert_close(pickle.loads(pickle.dumps(model))(x), expected, 1e-6)


def test_switch_to_deploy_is_in_place_and_idempotent(tiny):
    model, x = tiny().eval(), images(dtype=torch.float32)
    expected = model(x)
    assert not model.deploy
    model.switch_to_deploy()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.switch_to_deploy()
    assert model.deploy
    assert not any(isinstance(module, _BatchNorm) for module in model.modules())
    torch.testing.assert_close(model.state_dict(), weights)
    assert_close(model(x), expected, 1e-5)


def test_switch_to_deploy_in_training_mode_is_an_error(tiny):
    model = tiny().train()
    with pytest.raises(RuntimeError, match='training mode'):
        model.switch_to_deploy()
    assert not model.deploy


def test_reparameterize_model_leaves_the_original_alone(tiny):
    model, x = tiny().eval(), images(dtype=torch.float32)
    expected = model(x)
    fused = reparameterize_model(model)
    assert fused.deploy
    assert not model.deploy
    for parameter in fused.parameters():
        nn.init.zeros_(parameter)
    assert_close(model(x), expected, 1e-7)


def test_reparameterize_model_leaves_the_batch_norms_of_a_neck_alone(tiny, randomize_bn):
    neck = randomize_bn(nn.Sequential(nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16)))
    detector = nn.ModuleDict({'backbone': tiny(), 'neck': neck}).eval()
    fused = reparameterize_model(detector)
    assert fused['backbone'].deploy
    torch.testing.assert_close(fused['neck'].state_dict(), neck.state_dict())
    x = images(dtype=torch.float32)
    expected = neck(detector['backbone'](x)[-1])
    assert_close([fused['neck'](fused['backbone'](x)[-1])], [expected], 1e-5)


@every_tap
def test_a_deploy_backbone_loads_a_fused_state_dict_strictly(tiny, tap):
    model = tiny(tap=tap).eval()
    deploy = tiny(tap=tap, deploy=True)
    assert deploy.deploy
    assert deploy.training, 'like any fresh module'
    deploy.eval()
    deploy.load_state_dict(reparameterize_model(model).state_dict())
    x = images(dtype=torch.float32)
    assert_close(deploy(x), model(x), 1e-5)


def test_a_deploy_backbone_refuses_a_training_state_dict(tiny):
    with pytest.raises(RuntimeError, match='Unexpected key'):
        tiny(deploy=True).load_state_dict(tiny().state_dict())


@pytest.mark.parametrize('frozen_stages', [-1, 2])
def test_a_deploy_backbone_can_be_trained_on(tiny, frozen_stages):
    model = tiny(deploy=True, frozen_stages=frozen_stages).train()
    backward(model(images(dtype=torch.float32)))
    parts = ('stem', 'stages.0', 'stages.1', 'stages.2', 'stages.3')[: frozen_stages + 1]
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(parts), name


def test_a_fresh_block_starts_as_the_identity(tiny_arch):
    block = RepViT(tiny_arch).stages[0].blocks[0]
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(block.channel_mixer.eval()(x), x)


# --- Construction


def scopes():
    import mmdet.registry
    import mmseg.registry

    return {'mmengine': MODELS, 'mmdet': mmdet.registry.MODELS, 'mmseg': mmseg.registry.MODELS}


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg'])
def test_every_registry_builds_it(tiny_arch, scope):
    model = scopes()[scope].build({'type': 'RepViT', 'arch': tiny_arch, 'out_indices': (1, 3)})
    assert type(model) is RepViT
    assert model.out_channels == (16, 32)


def test_arguments_of_a_config_are_left_as_they_are(tiny_arch):
    init_cfg, norm_cfg = {'type': 'Pretrained', 'checkpoint': 'somewhere.pth'}, {'type': 'BN'}
    RepViT(tiny_arch, init_cfg=init_cfg, norm_cfg=norm_cfg)
    assert init_cfg == {'type': 'Pretrained', 'checkpoint': 'somewhere.pth'}
    assert norm_cfg == {'type': 'BN'}


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


@pytest.mark.parametrize('out_indices', [(), (4,), (-1,), (1, 0), (1, 1), (0, 1.5)], ids=str)
def test_wrong_out_indices_are_refused(tiny_arch, out_indices):
    with pytest.raises(ValueError, match='out_indices'):
        RepViT(tiny_arch, out_indices=out_indices)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'tap': 'stage'}, "unknown tap 'stage'; known: stage_body, stage_end"),
        ({'frozen_stages': 5}, 'frozen_stages must be -1'),
        ({'frozen_stages': -2}, 'frozen_stages must be -1'),
        ({'norm_cfg': {'type': 'GN', 'num_groups': 2}}, "got 'GN'"),
        ({'norm_cfg': {'type': 'IN'}}, "got 'IN'"),
        ({'norm_cfg': {'type': 'NoSuchNorm'}}, "got 'NoSuchNorm'"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(tiny_arch, arguments, message):
    with pytest.raises(ValueError, match=message):
        RepViT(tiny_arch, **arguments)
