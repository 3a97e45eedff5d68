"""RepViT's fused form, and every form under copies, memory layouts and captured graphs."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense.backbones.repvit import TAPS
from repvit_dense.reparam import reparameterize_model
from tests.backbones.comparing import assert_close, backward, images

every_form = pytest.mark.parametrize('form', ['training', 'eval', 'deploy'])

# --- fusing ---


@pytest.mark.parametrize('size', [(33, 47), (32, 32), (65, 100), (1, 1)])
def test_odd_sizes_are_fused_exactly(build_tiny, size):
    model, x = build_tiny().eval(), images(size)
    assert_close(reparameterize_model(model)(x), model(x), 1e-5)


def test_switch_to_deploy_is_in_place_and_idempotent(build_tiny):
    model = build_tiny().eval()
    expected = model(images())
    assert not model.deploy
    model.switch_to_deploy()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.switch_to_deploy()
    assert model.deploy
    assert not any(isinstance(module, _BatchNorm) for module in model.modules())
    torch.testing.assert_close(model.state_dict(), weights)
    assert_close(model(images()), expected, 1e-5)


def test_switch_to_deploy_in_training_mode_is_an_error(build_tiny):
    model = build_tiny().train()
    with pytest.raises(RuntimeError, match='training mode'):
        model.switch_to_deploy()
    assert not model.deploy


def test_reparameterize_model_does_not_change_the_original(build_tiny):
    model = build_tiny().eval()
    expected = model(images())
    fused = reparameterize_model(model)
    assert fused.deploy
    assert not model.deploy
    for parameter in fused.parameters():
        nn.init.zeros_(parameter)
    assert_close(model(images()), expected, 1e-7)


def test_reparameterize_model_does_not_change_the_batch_norms_of_a_neck(build_tiny, randomize_bn):
    neck = randomize_bn(nn.Sequential(nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16)))
    detector = nn.ModuleDict({'backbone': build_tiny(), 'neck': neck}).eval()
    fused = reparameterize_model(detector)
    assert fused['backbone'].deploy
    torch.testing.assert_close(fused['neck'].state_dict(), neck.state_dict())
    expected = neck(detector['backbone'](images())[-1])
    assert_close([fused['neck'](fused['backbone'](images())[-1])], [expected], 1e-5)


@pytest.mark.parametrize('tap', TAPS)
def test_a_deploy_backbone_loads_a_fused_state_dict_strictly(build_tiny, tap):
    model = build_tiny(tap=tap).eval()
    deploy = build_tiny(tap=tap, deploy=True)
    assert deploy.deploy
    assert deploy.training, 'like any new module'
    deploy.eval()
    deploy.load_state_dict(reparameterize_model(model).state_dict())
    assert_close(deploy(images()), model(images()), 1e-5)


def test_a_deploy_backbone_refuses_a_training_state_dict(build_tiny):
    with pytest.raises(RuntimeError, match='Unexpected key'):
        build_tiny(deploy=True).load_state_dict(build_tiny().state_dict())


@pytest.mark.parametrize('frozen_stages', [-1, 2])
def test_a_deploy_backbone_can_be_trained(build_tiny, frozen_stages):
    model = build_tiny(deploy=True, frozen_stages=frozen_stages).train()
    backward(model(images()))
    parts = ('stem', 'stages.0', 'stages.1')[: frozen_stages + 1]
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(parts), name


# --- copies, layouts, graphs ---


@pytest.mark.parametrize('deploy', [False, True])
def test_copies_and_pickles_equal_the_model(build_tiny, deploy):
    model = build_tiny(drop_path_rate=0.1, deploy=deploy).eval()
    expected = model(images())
    assert_close(copy.deepcopy(model)(images()), expected, 1e-6)
    assert_close(pickle.loads(pickle.dumps(model))(images()), expected, 1e-6)


@pytest.fixture
def formed(build_tiny):
    """Return `formed(form, **arguments)`, a tiny RepViT in training, eval or deploy form."""

    def build(form, **arguments):
        model = build_tiny(**arguments).train(form == 'training')
        return reparameterize_model(model) if form == 'deploy' else model

    return build


@pytest.mark.parametrize('form', ['training', 'deploy'])
def test_features_are_channels_last_whatever_the_layout_of_the_image(formed, form):
    assert images().is_contiguous()
    features = formed(form)(images())
    assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in features)


@every_form
def test_channels_last_does_not_change_the_features(formed, form):
    model = formed(form)
    expected = model(images())
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    features = last(images().to(memory_format=torch.channels_last))
    assert_close(features, expected, 1e-5)
    assert features[0].is_contiguous(memory_format=torch.channels_last)


@every_form
def test_torch_compile_captures_the_whole_graph(formed, form):
    model = formed(form, norm_eval=True)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    assert_close(compiled(images()), model(images()), 1e-5)


@pytest.mark.parametrize('form', ['eval', 'deploy'])
def test_an_exported_graph_holds_plain_convolutions(formed, form):
    model = formed(form)
    program = torch.export.export(model, (images(),))
    operations = [node for node in program.graph.nodes if 'conv2d' in str(node.target)]
    assert {str(node.target) for node in operations} == {'aten.conv2d.default'}
    assert_close(program.module()(images()), model(images()), 1e-5)
