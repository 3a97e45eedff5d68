"""EdgeViT against the published numbers and operations, and with the options of every backbone."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense import catalogue, config
from repvit_dense.backbones import edgevit
from repvit_dense.backbones.edgevit import ARCHS, DenseEdgeViT
from repvit_dense.benchmark import random_models
from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.compat.flop_counter import flop_counter
from repvit_dense.reparam import reparameterize_model

CLASSES = 1000


@torch.no_grad()
def randomize(net):
    """Draw norms, which start neutral, and linear layers, which start too small to show."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, _BatchNorm | nn.LayerNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.2, 0.2)
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)
    return net.eval()


# --- the published networks ---


# To the printed digit, rounded or truncated: XXS and XS are from the paper, S from arXiv 2403.19963, table 1.
@pytest.mark.parametrize(('arch', 'millions'), [('xxs', 4.1), ('xs', 6.7), ('s', 13.1)])
def test_a_classifier_has_the_published_number_of_parameters(arch, millions):
    width = ARCHS[arch]['embed_dims'][-1]
    backbone = sum(p.numel() for p in DenseEdgeViT(arch).parameters())
    head = 2 * width + CLASSES * width + CLASSES
    assert backbone + head == pytest.approx(1e6 * millions, abs=min(1e5, 0.011e6 * millions))


@torch.no_grad()
@pytest.mark.parametrize(('arch', 'billions'), [('xxs', 0.6), ('xs', 1.1), ('s', 1.9)])
def test_a_classifier_has_the_published_number_of_multiply_adds(arch, billions):
    net = DenseEdgeViT(arch).eval()
    with flop_counter() as counter:
        net(torch.zeros(1, 3, 224, 224))
    assert round(counter.get_total_flops() / 2e9, 1) == billions


def authors_state(arch):
    """Return a random state dict of a classifier with the names and shapes of the authors' release."""
    widths, depths = ARCHS[arch]['embed_dims'], ARCHS[arch]['depths']
    shapes = {'norm.running_mean': (widths[-1],), 'head.weight': (CLASSES, widths[-1])}
    for i, (c, depth) in enumerate(zip(widths, depths, strict=True), 1):
        before, patch, rate = (3, *widths)[i - 1], (4, 2, 2, 2)[i - 1], (4, 2, 2, 1)[i - 1]
        layers = {f'patch_embed{i}.proj': (c, before, patch, patch), f'patch_embed{i}.norm': (c,)}
        for j in range(depth):
            local, far = f'blocks{i}.{j}.LocalAgg.', f'blocks{i}.{j}.SelfAttn.'
            if rate > 1:
                layers |= {f'{local}pos_embed': (c, 1, 3, 3), f'{local}conv1': (c, c, 1, 1)}
                layers |= {f'{local}attn': (c, 1, 5, 5), f'{local}conv2': (c, c, 1, 1)}
                layers |= {f'{local}mlp.fc1': (4 * c, c, 1, 1), f'{local}mlp.fc2': (c, 4 * c, 1, 1)}
                layers |= {f'{local}norm1': (c,), f'{local}norm2': (c,)}
                shapes |= {f'{local}norm{n}.running_{kind}': (c,) for n in (1, 2) for kind in ('mean', 'var')}
                layers |= {f'{far}attn.LocalProp': (c, 1, rate, rate), f'{far}attn.norm': (c,)}
            layers |= {f'{far}pos_embed': (c, 1, 3, 3), f'{far}norm1': (c,), f'{far}norm2': (c,)}
            layers |= {f'{far}attn.qkv': (3 * c, c), f'{far}attn.proj': (c, c)}
            layers |= {f'{far}mlp.fc1': (4 * c, c), f'{far}mlp.fc2': (c, 4 * c)}
        for name, shape in layers.items():
            shapes |= {f'{name}.weight': shape, f'{name}.bias': shape[:1]}
    return {name: torch.rand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize(('arch', 'out_indices'), [('xxs', (0, 1, 2, 3)), ('xs', (0, 1))])
def test_the_authors_weights_are_loaded(arch, out_indices, prefix):
    net = DenseEdgeViT(arch, out_indices=out_indices)
    state = authors_state(arch)
    load_checkpoint(net, {'state_dict': {prefix + key: value for key, value in state.items()}})
    block = net.net.stages[1].blocks[0]
    assert torch.equal(block.local.gather[1].weight, state['blocks2.0.LocalAgg.attn.weight'])
    assert torch.equal(block.local.shrink.bias, state['blocks2.0.LocalAgg.mlp.fc2.bias'])
    assert torch.equal(block.sparse.attention.norm.bias, state['blocks2.0.SelfAttn.attn.norm.bias'])
    assert torch.equal(block.sparse.norm2.weight, state['blocks2.0.SelfAttn.norm2.weight'])


def test_weights_of_another_size_are_refused():
    with pytest.raises(CheckpointError, match='another variant than EdgeViT-XXS: stages.0.patch_embed.0.weight'):
        load_checkpoint(DenseEdgeViT('xxs', out_indices=(0,)), authors_state('xs'))


def test_a_state_dict_of_its_own_is_loaded():
    source, net = DenseEdgeViT('xxs', out_indices=(0, 1)), DenseEdgeViT('xxs', out_indices=(0, 1))
    load_checkpoint(net, source.state_dict())
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in net.state_dict().items())


# --- the parts ---


@torch.no_grad()
def test_attention_between_delegates_equals_torchs_attention():
    layer = randomize(edgevit.DelegateAttention(8, 2, 2))
    layer.norm = nn.Identity()
    layer.spread.weight.fill_(1)  # copies the output of a delegate to its window
    layer.spread.bias.zero_()
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    attention.in_proj_weight.copy_(layer.qkv.weight), attention.in_proj_bias.copy_(layer.qkv.bias)
    attention.out_proj.load_state_dict(layer.proj.state_dict())
    x = torch.rand(3, 4, 6, 8)
    delegates = x[:, ::2, ::2].flatten(1, 2)
    expected = attention(delegates, delegates, delegates)[0].reshape(3, 2, 3, 8)
    expected = expected.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_local_aggregation_reaches_the_neighbourhood_and_delegates_reach_every_position():
    local, sparse = randomize(edgevit.LocalAggregation(8, 0.0)), randomize(edgevit.SparseTransformer(8, 2, 4, 0.0))
    x = torch.rand(1, 8, 16, 16)
    changed = x.clone()
    changed[..., 8, 8] += 1  # a delegate
    reach = (local(changed) - local(x)).abs().amax((0, 1)) > 1e-6
    rows, columns = reach.nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 11, 5, 11)  # a 3x3 and a 5x5 convolution
    assert ((sparse(changed) - sparse(x)).abs().amax((0, 1)) > 1e-6).all()


def test_the_last_stage_is_a_plain_transformer():
    stages = DenseEdgeViT('xxs').net.stages
    assert [hasattr(stage.blocks[0], 'local') for stage in stages] == [True, True, True, False]
    assert [stage.blocks[0].sparse.attention.heads for stage in stages] == [1, 2, 4, 8]


# --- as a backbone ---


@torch.no_grad()
@pytest.mark.parametrize('size', [(64, 64), (65, 97)])
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2)])
def test_fused_equals_unfused(size, out_indices):
    net = randomize(DenseEdgeViT('xxs', out_indices=out_indices)).double()
    fused = reparameterize_model(net)
    assert any(isinstance(module, _BatchNorm) for module in net.modules())
    assert not any(isinstance(module, _BatchNorm | edgevit.Position) for module in fused.modules())
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    for a, b in zip(fused(image), net(image), strict=True):
        assert b.abs().max() > 0.1
        assert (a - b).abs().max() / b.abs().max() < 1e-10


@torch.no_grad()
def test_fewer_outputs_equal_those_of_the_whole_network():
    whole, part = DenseEdgeViT('xxs').eval(), DenseEdgeViT('xxs', out_indices=(1, 2)).eval()
    part.load_state_dict({key: whole.state_dict()[key] for key in part.state_dict()})
    image = torch.rand(1, 3, 64, 96)
    for a, b in zip(part(image), whole(image)[1:3], strict=True):
        assert torch.equal(a, b)
    assert (part.out_channels, part.out_strides) == ((72, 144), (8, 16))


def test_frozen_stages_do_not_train():
    net = DenseEdgeViT('xxs', frozen_stages=2).train()
    trained = {name.split('.')[2] for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {'2', '3'}
    assert [stage.training for stage in net.net.stages] == [False, False, True, True]
    stem = DenseEdgeViT('xxs', frozen_stages=0)
    frozen = [name for name, p in stem.named_parameters() if not p.requires_grad]
    assert frozen and all(name.startswith('net.stages.0.patch_embed.') for name in frozen)


def test_norm_eval_keeps_batch_norms_on_their_statistics():
    norms = [m for m in DenseEdgeViT('xxs', norm_eval=True).train().modules() if isinstance(m, _BatchNorm)]
    assert norms and not any(norm.training for norm in norms)


def test_recomputed_blocks_give_the_same_gradients_and_statistics():
    plain, recomputed = (
        DenseEdgeViT('xxs', out_indices=(0, 1)).train(),
        DenseEdgeViT('xxs', out_indices=(0, 1), with_cp=True).train(),
    )
    recomputed.load_state_dict(plain.state_dict())
    image = torch.rand(2, 3, 64, 64)
    for net in (plain, recomputed):
        sum(out.square().mean() for out in net(image)).backward()
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(dict(recomputed.named_buffers()), dict(plain.named_buffers()))


def test_stochastic_depth_grows_over_the_blocks_and_drops_only_in_training():
    net = DenseEdgeViT('xxs', drop_path_rate=0.6)
    rates = [getattr(block.sparse.drop_path, 'p', 0) for stage in net.net.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(net.train()(image)[-1], net(image)[-1])
        assert torch.equal(net.eval()(image)[-1], net(image)[-1])


def test_an_unknown_size_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown arch 'm'; known: xxs, xs, s"):
        DenseEdgeViT('m')


def test_the_catalogue_builds_every_size():
    for arch, row in ARCHS.items():
        entry = catalogue.find(f'edgevit_{arch}')
        assert (entry.type, entry.args, entry.channels) == ('DenseEdgeViT', {'arch': arch}, row['embed_dims'])
        assert MODELS.get(entry.type) is DenseEdgeViT


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, pytest.param({'dynamic': ('size',)}, marks=pytest.mark.deploy)])
def test_a_segmentor_on_it_is_exported(options, tmp_path):
    cfg = config.load('repvit_semfpn_ade20k', ['model.backbone.init_cfg=None'], backbone='edgevit_xxs')
    targets = ['onnx'] if options else ['onnx', 'openvino']
    # At 64 pixels stage 3 has as many delegates as heads, the case that OpenVINO can compute wrongly.
    rows, failed = random_models.export_artifacts(cfg, targets, tmp_path, (64, 64), **options)
    assert not failed
    assert len(rows) == len(targets)
