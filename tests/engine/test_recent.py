"""Frequent checkpoints: interval, number, and removal."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.hooks import Hook

from repvit_dense.engine import recent

ITERATIONS = 8


class Look(Hook):
    """A hook that records the recent checkpoints after each iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(sorted(int(path.stem[12:]) for path in Path(runner.work_dir).glob('recent_iter_*.pth')))


def seen(toy, work_dir, **every):
    look = Look()
    runner = toy(work_dir, hooks=[{'type': 'DenseRecentCheckpointHook', **every}, look])
    runner.train()
    return look.seen


def test_the_last_two_of_an_interval_in_iterations_are_kept(tmp_path, toy):
    assert seen(toy, tmp_path, iterations=3) == [
        *([], [], [3], [3], [3], [3, 6], [3, 6], [3, 6]),
        *([6, 9], [6, 9], [6, 9], [9, 12], [9, 12], [9, 12], [12, 15], [12, 15]),
    ]
    # The checkpoints of the recipe stay when training has ended; --resume finds the last of them.
    names = sorted(path.name for path in tmp_path.glob('*.pth') if not path.name.startswith('best_'))
    assert names == ['epoch_1.pth', 'epoch_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_2.pth')


def test_an_interval_in_minutes(tmp_path, toy, monkeypatch):
    """Each call of the clock advances it by 40 seconds."""
    clock = iter(range(0, 10**6, 40))
    monkeypatch.setattr(recent, 'time', SimpleNamespace(monotonic=lambda: next(clock)))
    files = [names[-1] for names in seen(toy, tmp_path, minutes=5) if names]
    assert sorted(set(files)) == [8, 16]  # saving calls the clock too


@pytest.mark.parametrize('counts, expected', [(1, {1, 2, 3, 4}), (2, {2, 4})])
def test_no_checkpoint_while_gradients_are_accumulated(tmp_path, toy, counts, expected):
    optimizer = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.01}, 'accumulative_counts': counts}
    look = Look()
    hooks = [{'type': 'DenseRecentCheckpointHook', 'iterations': 1}, look]
    toy(tmp_path, hooks=hooks, optim_wrapper=optimizer).train()
    assert {number for names in look.seen[:4] for number in names} == expected
