"""Checkpoints hold plain values and tensors only, and the log histories in them continue exactly."""

import enum
import os
import signal
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from repvit_dense.engine.guard import TrainingStopped
from repvit_dense.engine.plain import plain, restore_histories

ITERATIONS = 8


class Number(int):
    pass


class Colour(str, enum.Enum):
    RED = 'red'


@pytest.mark.parametrize(
    'value, expected',
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_('a'), 'a'),
        (Number(3), 3),
        (Colour.RED, 'red'),
        (Path('a/b'), 'a/b'),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array(['a']), ['a']),
        (ConfigDict(a=[ConfigDict(b=1)]), {'a': [{'b': 1}]}),
        (({'x': (np.int8(1),)},), ({'x': (1,)},)),
        ({np.int64(1): 'a'}, {1: 'a'}),
        ({'a'}, ['a']),
        (10**30, 10**30),
        (None, None),
    ],
)
def test_values_become_plain(value, expected):
    def types(x):
        inner = [*x, *x.values()] if isinstance(x, dict) else x if isinstance(x, list | tuple) else ()
        return type(x), *map(types, inner)

    converted = plain(value, 'value', [])
    assert converted == expected
    assert types(converted) == types(expected)


def test_the_attributes_of_a_state_dict_stay():
    state = torch.nn.Linear(1, 1).state_dict()
    converted = plain(state, 'state', [])
    assert type(converted) is OrderedDict
    assert converted._metadata == state._metadata


def test_other_objects_are_left_out_and_named():
    left_out = []
    assert plain({'a': [1, print], 'b': 2}, 'content', left_out) == {'a': [1, None], 'b': 2}
    assert left_out == ['content.a[1] (builtin_function_or_method)']


def test_histories_return():
    history = HistoryBuffer([0.1, 0.2, 3.0], [1, 2, 1], max_length=7)
    message_hub = {'log_scalars': {'new': plain(history, '', []), 'old': history}}
    restore_histories(message_hub)
    for restored in message_hub['log_scalars'].values():
        assert isinstance(restored, HistoryBuffer)
        assert restored.max_length == 7
        assert [array.tolist() for array in restored.data] == [[0.1, 0.2, 3.0], [1, 2, 1]]
        assert [array.dtype for array in restored.data] == [np.float64, np.int64]
        assert restored.mean(2) == history.mean(2)


class Interrupt(Hook):
    """A hook that records values of other libraries in the message hub, and sends a signal in the second epoch."""

    def before_train(self, runner):
        runner.message_hub.update_info('found', ConfigDict(score=np.float32(0.5), at=np.arange(3)))
        runner.message_hub.update_info('function', print)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == ITERATIONS + 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def nothing_allowed():
    """Let `torch.load` create the classes it knows by itself only; mmengine adds others."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.add_safe_globals(before)


@pytest.fixture
def interrupted(tmp_path, toy):
    """Train until the second epoch; return the work dir."""
    hooks = [{'type': 'EMAHook'}, {'type': 'DenseRecentCheckpointHook', 'iterations': 3}, Interrupt()]
    with pytest.raises(TrainingStopped):
        toy(tmp_path, hooks=hooks).train()
    return tmp_path


def test_any_process_loads_every_checkpoint(interrupted, toy, nothing_allowed):
    last = interrupted / 'interrupted_iter_10.pth'
    content = torch.load(last, weights_only=True)
    runtime = content['message_hub']['runtime_info']
    assert runtime['found'] == {'score': 0.5, 'at': [0, 1, 2]}
    assert runtime['function'] is None
    assert content['message_hub']['log_scalars']['train/loss']['values'].shape == (10,)

    toy(interrupted, train_cfg={'type': 'DenseEpochLoop', 'max_epochs': 1}).train()  # a new training in this folder
    names = {path.name for path in interrupted.glob('*.pth')}
    assert names > {'previous_best_toy_mAP_epoch_1.pth', 'best_toy_mAP_epoch_1.pth', 'epoch_1.pth', last.name}
    assert any(name.startswith('recent') for name in names)
    for name in names:
        torch.load(interrupted / name, weights_only=True)


def test_values_that_are_left_out_are_reported(interrupted):
    log = next(interrupted.glob('*/*.log')).read_text()
    assert 'Not saved, because neither plain values nor tensors: checkpoint.message_hub.runtime_info.function' in log


def test_the_runner_of_mmengine_resumes_from_a_checkpoint(interrupted, toy):
    """Its log starts anew, because only a `DenseRunner` restores the histories."""
    runner = toy(
        interrupted,
        runner=Runner,
        hooks=[{'type': 'EMAHook'}],
        resume=True,
        load_from=str(interrupted / 'epoch_1.pth'),
        train_cfg={'by_epoch': True, 'max_epochs': 2, 'val_interval': 2},
    )
    runner.train()
    assert len(runner.model.seen) == ITERATIONS
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == ITERATIONS
    assert runner.iter == 2 * ITERATIONS
