"""Mobile-Former against the published sizes and the equations of the paper."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from repvit_dense import config
from repvit_dense.backbones import mobile_former
from repvit_dense.backbones.layers import ConvBN
from repvit_dense.backbones.mobile_former import DenseMobileFormer
from repvit_dense.benchmark import random_models
from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.reparam import reparameterize_model

# Parameters in millions (as the paper states them), and the width of the first of the classifier's two layers.
PUBLISHED = {
    '26m': (3.2, 1024),
    '52m': (3.5, 1024),
    '96m': (4.6, 1280),
    '151m': (7.6, 1280),
    '214m': (9.4, 1600),
    '294m': (11.4, 1920),
    '508m': (14.0, 1920),
}


class Classifier(nn.Module):
    """The backbone with the paper's head: one more bridge to the tokens, a 1x1 expansion by 6, two linear layers."""

    def __init__(self, arch):
        super().__init__()
        (_, width), channels = mobile_former.ARCHS[arch].tokens, mobile_former.ARCHS[arch].blocks()[-1][-1][1]
        self.backbone = DenseMobileFormer(arch, out_indices=(3,))
        self.to_former = mobile_former.MobileToFormer(channels, width)
        self.expand = ConvBN(channels, 6 * channels, groups=mobile_former.ARCHS[arch].groups)
        hidden = PUBLISHED[arch][1]
        self.fc1, self.bn = nn.Linear(6 * channels + width, hidden), nn.BatchNorm1d(hidden)
        self.fc2 = nn.Linear(hidden, 1000)

    def forward(self, image):
        x = self.backbone(image)[0]
        first = self.to_former(x, self.backbone.net.tokens[None])[:, 0]
        pooled = F.hardswish(F.relu6(self.expand(x)).mean((2, 3)))
        return self.fc2(F.hardswish(self.bn(self.fc1(torch.cat([pooled, first], 1)))))


@pytest.fixture(scope='module', params=PUBLISHED)
def classifier(request):
    with torch.device('meta'):
        return request.param, Classifier(request.param).requires_grad_(False).eval()


def test_parameters_of_the_classifier_are_the_published_ones(classifier):
    arch, net = classifier
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == PUBLISHED[arch][0]


def test_multiply_adds_are_those_of_the_name(classifier):
    """Published counts include some elementwise operations; convolutions and matrices alone are 90 to 100 % of them."""
    arch, net = classifier
    elements = []
    for module in net.modules():
        if isinstance(module, ConvBN | mobile_former.DynamicReLU):
            module.register_forward_hook(lambda _, inputs, output: elements.append(output.numel()))
    with FlopCounterMode(display=False) as counter:
        net(torch.rand(1, 3, 224, 224, device='meta'))
    products, named = counter.get_total_flops() / 2, 1e6 * float(arch[:-1])
    assert 0.9 * named < products < named
    assert products + sum(elements) == pytest.approx(named, rel=0.02)


# --- parts against other ways to compute them ---


def randomize(net):
    """Draw norms and linear layers, whose initial values hide errors."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.normal_(module.bias, std=0.5)
    return net.eval()


def attend(q, k, v):
    """Apply torch's attention with two heads to `(B, N, C)`."""
    q, k, v = (t.unflatten(2, (2, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@torch.no_grad()
def test_the_bridge_is_attention_with_projections_on_the_side_of_the_tokens():
    to_former, to_mobile = (
        randomize(mobile_former.MobileToFormer(8, 12)),
        randomize(mobile_former.FormerToMobile(8, 12)),
    )
    x, tokens = torch.randn(2, 8, 3, 5), torch.randn(2, 4, 12)
    pixels = x.flatten(2).mT
    gate = 2 * F.hardsigmoid(to_former.gate(tokens))
    out = attend(to_former.query(tokens), pixels, pixels) * gate
    torch.testing.assert_close(to_former(x, tokens), to_former.norm(tokens + to_former.proj(out)))
    out = attend(pixels, to_mobile.key(tokens), to_mobile.value(tokens))
    torch.testing.assert_close(to_mobile(x, tokens), x + out.mT.unflatten(2, (3, 5)))


@torch.no_grad()
def test_slopes_follow_the_first_token_alone_and_start_as_a_relu():
    act = mobile_former.DynamicReLU(6, 8)
    x, tokens = torch.randn(2, 6, 3, 3), torch.randn(2, 4, 8)
    nn.init.zeros_(act.slopes[2].weight), nn.init.zeros_(act.slopes[2].bias)
    torch.testing.assert_close(act(x, tokens), F.relu(x))
    randomize(act)
    out, slopes = act(x, tokens), 2 * act.slopes(tokens[:, 0])
    expected = torch.maximum(slopes[:, :6, None, None] * x, (slopes[:, 6:, None, None] - 1) * x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(act(x, torch.cat([tokens[:, :1], torch.randn(2, 3, 8)], 1)), out)
    assert not torch.allclose(act(x, tokens.flip(1)), out)


@torch.no_grad()
def test_shuffling_lets_grouped_convolutions_see_all_groups():
    x = torch.randn(1, 12, 2, 2)
    torch.testing.assert_close(mobile_former.Shuffle(4, 4)(x), nn.ChannelShuffle(4)(x))
    assert mobile_former.Shuffle(4, 1)(x) is x


@torch.no_grad()
def test_distant_pixels_reach_the_finest_map_through_the_tokens():
    """Convolutions up to stride 4 see less than 64 pixels around them."""
    net = randomize(DenseMobileFormer('26m', out_indices=(0,)))
    image = torch.rand(1, 3, 64, 256)
    other = image.clone()
    other[..., 128:] = 0
    near = [net(picture)[0][..., :16] for picture in (image, other)]
    assert (near[0] - near[1]).abs().max() > 1e-4


# --- options ---


def test_fewer_outputs_equal_those_of_the_whole_network_and_use_every_parameter():
    whole, part = randomize(DenseMobileFormer('96m')), DenseMobileFormer('96m', out_indices=(1, 2)).eval()
    part.load_state_dict({key: whole.state_dict()[key] for key in part.state_dict()})
    image = torch.rand(2, 3, 64, 70)
    outs, expected = part(image), whole(image)
    for a, b in zip(outs, expected[1:3], strict=True):
        torch.testing.assert_close(a, b)
    assert (part.out_channels, part.out_strides) == ((32, 88), (8, 16))
    sum(out.square().mean() for out in outs).backward()
    assert [key for key, p in part.named_parameters() if p.grad is None] == []


def test_frozen_stages_do_not_train():
    net = DenseMobileFormer('96m', frozen_stages=2).train()
    body = tuple(f'net.blocks.{i}.' for i in range(4))  # the lite bottleneck, one block, two blocks
    frozen = ('net.tokens', 'net.stem.', *body)
    sum(out.square().mean() for out in net(torch.rand(2, 3, 64, 64))).backward()
    for key, parameter in net.named_parameters():
        assert (parameter.grad is None) == key.startswith(frozen), key
    assert not any(block.training for block in net.net.blocks[:4]) and net.net.blocks[4].training


def test_norm_eval_keeps_running_statistics():
    net = DenseMobileFormer('26m', norm_eval=True).train()
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    before = [bn.running_mean.clone() for bn in norms]
    net(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(bn.running_mean, old) for bn, old in zip(norms, before, strict=True))


def test_stochastic_depth_grows_over_the_blocks():
    net = DenseMobileFormer('96m', drop_path_rate=0.2)
    rates = [block.former.drop_path.p for block in net.net.blocks[1:]]
    assert rates == pytest.approx([0.025 * i for i in range(1, 9)])


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="arch must be one of 26m, 52m, .*, got '100m'"):
        DenseMobileFormer('100m')


def test_its_detector_equals_retinanet_with_this_backbone():
    """Check that the config repeats the values that follow from the backbone correctly."""
    cfg = config.load('mobile-former_retinanet_coco').to_dict()
    assert cfg == config.load('repvit_retinanet_coco', backbone='mobile_former_294m').to_dict()
    assert (cfg['train_cfg']['max_epochs'], cfg['auto_scale_lr']['base_batch_size']) == (12, 16)


# --- weights, fusing, export ---


def test_a_state_dict_of_its_own_is_loaded_and_others_are_refused():
    net, other = DenseMobileFormer('26m'), DenseMobileFormer('26m')
    load_checkpoint(other, net.state_dict())
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in other.state_dict().items())
    with pytest.raises(CheckpointError, match='weights of another architecture than Mobile-Former-26M'):
        load_checkpoint(other, {'layer1.0.conv1.weight': torch.zeros(1)})


@torch.no_grad()
@pytest.mark.parametrize('arch', ['26m', '96m'])
def test_fused_equals_unfused(arch):
    net = randomize(DenseMobileFormer(arch)).double()
    before = copy.deepcopy(net.state_dict())
    fused = reparameterize_model(net)
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())
    image = torch.rand(1, 3, 70, 64, dtype=torch.float64)
    for a, b in zip(fused(image), net(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    'options', [pytest.param({}, marks=pytest.mark.deploy), {'dynamic': ('size',)}], ids=['fixed', 'dynamic']
)
def test_a_segmentor_on_it_is_exported(options, tmp_path):
    cfg = config.load('repvit_semfpn_ade20k', ['model.backbone.init_cfg=None'], backbone='mobile_former_26m')
    targets = ['onnx'] if options else ['onnx', 'openvino']
    rows, failed = random_models.export_artifacts(cfg, targets, tmp_path, (64, 64), **options)
    assert not failed
    assert len(rows) == len(targets)
