"""`set_epochs` scales everything that is counted in epochs, in every config."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS

from repvit_dense import config
from repvit_dense.config import schedule
from repvit_dense.errors import InputError


def load(name, epochs, options=()):
    return config.load(name, options, change=lambda cfg: config.set_epochs(cfg, epochs))


BY_EPOCH = [name for name in config.names() if 'max_epochs' in config.load(name).train_cfg]
BY_ITERATION = [name for name in config.names() if name not in BY_EPOCH]
EPOCH_LENGTH = 1000  # iterations


def learning_rates(cfg):
    """Return the learning rate at the start of each epoch, from schedulers built and stepped as the runner does it."""
    optim = build_optim_wrapper(
        torch.nn.Linear(1, 1), {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 1.0}}
    )
    schedulers = []
    for scheduler in cfg.param_scheduler:
        scheduler = dict(scheduler)
        if scheduler.pop('convert_to_iter_based', False):
            scheduler = {**scheduler, 'epoch_length': EPOCH_LENGTH, 'convert_to_iter_based': True}
        schedulers.append(PARAM_SCHEDULERS.build(scheduler, default_args={'optimizer': optim}))
    rates = []
    for _ in range(cfg.train_cfg.max_epochs):
        rates.append(optim.optimizer.param_groups[0]['lr'])
        for _ in range(EPOCH_LENGTH):
            optim.optimizer.step()
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in schedulers:
            if scheduler.by_epoch:
                scheduler.step()
    return rates


@pytest.mark.parametrize('epochs', [1, 2, 3, 5, 20, 1000])
@pytest.mark.parametrize('name', BY_EPOCH)
def test_schedules_remain_valid_and_cover_the_training(name, epochs):
    before, cfg = config.load(name), load(name, epochs)
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.train_cfg.val_interval <= epochs
    assert cfg.default_hooks.checkpoint.interval <= epochs
    for old, new in zip(before.param_scheduler, cfg.param_scheduler, strict=True):
        if not old.by_epoch:
            assert new == {**old, 'end': new.end} and new.end <= old.end  # warm-up
            continue
        assert 0 <= new.begin < new.end <= epochs
        milestones = new.get('milestones', [])
        assert milestones == sorted(set(milestones)) and all(1 <= step <= epochs for step in milestones)
        if old.get('T_max') == old.end - old.begin:
            assert new.T_max == new.end - new.begin
    assert max(scheduler.end for scheduler in cfg.param_scheduler if scheduler.by_epoch) == epochs
    for hook in cfg.custom_hooks:
        assert 0 <= hook.get('switch_epoch', 0) <= epochs
    if epochs <= 5:
        assert len(learning_rates(cfg)) == epochs


@pytest.mark.parametrize('name', BY_EPOCH)
def test_the_same_number_of_epochs_changes_nothing(name):
    cfg = config.load(name)
    config.set_epochs(cfg, cfg.train_cfg.max_epochs)
    assert cfg.to_dict() == config.load(name).to_dict()


def test_steps_of_the_learning_rate_follow():
    assert load('repvit_maskrcnn_coco', 24).param_scheduler[1].milestones == [16, 22]
    cfg = load('repvit_maskrcnn_coco', 6)
    assert cfg.param_scheduler[1].milestones == [4, 6]
    assert learning_rates(cfg) == pytest.approx([0.001, 1, 1, 1, 0.1, 0.1])


def test_pipeline_switch_and_intervals_of_rtmdet():
    cfg = load('repvit_rtmdet-ins_coco', 30)
    assert next(hook for hook in cfg.custom_hooks if hook.type == 'PipelineSwitchHook').switch_epoch == 28
    assert cfg.train_cfg == {
        'type': 'DenseEpochLoop',
        'max_epochs': 30,
        'val_interval': 10,
        'dynamic_intervals': [(28, 1)],
    }
    cosine = cfg.param_scheduler[1]
    assert (cosine.begin, cosine.end, cosine.T_max) == (15, 30, 15)
    assert load('repvit_rtmdet-ins_coco', 3).train_cfg.val_interval == 3


def test_other_epoch_numbers_follow():
    hooks = [
        {'type': 'EMAHook', 'begin_epoch': 5, 'by_epoch': True, 'interval': 5},
        {'type': 'YOLOXModeSwitchHook', 'num_last_epochs': 15},
    ]
    cfg = Config(
        {
            'train_cfg': {'max_epochs': 100, 'val_begin': 50},
            'param_scheduler': {'type': 'StepLR', 'step_size': 30},
            'default_hooks': {'checkpoint': {'interval': 50, 'save_begin': 80}},
            'custom_hooks': hooks,
        }
    )
    config.set_epochs(cfg, 20)
    assert cfg.train_cfg.val_begin == 10
    assert cfg.param_scheduler.step_size == 6
    assert cfg.default_hooks.checkpoint == {'interval': 20, 'save_begin': 16}
    assert cfg.custom_hooks[0] == {'type': 'EMAHook', 'begin_epoch': 1, 'by_epoch': True, 'interval': 5}
    assert cfg.custom_hooks[1].num_last_epochs == 3


def test_options_are_applied_after_set_epochs():
    cfg = load('repvit_maskrcnn_coco', 3, ['train_cfg.val_interval=7'])
    assert cfg.train_cfg.val_interval == 7


@pytest.mark.parametrize('name', [name for name in BY_ITERATION if 'shapes' not in name])
def test_epochs_of_uncounted_images_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf'{name}\.py counts iterations.*use --iters N'):
        load(name, 20)


@pytest.mark.parametrize('epochs', [0, -1, 1.5, True])
def test_an_impossible_number_of_epochs_is_refused(epochs):
    with pytest.raises(InputError, match=f'--epochs {epochs}: must be a whole number of at least 1'):
        load('repvit_maskrcnn_coco', epochs)


def test_the_learning_rate_changes_its_bounds_but_not_those_of_momentum():
    parts = [{'type': 'OneCycleLR', 'eta_max': 0.1}, {'type': 'CosineAnnealingMomentum', 'eta_min': 0.8}]
    cfg = Config({'optim_wrapper': {'optimizer': {'lr': 0.1}}, 'param_scheduler': parts})
    schedule.set_lr(cfg, 0.05)
    assert (cfg.param_scheduler[0].eta_max, cfg.param_scheduler[1].eta_min) == (0.05, 0.8)


def test_another_number_of_iterations_for_the_written_config():
    cfg = config.load('repvit_maskrcnn_shapes')
    schedule.set_iters(cfg, 1000)
    schedule.set_iters(cfg, 100)
    assert [part.end for part in cfg.param_scheduler] == [10, 100]


@pytest.mark.parametrize('name', ['repvit_maskrcnn_shapes', 'repvit_segformer_shapes'])
def test_averages_forget_the_random_weights_of_a_new_layer(name):
    """The class is one that mmengine finds in the scope of mmdet and of mmseg."""
    cfg = config.load(name)
    schedule.average_weights(cfg)
    hook = dict(cfg.custom_hooks[-1])
    assert hook.pop('type') == 'EMAHook'
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 1000.0)
    with MODELS.switch_scope_and_registry(cfg.default_scope) as registry:
        averages = registry.build({'type': hook.pop('ema_type'), 'model': layer, **hook})
    for step in range(200):
        torch.nn.init.constant_(layer.weight, float(step > 100))
        averages.update_parameters(layer)
    assert averages.module.weight.item() == pytest.approx(1, abs=0.01)
