"""The hook replaces the model by a fused copy during a test."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel

from repvit_dense.backbones.layers import ConvBN

SWITCH = {'type': 'DenseFuseHook'}


class Watch(Hook):
    """A hook that records the tested model and its output for one image."""

    priority = 'LOWEST'

    def __init__(self, x):
        self.x = x

    def after_test_epoch(self, runner, metrics=None):
        self.model, self.metrics = runner.model, metrics
        self.answer = runner.model([0], [self.x], mode='tensor')[0]


@pytest.fixture
def watch():
    return Watch(torch.randn(3, 6, 6))


@pytest.fixture
def process_group():
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def randomized(runner, randomize_bn):
    randomize_bn(runner.model)
    return runner


@pytest.fixture
def plain(tmp_path, toy, watch, randomize_bn):
    """Test without the hook; return the output and the score."""
    runner = randomized(toy(tmp_path / 'plain', hooks=[watch]), randomize_bn)
    runner.test()
    return watch.answer.item(), watch.metrics['toy/mAP']


def test_a_fused_copy_is_tested_and_the_model_restored(tmp_path, toy, plain, randomize_bn):
    watch = Watch(torch.randn(3, 6, 6))
    runner = randomized(toy(tmp_path / 'deploy', hooks=[SWITCH, watch]), randomize_bn)
    model = runner.model
    state = {key: value.clone() for key, value in model.state_dict().items()}
    runner.test()

    assert watch.model is not model
    assert [type(module).__name__ for module in watch.model.modules()].count('ConvBN') == 0
    assert not watch.model.training
    assert runner.model is model
    assert isinstance(model.conv, ConvBN)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_both_forms_score_the_same(tmp_path, toy, watch, plain, randomize_bn):
    runner = randomized(toy(tmp_path / 'deploy', hooks=[SWITCH, watch]), randomize_bn)
    runner.test()
    assert watch.answer.item() == pytest.approx(plain[0], rel=1e-5)
    assert watch.metrics['toy/mAP'] == pytest.approx(plain[1], rel=1e-5)
    assert watch.metrics['toy/mAP'] < 0.999


def test_training_flags_do_not_change(tmp_path, toy):
    runner = toy(tmp_path, hooks=[SWITCH])
    runner.model.train()
    runner.model.out.eval()  # as a user freezes a part
    before = [module.training for module in runner.model.modules()]
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'DenseFuseHook')
    hook.before_test(runner)
    hook.after_test(runner)
    assert [module.training for module in runner.model.modules()] == before


def test_a_wrapped_model_is_restored_with_its_wrapper(tmp_path, toy, watch, process_group):
    wrapped = MMDistributedDataParallel(toy(tmp_path / 'model').model)
    runner = toy(tmp_path / 'run', hooks=[SWITCH, watch], model=wrapped)
    runner.test()
    assert runner.model is wrapped
    assert isinstance(wrapped.module.conv, ConvBN)
    assert not isinstance(watch.model, MMDistributedDataParallel)
    assert not isinstance(watch.model.conv, ConvBN)


def test_training_and_testing_can_alternate(tmp_path, toy, watch):
    runner = toy(tmp_path, hooks=[SWITCH, watch])
    runner.train()
    for _ in range(2):
        runner.test()
        assert not isinstance(watch.model.conv, ConvBN)
        assert isinstance(runner.model.conv, ConvBN)


def test_the_log_names_the_tested_form(tmp_path, toy):
    runner = toy(tmp_path, hooks=[SWITCH])
    runner.test()
    text = next(tmp_path.glob('*/*.log')).read_text()
    parameters = sum(p.numel() for p in runner.model.parameters())
    assert f'Testing the fused model: {parameters} parameters fused to ' in text
