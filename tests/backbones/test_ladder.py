"""The ladder: its ends are MobileNetV3-L and RepViT-M0.9, and each rung changes only its own switches."""

import copy
import math

import pytest
import timm
import torch
from mmengine.registry import MODELS
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from repvit_dense import catalogue, config
from repvit_dense.backbones import RepViT, ladder
from repvit_dense.backbones.ladder import LAST, MOBILENETV3_L, RUNGS, STEPS, RepViTLadder, plan
from repvit_dense.backbones.layers import ConvBN, RepDWConv, SqueezeExcite
from repvit_dense.benchmark import random_models
from repvit_dense.checkpoints.layouts import convert
from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.reparam import reparameterize_model
from tests.backbones.comparing import backward, gradients_of, images

every_rung = pytest.mark.parametrize('rung', range(LAST + 1))
# One rung of each kind of block: MobileNetV3-L's, separate mixers with transitions, downsampling with 5x5 and SE.
some_rungs = pytest.mark.parametrize('rung', [0, 1, 4])


def gradients(net, image):
    net.zero_grad()
    backward(net(image))
    return gradients_of(net)


def cost(rung):
    """Return the number of parameters, and of multiplications at 224x224."""
    with torch.device('meta'):
        net, image = RepViTLadder(rung).eval(), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        net(image)
    return sum(p.numel() for p in net.parameters()), counter.get_total_flops() / 2


# --- the table ---


def test_the_table_has_the_numbers_of_the_paper():
    assert [step.top1 for step in STEPS] == [71.5, 68.3, 73.5, 73.9, 75.4, 74.8, 76.9, 76.9, 77.4]
    assert [step.ms for step in STEPS] == [1.01, 0.81, 0.89, 0.86, 0.96, 0.77, 0.91, 0.89, 0.87]
    assert [step.section for step in STEPS] == sorted(step.section for step in STEPS)


def test_every_switch_is_set_by_one_step_and_only_two_steps_set_none():
    changed = [name for step in STEPS for name in step.change]
    assert sorted(changed) == sorted(ladder.Switches._fields)
    assert [number for number, step in enumerate(STEPS) if not step.change] == [0, 5]


def test_a_rung_differs_from_the_one_below_in_its_own_switches():
    for below, step, rung in zip(RUNGS, STEPS[1:], RUNGS[1:], strict=False):
        assert {name for name in rung._fields if getattr(rung, name) != getattr(below, name)} == set(step.change)


def test_every_step_but_the_classifier_changes_the_cost():
    costs = [cost(rung) for rung in range(LAST + 1)]
    assert costs[4] == costs[5]
    for rung in (1, 2, 3, 4, 6, 7, 8):
        assert costs[rung][0] != costs[rung - 1][0] and costs[rung][1] != costs[rung - 1][1], rung


def test_expansion_ratios_of_mobilenetv3_are_those_of_the_paper():
    """Check that they are 2.3 to 6, and mostly 6 in the last two stages."""
    ratios = [[spec.hidden / spec.channels for spec in (stage.down, *stage.blocks)] for stage in plan(RUNGS[0])]
    assert (min(map(min, ratios)), max(map(max, ratios))) == (2.3, 6)
    assert sum(ratio == 6 for ratio in ratios[2] + ratios[3]) == 6


@pytest.mark.parametrize('switches', [RUNGS[1]._replace(expansion=2), RUNGS[2]._replace(separate=False)])
def test_variants_that_the_paper_mentions_can_be_built(switches):
    """Check expansion 2 without more width, and both on MobileNetV3-L's blocks."""
    net = ladder.build(switches)
    channels = [
        stage(torch.zeros(1, stem, 8, 8))[0].shape[1] for stem, stage in zip(entries(net), net.stages, strict=True)
    ]
    assert channels == [stage.blocks[-1].out for stage in plan(switches)]


def entries(net):
    """Return the input channels of each stage."""
    firsts = [next(m for m in stage.modules() if isinstance(m, nn.Conv2d)) for stage in net.stages]
    return [first.in_channels for first in firsts]


def test_downsampling_and_blocks_of_every_stage():
    depths = {
        rung: [(stage.down is not None, len(stage.blocks), stage.pre is not None) for stage in plan(RUNGS[rung])]
        for rung in (0, 3, 4, 6)
    }
    assert depths[0] == [(True, 1, False), (True, 2, False), (True, 5, False), (True, 2, False)]
    assert depths[3] == [(False, 1, False), *depths[0][1:]]
    assert depths[4] == [(False, 1, True), (True, 2, True), (True, 5, True), (True, 2, False)]
    assert depths[6] == [(False, 2, True), (True, 2, True), (True, 14, True), (True, 2, False)]


def test_kernels_and_squeeze_and_excite_stay_mobilenetv3s_until_their_own_step():
    def of(field, rung):
        stages = [[spec for spec in (stage.down, *stage.blocks, stage.pre) if spec] for stage in plan(RUNGS[rung])]
        return [[getattr(spec, field) for spec in stage] for stage in stages]

    assert of('kernel', 0) == [[row.kernel for row in stage] for stage in MOBILENETV3_L]
    assert of('kernel', 6) == [[3] * 3, [5] * 4, [3] * 16, [5] * 3]
    assert of('kernel', 7) == [[3] * 3, [3] * 4, [3] * 16, [3] * 3]
    assert of('se', 0) == [[row.se for row in stage] for stage in MOBILENETV3_L]
    assert of('se', 7) == [[False] * 3, [True] * 4, [False] * 4 + [True] * 12, [True] * 3]
    assert of('se', 8)[1] == [False, True, False, False]


# --- both ends ---


@pytest.fixture(scope='module')
def mobilenet(randomize_bn):
    """Return timm's MobileNetV3-L with GELU for its activations, except those within squeeze-and-excite."""
    torch.manual_seed(0)
    net = randomize_bn(timm.create_model('mobilenetv3_large_100')).double().eval()
    for norm in net.modules():
        if isinstance(norm, BatchNormAct2d) and not isinstance(norm.act, nn.Identity):
            norm.act = nn.GELU()
    return net


@torch.no_grad()
def test_the_first_rung_is_timms_mobilenetv3(mobilenet):
    net = RepViTLadder(0).double().eval()
    load_checkpoint(net, mobilenet.state_dict())
    image = images((70, 96), 1, torch.float64)
    # The last feature is taken before the 1x1 convolution that the paper counts as a part of the classifier.
    theirs = mobilenet.forward_intermediates(image, extra_blocks=True, intermediates_only=True)
    for ours, theirs in zip(net(image), [theirs[i] for i in (2, 3, 5, 6)], strict=True):
        assert theirs.abs().max() > 1e-3
        assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-10


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1,)])
def test_the_first_rung_loads_timms_file(mobilenet, out_indices, tmp_path):
    file = tmp_path / 'mobilenetv3_large_100.pth'
    torch.save(mobilenet.state_dict(), file)
    net = RepViTLadder(0, out_indices=out_indices, init_cfg={'type': 'Pretrained', 'checkpoint': str(file)})
    net.init_weights()
    published = [float(value.double().sum()) for value in mobilenet.state_dict().values()]
    loaded = [float(value.double().sum()) for key, value in net.state_dict().items() if 'num_batches' not in key]
    assert all(any(math.isclose(value, other, rel_tol=1e-5, abs_tol=1e-6) for other in published) for value in loaded)


@torch.no_grad()
@pytest.mark.parametrize('size', [(64, 64), (70, 97)])
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2)])
def test_the_last_rung_is_repvit(size, out_indices, randomize_bn):
    repvit = randomize_bn(RepViT('m0_9', out_indices)).eval()
    net = RepViTLadder(LAST, out_indices=out_indices).eval()
    net.net.load_state_dict(repvit.state_dict())
    image = images(size)
    assert all(torch.equal(a, b) for a, b in zip(net(image), repvit(image), strict=True))
    fused = zip(reparameterize_model(net)(image), reparameterize_model(repvit)(image), strict=True)
    assert all(torch.equal(a, b) for a, b in fused)


def test_the_last_rung_trains_as_repvit_does(randomize_bn):
    torch.manual_seed(0)
    repvit = randomize_bn(RepViT('m0_9', norm_eval=True)).train()
    net = RepViTLadder(LAST, norm_eval=True).train()
    net.net.load_state_dict(repvit.state_dict())
    for a, b in zip(gradients(net, images()), gradients(repvit, images()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize(
    ('layout', 'out_indices'), [('official', (0, 1, 2, 3)), ('timm', (0, 1, 2, 3)), ('timm', (1,))]
)
def test_the_last_rung_loads_repvits_files(layout, out_indices, prefix, randomize_bn):
    classifier = randomize_bn(timm.create_model('repvit_m0_9')).state_dict()
    published = {prefix + key: value for key, value in convert(classifier, layout).items()}
    net = RepViTLadder(LAST, out_indices=out_indices)
    load_checkpoint(net, {'model': published})
    expected = convert(classifier, 'repvit_dense')
    assert all(torch.equal(value, expected[key]) for key, value in net.net.state_dict().items())


REFUSALS = [
    (LAST, lambda: RepViT('m1_1').state_dict(), 'another variant than Ladder-8: stem.conv1.conv.weight is'),
    (LAST, lambda: RepViT('m0_9', deploy=True).state_dict(), 'does not fit Ladder-8: .* is missing'),
    (LAST, lambda: RepViTLadder(0).net.state_dict(), 'another architecture than RepViT'),
    (7, lambda: RepViT('m0_9').state_dict(), 'does not fit Ladder-7: .* is missing'),
    (0, lambda: timm.create_model('mobilenetv3_large_075').state_dict(), 'another variant than Ladder-0: '),
    (0, lambda: timm.create_model('resnet18').state_dict(), 'Ladder-0'),
]


@pytest.mark.parametrize(('rung', 'source', 'message'), REFUSALS)
def test_other_weights_are_refused(rung, source, message):
    net = RepViTLadder(rung)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(net, source())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@every_rung
def test_a_state_dict_of_its_own_is_loaded(rung):
    source, net = RepViTLadder(rung, out_indices=(0, 1)), RepViTLadder(rung, out_indices=(0, 1))
    load_checkpoint(net, {'state_dict': {f'backbone.{key}': value for key, value in source.state_dict().items()}})
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in net.state_dict().items())


# --- as a backbone ---


@torch.no_grad()
@every_rung
def test_fused_equals_unfused(rung, randomize_bn):
    net = randomize_bn(RepViTLadder(rung)).double().eval()
    fused = reparameterize_model(net)
    assert not any(isinstance(module, _BatchNorm | ConvBN | RepDWConv) for module in fused.modules())
    image = images((65, 97), 1, torch.float64)
    for a, b, channels, stride in zip(fused(image), net(image), net.out_channels, net.out_strides, strict=True):
        assert b.shape == (1, channels, math.ceil(65 / stride), math.ceil(97 / stride))
        assert b.abs().max() > 1e-3
        assert (a - b).abs().max() / b.abs().max() < 1e-10


@every_rung
def test_fused_kernels_have_the_gradients_of_the_plain_form(rung, randomize_bn, monkeypatch):
    net = randomize_bn(RepViTLadder(rung, norm_eval=True)).double().train()
    image = images(batch=1, dtype=torch.float64)
    fused = gradients(net, image)
    monkeypatch.setattr('repvit_dense.backbones.layers.is_frozen', lambda bn: False)
    plain = gradients(net, image)
    floor = 1e-6 * max(gradient.abs().max() for gradient in plain)
    for a, b in zip(fused, plain, strict=True):
        assert (a - b).abs().max() / b.abs().max().clamp(min=floor) < 1e-8


@torch.no_grad()
@some_rungs
def test_fewer_outputs_equal_those_of_the_whole_network(rung):
    whole, part = RepViTLadder(rung).eval(), RepViTLadder(rung, out_indices=(1, 2)).eval()
    part.load_state_dict({key: whole.state_dict()[key] for key in part.state_dict()})
    for a, b in zip(part(images()), whole(images())[1:3], strict=True):
        assert torch.equal(a, b)
    assert (part.out_channels, part.out_strides) == (whole.out_channels[1:3], (8, 16))


@every_rung
@pytest.mark.parametrize('out_indices', [(0,), (1, 2)])
def test_every_parameter_gets_a_gradient(rung, out_indices):
    net = RepViTLadder(rung, out_indices=out_indices).train()
    sum(feature.square().mean() for feature in net(images())).backward()
    assert [key for key, parameter in net.named_parameters() if parameter.grad is None] == []


@some_rungs
def test_frozen_stages_do_not_train(rung):
    net = RepViTLadder(rung, frozen_stages=2).train()
    trained = {key.split('.')[2] for key, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained == {'2', '3'}
    assert [stage.training for stage in net.net.stages] == [False, False, True, True]
    frozen = [key for key, p in RepViTLadder(rung, frozen_stages=0).named_parameters() if not p.requires_grad]
    assert frozen and all(key.startswith('net.stem.') for key in frozen)


def test_norm_eval_keeps_running_statistics():
    norms = [module for module in RepViTLadder(1, norm_eval=True).train().modules() if isinstance(module, _BatchNorm)]
    assert norms and not any(norm.training for norm in norms)


@some_rungs
def test_recomputed_blocks_give_the_same_gradients_and_statistics(rung):
    plain, recomputed = (
        RepViTLadder(rung, out_indices=(0, 1)).double().train(),
        RepViTLadder(rung, out_indices=(0, 1), with_cp=True).double().train(),
    )
    recomputed.load_state_dict(plain.state_dict())
    image = images(dtype=torch.float64).requires_grad_()
    for a, b in zip(gradients(plain, image), gradients(recomputed, image), strict=True):
        torch.testing.assert_close(a, b)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(recomputed.state_dict()[key], value)


def test_stochastic_depth_grows_over_the_blocks():
    def rates(net):
        drops = (getattr(module, 'drop_path', None) for module in net.modules())
        return [drop.p for drop in drops if hasattr(drop, 'p')]

    assert rates(RepViTLadder(LAST, drop_path_rate=0.5)) == rates(RepViT('m0_9', drop_path_rate=0.5))
    first = rates(RepViTLadder(0, drop_path_rate=0.5))
    assert first == sorted(first) and first[-1] == 0.5


def test_squeeze_and_excite_is_mobilenetv3s_on_rung_0_and_repvits_above():
    first, then = ([m for m in RepViTLadder(rung).modules() if isinstance(m, SqueezeExcite)] for rung in (0, 1))
    assert [(se.fc1.in_channels, se.fc1.out_channels) for se in first[:3]] == [(72, 24), (120, 32), (120, 32)]
    assert [(se.fc1.in_channels, se.fc1.out_channels) for se in then[:3]] == [(24, 8), (40, 8), (40, 8)]
    assert torch.equal(first[0].gate(torch.tensor(3.0)), torch.tensor(1.0))


@pytest.mark.parametrize('rung', [-1, 9])
def test_an_unknown_rung_is_refused(rung):
    with pytest.raises(ValueError, match=rf'rung must be 0 \(MobileNetV3-L\) to 8 \(RepViT-M0.9\), got {rung}'):
        RepViTLadder(rung)


@every_rung
def test_the_catalogue_has_every_rung(rung):
    entry = catalogue.find(f'ladder_{rung}')
    net = MODELS.build({'type': entry.type, **entry.args})
    assert (net.rung, net.out_channels, net.out_strides) == (rung, entry.channels, entry.strides)
    like = {0: 'mobilenetv3_large', LAST: 'repvit_m0_9'}.get(rung)
    assert entry.weights == (catalogue.find(like).weights if like else {})


@torch.no_grad()
@some_rungs
def test_it_is_captured_for_all_multiples_of_32(rung, randomize_bn):
    net = reparameterize_model(randomize_bn(RepViTLadder(rung)).eval())
    sides = {axis: 32 * torch.export.Dim(name, min=1) for axis, name in ((2, 'rows'), (3, 'columns'))}
    program = torch.export.export(net, (images((96, 128)),), dynamic_shapes=(sides,))
    for a, b in zip(program.module()(images((64, 160))), net(images((64, 160))), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_a_segmentor_on_it_is_exported(tmp_path):
    cfg = config.load('repvit_semfpn_ade20k', ['model.backbone.init_cfg=None'], backbone='ladder_0')
    rows, failed = random_models.export_artifacts(cfg, ['onnx'], tmp_path, (64, 64))
    assert not failed
    assert len(rows) == 1
