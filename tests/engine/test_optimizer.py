"""Norms, biases, layer scales and position tables have no weight decay, for any other rule of `paramwise_cfg`."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.gamma = nn.Parameter(torch.ones(4))
        self.scale = nn.Parameter(torch.ones(()))
        self.pos_table = nn.Parameter(torch.ones(1, 4, 2))


def groups(**paramwise):
    """Return parameter name -> (learning rate, weight decay)."""
    net = Net()
    config = {
        'constructor': 'DenseNoDecayOptimWrapperConstructor',
        'optimizer': {'type': 'AdamW', 'lr': 1.0, 'weight_decay': 0.5},
        'paramwise_cfg': {'no_decay': [], **paramwise},
    }
    wrapper = build_optim_wrapper(net, config)
    names = {parameter: name for name, parameter in net.named_parameters()}
    return {
        names[group['params'][0]]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        if group['params'][0] in names  # mmengine adds a group that reports the base learning rate
    }


@pytest.mark.parametrize('name', ['backbone.0.bias', 'backbone.1.weight', 'backbone.1.bias', 'gamma', 'scale'])
def test_parameters_of_at_most_one_dimension_do_not_decay(name):
    assert groups()[name] == (1.0, 0.0)


@pytest.mark.parametrize('name', ['backbone.0.weight', 'head.weight', 'pos_table'])
def test_other_parameters_decay(name):
    assert groups()[name] == (1.0, 0.5)


def test_a_named_table_does_not_decay():
    assert groups(no_decay=['pos_'])['pos_table'] == (1.0, 0.0)


def test_the_learning_rate_of_a_part_does_not_change_the_rule():
    rates = groups(custom_keys={'backbone': {'lr_mult': 0.1}})
    assert rates['backbone.0.weight'] == (pytest.approx(0.1), 0.5)
    assert rates['backbone.1.weight'] == (pytest.approx(0.1), 0.0)


def test_all_parameters_are_trained():
    assert set(groups()) == {name for name, _ in Net().named_parameters()}
