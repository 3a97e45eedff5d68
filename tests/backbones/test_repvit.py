"""RepViT against its published numbers, its reference features and timm's implementation."""

import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.cnn.utils.fuse_conv_bn import fuse_conv_bn
from torch.utils.flop_counter import FlopCounterMode

from repvit_dense.backbones import layers
from repvit_dense.backbones.repvit import ARCHS, TAPS, RepViT
from repvit_dense.checkpoints.layouts import convert
from repvit_dense.reparam import reparameterize_model
from tests.backbones.comparing import assert_close, assert_same_gradients, backward, gradients_of, images

GOLDEN = Path(__file__).parents[1] / 'golden' / 'repvit_reference.npz'
GOLDEN_TAPS = {'stage_body': 'before_last_block', 'stage_end': 'stage_end'}  # tap: its name in the file

# Published: parameters in training and deploy form, GMACs at 224 pixels in deploy form.
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


def golden_weights(official):
    """Return the weights that the reference features were computed with: a function of each official key."""
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
    model, plain = (network.to(dtype).eval() for network in plain_twin(arch))
    x = images(dtype=dtype)
    with torch.no_grad():
        expected = plain(x)
        assert_close(model(x), expected, tolerance)
        assert_close(reparameterize_model(model)(x), expected, tolerance)


@every_arch
def test_stage_end_is_the_output_of_the_block_before_downsampling(arch, plain_twin):
    model, plain = plain_twin(arch, tap='stage_end')
    expected = {}
    for i in range(3):
        block = plain[f'stages_{i + 1}'].downsample.pre_block
        block.register_forward_hook(lambda block, args, output, i=i: expected.update({i: output}))
    x = images(dtype=torch.float64)
    with torch.no_grad():
        last = plain.eval()(x)[-1]
        features = model.eval()(x)
    assert_close(features, [expected[0], expected[1], expected[2], last], 1e-10)


# --- gradients ---


@every_arch
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_gradients_with_frozen_batch_norms_are_those_of_the_plain_form(arch, dtype, tolerance, plain_twin):
    model, plain = (network.to(dtype) for network in plain_twin(arch, norm_eval=True))
    for network in (model.train(), plain.eval()):
        backward(network(images(dtype=dtype)))
    assert_same_gradients(model, plain, tolerance)


def test_small_activations_on_a_gpu_go_through_every_branch_and_have_the_same_gradients(plain_twin, monkeypatch):
    monkeypatch.setattr(layers, 'is_large', lambda x: False)
    monkeypatch.setattr(layers.ConvBN, 'fused_kernel', None)  # fails if it is called
    model, plain = plain_twin('m0_6', norm_eval=True)
    for network in (model.train(), plain.eval()):
        backward(network(images(dtype=torch.float64)))
    assert_same_gradients(model, plain, 1e-10)


@every_arch
def test_training_with_live_batch_norms_is_that_of_the_plain_form(arch, plain_twin):
    model, plain = plain_twin(arch)
    features, expected = (network.train()(images(dtype=torch.float64)) for network in (model, plain))
    assert_close(features, expected, 1e-8)
    backward(features)
    backward(expected)
    assert_same_gradients(model, plain, 1e-7)
    statistics = convert(plain.state_dict(), to='repvit_dense')
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, statistics[name])


@every_arch
def test_every_variant_trains(arch):
    model = RepViT(arch).train()
    backward(model(images()))
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients_of(model))


# --- mmcv's fuse_conv_bn, which mmdet and mmseg call ---


def test_fuse_conv_bn_is_silently_wrong_on_the_plain_form_and_reparameterize_model_is_right(plain_twin):
    model, plain = plain_twin('m0_6')
    x = images(dtype=torch.float64)
    with torch.no_grad():
        expected = plain.eval()(x)
        fused = reparameterize_model(model.eval())(x)
        wrong = fuse_conv_bn(plain)(x)
    assert_close(fused, expected, 1e-10)
    assert all((a - b).abs().max() > 0.01 * b.abs().max() for a, b in zip(wrong, expected, strict=True))


def test_fuse_conv_bn_keeps_the_features_of_repvit(build_tiny):
    model = build_tiny().eval()
    expected = model(images())
    fused = fuse_conv_bn(model)
    assert_close(fused(images()), expected, 1e-5)
    assert_close(fused.eval()(images()), expected, 1e-5)
