"""Networks of timm as backbones: equal to timm at its image size, and consistent with it at others."""

import copy

import pytest
import timm
import torch
from timm.models import efficientformer
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense import catalogue
from repvit_dense.backbones import _timm_adapted as timm_adapted
from repvit_dense.backbones._timm_fused import FUSABLE
from repvit_dense.backbones.timm_features import DenseTimm
from repvit_dense.backbones.vit import DenseViT
from repvit_dense.reparam import reparameterize_model


@torch.no_grad()
def randomize(net):
    """Draw layer scales, tables and norms, which start at neutral values."""
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1 or any(part in name for part in ('bias', 'scale', 'pos')):
            parameter.uniform_(0.2, 1.0)
    for bn in net.modules():
        if isinstance(bn, _BatchNorm):
            bn.running_mean.uniform_(-0.2, 0.2)
            bn.running_var.uniform_(0.5, 1.5)
    net.eval()  # timm's `train` of some networks returns None
    return net


def timms(net, name, **kwargs):
    """Return timm's unchanged network with the weights of the network of a backbone."""
    whole = timm.create_model(name, num_classes=0, **kwargs).eval()
    missing, unexpected = whole.load_state_dict(net.state_dict(), strict=False)
    assert unexpected == []
    assert all(key.startswith(('norm.', 'conv_head', 'bn2', 'final_conv', 'norm_head')) for key in missing)
    return whole


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * b.abs().max().item())


# --- equal to timm ---

FUSED = [
    *('swiftformer_xs', 'efficientvit_b0', 'fasternet_t0', 'ghostnetv3_100', 'repghostnet_050', 'starnet_s1'),
    'hgnetv2_b0',
]
PLAIN = ['mobilenetv4_hybrid_medium', 'edgenext_small']


@torch.no_grad()
@pytest.mark.parametrize('name', [*FUSED, *PLAIN])
def test_features_equal_those_of_timms_network_of_features(name):
    """Compare with `features_only`, which taps the network in another way and gives its parameters other names."""
    ours = randomize(DenseTimm(name))
    theirs = timm.create_model(name, features_only=True).eval()
    state = ours.net.state_dict()
    assert [value.shape for value in theirs.state_dict().values()] == [value.shape for value in state.values()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    image = torch.rand(1, 3, 64, 96)
    assert_same(ours(image), theirs(image)[-4:])


@torch.no_grad()
@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('efficientformer_l1', 224),
        ('mobilenetv3_large_100', 96),
        ('mobileone_s0', 96),
        ('fastvit_sa12', 96),
        ('mobilevit_xxs', 96),
    ],
)
def test_features_at_timms_size_equal_timms(name, size):
    ours = randomize(DenseTimm(name))
    image = torch.rand(1, 3, size, size)
    whole = timms(ours.net, name)
    taps = list(range(len(whole.feature_info)))
    assert_same(ours(image), whole.forward_intermediates(image, indices=taps, intermediates_only=True)[-4:])


@torch.no_grad()
def test_strides_16_and_32_of_a_transformer_equal_timms_map_and_its_pooling():
    ours = randomize(DenseViT('vit_tiny_patch16_224', out_indices=(2, 3)))
    image = torch.rand(1, 3, 224, 224)
    whole = timms(ours.net, 'vit_tiny_patch16_224')
    (theirs,) = whole.forward_intermediates(image, indices=1, norm=True, intermediates_only=True)
    assert_same(ours(image), [theirs, F.max_pool2d(theirs, 2)])


@torch.no_grad()
def test_swin_shifts_windows_if_the_map_exceeds_one():
    """Compare with a network that timm builds for that size."""
    name = 'swin_tiny_patch4_window7_224'
    ours = randomize(DenseTimm(name))
    image = torch.rand(1, 3, 256, 256)
    theirs = timms(ours.net, name, img_size=256, window_size=7)
    assert any(block.shift_size != (0, 0) for block in theirs.layers[3].blocks)
    assert_same(ours(image), theirs.forward_intermediates(image, intermediates_only=True))


@torch.no_grad()
def test_mvitv2_at_another_size_equals_timms_with_interpolated_tables():
    ours = randomize(DenseTimm('mvitv2_tiny'))
    theirs = timm.create_model('mvitv2_tiny', num_classes=0, img_size=128).eval()
    state = theirs.state_dict() | ours.net.state_dict()
    for key, value in theirs.state_dict().items():
        if 'rel_pos' in key:
            state[key] = F.interpolate(state[key].T[None], len(value), mode='linear')[0].T
    theirs.load_state_dict(state)
    image = torch.rand(1, 3, 128, 128)
    assert_same(ours(image), theirs.forward_intermediates(image, intermediates_only=True))


def interpolated(table, trained, size):
    table = table.detach().reshape(1, -1, *trained)
    return F.interpolate(table, size, mode='bicubic', align_corners=True).flatten(2)[0]


@torch.no_grad()
def test_efficientformerv2_at_another_size_equals_timms_with_interpolated_tables():
    size = (64, 128)
    ours = randomize(DenseTimm('efficientformerv2_s0'))
    theirs = timm.create_model('efficientformerv2_s0', num_classes=0, img_size=size).eval()
    state = theirs.state_dict() | ours.net.state_dict()
    tables = 0
    for path, module in theirs.named_modules():
        if hasattr(module, 'attention_biases'):
            trained = ours.net.get_submodule(path).resolution
            assert trained != module.resolution
            key = f'{path}.attention_biases'
            state[key] = interpolated(state[key], trained, module.resolution)
            tables += 1
    assert tables == 5
    theirs.load_state_dict(state)
    image = torch.rand(1, 3, *size)
    assert_same(ours(image), theirs.forward_intermediates(image, intermediates_only=True))


@torch.no_grad()
def test_efficientformers_attention_at_another_size_equals_timms_with_an_interpolated_table():
    ours = randomize(timm_adapted.adapt(efficientformer.Attention(32, 8, 4)))
    theirs = efficientformer.Attention(32, 8, 4, resolution=(3, 5))
    theirs.eval()
    table = interpolated(ours.attention_biases, (7, 7), (3, 5))
    state = ours.state_dict() | {'attention_biases': table, 'attention_bias_idxs': theirs.attention_bias_idxs}
    theirs.load_state_dict(state)
    tokens = torch.rand(2, 15, 32)
    assert_same([ours(tokens, (3, 5))], [theirs(tokens)])


# --- position biases at any size ---


def attention():
    return randomize(timm_adapted.adapt(efficientformer.Attention(32, 8, 4)))


@torch.no_grad()
def test_biases_are_cached_for_the_next_image_and_follow_the_weights():
    ours = attention()
    first = ours.biases((3, 5), (7, 7))
    assert ours.biases((3, 5), (7, 7)) is first
    ours.load_state_dict({key: 2 * value for key, value in ours.state_dict().items()})
    torch.testing.assert_close(ours.biases((3, 5), (7, 7)), 2 * first)
    assert ours.biases((4, 4), (7, 7)).shape == (4, 16, 16)
    assert len(ours.attention_bias_cache) == 1


def test_biases_get_gradients_at_another_size():
    ours = attention()
    with torch.no_grad():
        ours.biases((3, 5), (7, 7))
    ours.biases((3, 5), (7, 7)).sum().backward()
    assert ours.attention_biases.grad.abs().sum() > 0


# --- options ---


@pytest.mark.parametrize(
    ('name', 'out_indices'),
    [
        *[(name, (1, 2)) for name in ('swin_tiny', 'vit_tiny', 'mobilevit_xxs', 'shufflenetv2')],
        *[(name, (3,)) for name in ('resnet18', 'vit_tiny', 'pvt_tiny')],
    ],
)
def test_fewer_outputs_equal_those_of_the_whole_network_and_use_every_parameter(name, out_indices, build_row):
    entry = catalogue.find(name)
    whole, part = build_row(name).eval(), build_row(name, out_indices=out_indices).eval()
    state = whole.state_dict()
    for holder in ('out_norms', 'pyramid'):
        for i, stage in enumerate(out_indices):
            tensors = {k: v for k, v in state.items() if k.startswith(f'{holder}.{stage}.')}
            state |= {k.replace(f'{holder}.{stage}.', f'{holder}.{i}.'): v for k, v in tensors.items()}
    part.load_state_dict({key: state[key] for key in part.state_dict()})
    image = torch.rand(1, 3, 64, 96)
    outs, expected = part(image), whole(image)
    assert_same(outs, [expected[i] for i in out_indices])
    assert part.out_channels == tuple(entry.channels[i] for i in out_indices)
    assert part.out_strides == tuple(entry.strides[i] for i in out_indices)
    sum(out.square().mean() for out in outs).backward()
    assert [key for key, p in part.named_parameters() if p.grad is None] == []


FROZEN = {
    'resnet18': ['net.conv1.', 'net.bn1.', 'net.layer1.', 'net.layer2.'],
    'mobilenetv3_large': ['net.conv_stem.', 'net.bn1.', 'net.blocks.0.', 'net.blocks.1.', 'net.blocks.2.'],
    'swin_tiny': ['net.patch_embed.', 'net.layers.0.', 'net.layers.1.'],
    'mvitv2_tiny': ['net.patch_embed.', 'net.stages.0.', 'net.stages.1.'],
    'hgnetv2_b0': ['net.stem.', 'net.stages.0.', 'net.stages.1.'],
    'vit_tiny': ['net.patch_embed.', 'net.cls_token', 'net.pos_embed', *(f'net.blocks.{i}.' for i in range(6))],
    'shufflenetv2': ['net.conv1.', 'net.stage2.'],
    'pvt_tiny': ['net.layers.0.', 'net.layers.1.'],
}


@pytest.mark.parametrize('name', FROZEN)
def test_frozen_stages_do_not_train(name, build_row):
    net = build_row(name, frozen_stages=2).train()
    frozen = {key for key, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {key for key, _ in net.named_parameters() if key.startswith(tuple(FROZEN[name]))}
    inside = [module for path, module in net.named_modules() if f'{path}.'.startswith(tuple(FROZEN[name]))]
    assert not any(module.training for module in inside)
    assert net.training
    sum(out.square().mean() for out in net(torch.rand(2, 3, 64, 64))).backward()
    assert {key for key, p in net.named_parameters() if p.grad is None} == frozen


@pytest.mark.parametrize(('stages', 'trains'), [(-1, True), (0, False)])
def test_the_stem_is_frozen_from_stage_zero_on(stages, trains):
    net = DenseTimm('resnet18', frozen_stages=stages)
    assert net.net.conv1.weight.requires_grad is trains
    assert net.net.layer1[0].conv1.weight.requires_grad


@pytest.mark.parametrize('name', ['resnet18', 'efficientformerv2_s0'])
def test_norm_eval_keeps_running_statistics(name):
    net = DenseTimm(name, norm_eval=True).train()
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    before = [bn.running_mean.clone() for bn in norms]
    net(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(bn.running_mean, old) for bn, old in zip(norms, before, strict=True))
    assert all(bn.weight.requires_grad for bn in norms)


RECOMPUTED = ['resnet18', 'shufflenetv2', 'pvt_tiny', 'vit_tiny', 'mobile_former_26m', 'efficientvit_b0']


@pytest.mark.parametrize('name', RECOMPUTED)
def test_recomputing_gives_the_same_gradients(name, build_row):
    storing, recomputing = (build_row(name, norm_eval=True, with_cp=with_cp).train() for with_cp in (False, True))
    recomputing.load_state_dict(storing.state_dict())
    image = torch.rand(2, 3, 64, 64)
    saved = []
    for net in (storing, recomputing):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            outs = net(image)
        sum(out.square().mean() for out in outs).backward()
        saved.append(sum(sizes))
    assert saved[1] < saved[0]
    for (key, a), b in zip(storing.named_parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5 * a.grad.abs().max().item() + 1e-12, msg=key)


def test_stochastic_depth_reaches_timm():
    def rates(net):
        return [module.drop_prob for module in net.modules() if type(module).__name__ == 'DropPath']

    assert rates(DenseTimm('swin_tiny_patch4_window7_224')) == []
    assert max(rates(DenseTimm('swin_tiny_patch4_window7_224', drop_path_rate=0.2))) == pytest.approx(0.2)


@torch.no_grad()
@pytest.mark.parametrize(('kind', 'axes'), [('LN', (1,)), ('GN', (1, 2, 3))])
def test_output_norms_normalise(kind, axes):
    outs = DenseTimm('resnet18', out_norm=kind).eval()(torch.rand(2, 3, 64, 64))
    for out in outs:
        assert out.mean(axes).abs().max() < 1e-4
        torch.testing.assert_close(out.var(axes, correction=0), torch.ones_like(out.mean(axes)), rtol=0.1, atol=0)


@pytest.mark.parametrize('name', ['efficientformerv2_s0', 'swin_tiny'])
def test_a_copy_is_independent(name, build_row):
    net = build_row(name).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = net(image)
        other = copy.deepcopy(net)
        assert_same(other(image), before)
        for parameter in other.parameters():
            parameter.zero_()
        assert_same(net(image), before)


def test_building_on_the_meta_device_takes_no_memory():
    with torch.device('meta'):
        net = DenseTimm('mobileone_s0')
    assert net.out_channels == (48, 128, 256, 1024)
    assert all(parameter.is_meta for parameter in net.parameters())


@torch.no_grad()
@pytest.mark.parametrize('name', ['mobilenetv2_100', 'efficientformerv2_s0'])
def test_synchronised_norms_keep_their_activations(name):
    """Check the conversion of `sync_bn='torch'`, which alone loses them."""
    net = randomize(DenseTimm(name)).double()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    expected = net(image)
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net).eval()
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    assert_same(converted(image), expected)
    assert_same(reparameterize_model(converted)(image), expected)


@torch.no_grad()
@pytest.mark.parametrize('name', ['swin_tiny', 'mvitv2_tiny', 'efficientformerv2_s0'])
def test_attention_can_be_traced(name, build_row):
    net = build_row(name).eval()
    image = torch.rand(1, 3, 64, 96)
    traced = torch.jit.trace(net, torch.rand(1, 3, 64, 96), check_trace=False)
    assert_same(traced(image), net(image))


# --- refusals ---


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'model_name': 'resnet81'}, r"timm has no network 'resnet81'; did you mean 'resnet"),
        ({'model_name': 'vit_tiny_patch16_224'}, 'has features of strides 16; a backbone needs'),
        ({'model_name': 'resnet18', 'out_indices': (1, 0)}, r'ascending stages out of 0 to 3, got \(1, 0\)'),
        ({'model_name': 'resnet18', 'out_indices': ()}, 'out_indices'),
        ({'model_name': 'resnet18', 'out_indices': (4,)}, 'out_indices'),
        ({'model_name': 'resnet18', 'frozen_stages': 5}, 'frozen_stages must be -1 .* to 4'),
        ({'model_name': 'resnet18', 'width': 2}, "timm's resnet18: .*unexpected keyword argument 'width'"),
        ({'model_name': 'repvit_m0_9', 'drop_path_rate': 0.1}, "timm's repvit_m0_9: .*'drop_path_rate'"),
        ({'model_name': 'resnet18', 'out_norm': 'BN'}, "out_norm must be None, 'LN' or 'GN', got 'BN'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DenseTimm(**arguments)


def test_only_a_plain_transformer_gets_a_pyramid():
    with pytest.raises(ValueError, match="timm's resnet18 is no plain transformer on patches of 16 pixels"):
        DenseViT('resnet18')


# --- fusing ---


@torch.no_grad()
@pytest.mark.parametrize('name', ['mobileone_s0', 'fastvit_t8', *FUSED])
def test_fused_equals_unfused(name):
    net = randomize(DenseTimm(name)).double()
    fused = reparameterize_model(net)
    assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in net.parameters())
    assert any(isinstance(module, FUSABLE) for module in net.modules())
    assert not any(isinstance(module, FUSABLE) for module in fused.modules())
    image = torch.rand(1, 3, 70, 64, dtype=torch.float64)
    for a, b in zip(fused(image), net(image), strict=True):
        assert b.abs().max() > 1e-3
        assert (a - b).abs().max() / b.abs().max() < 1e-8
    again = reparameterize_model(fused)
    assert_same(again(image), fused(image))


@torch.no_grad()
@pytest.mark.parametrize('name', ['resnet18', 'pvt_tiny', 'vit_tiny', 'shufflenetv2'])
def test_fusing_does_not_change_other_networks(name, build_row):
    net = build_row(name).eval()
    fused = reparameterize_model(net)
    assert fused.state_dict().keys() == net.state_dict().keys()
    image = torch.rand(1, 3, 64, 64)
    assert_same(fused(image), net(image))


@torch.no_grad()
def test_a_network_that_timm_fuses_in_place_is_fused_block_by_block():
    net = randomize(DenseTimm('repvit_m0_9'))
    fused = reparameterize_model(net)
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())
    assert any(isinstance(module, _BatchNorm) for module in net.modules())
    image = torch.rand(1, 3, 64, 64)
    for a, b in zip(fused(image), net(image), strict=True):
        assert (a - b).abs().max() / b.abs().max() < 1e-3
