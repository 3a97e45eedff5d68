"""Resuming within an epoch: each of its samples is used once, for any seed of the resuming start."""

import os
import signal
from itertools import chain

import pytest
import torch
from mmengine.hooks import Hook

from repvit_dense.engine.guard import TrainingStopped

SAMPLES, ITERATIONS, EPOCHS = 16, 8, 2


class Interrupt(Hook):
    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            os.kill(os.getpid(), signal.SIGINT)


class Record(Hook):
    """A hook that records batch indices and the calls around epochs."""

    def __init__(self):
        self.batches, self.calls = [], []

    def before_train_epoch(self, runner):
        self.calls.append(('before', runner.epoch))

    def after_train_epoch(self, runner):
        self.calls.append(('after', runner.epoch))

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.batches.append(batch_idx)


def interrupted(toy, work_dir, at, **kwargs):
    runner = toy(work_dir, hooks=[Interrupt(at)], **kwargs)
    with pytest.raises(TrainingStopped):
        runner.train()
    return runner


def test_an_uninterrupted_run_equals_one_of_mmengine(tmp_path, toy, whole_run):
    stock = toy(tmp_path, train_cfg={'by_epoch': True, 'max_epochs': EPOCHS, 'val_interval': 1})
    stock.train()
    assert stock.model.seen == whole_run.model.seen
    assert all(torch.equal(v, stock.model.state_dict()[k]) for k, v in whole_run.model.state_dict().items())


def test_the_order_differs_between_epochs(whole_run):
    first, second = whole_run.model.seen[:ITERATIONS], whole_run.model.seen[ITERATIONS:]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(SAMPLES))
    assert first != second


@pytest.mark.parametrize('at', [0, 2, ITERATIONS - 1, ITERATIONS, ITERATIONS + 3, EPOCHS * ITERATIONS - 1])
def test_each_batch_is_used_once_and_in_order(tmp_path, toy, whole_run, at):
    before = interrupted(toy, tmp_path, at).model.seen
    after = toy(tmp_path, resume=True)
    after.train()
    assert len(before) == at + 1
    assert before + after.model.seen == whole_run.model.seen


def test_the_seed_of_the_first_start_is_kept(tmp_path, toy):
    """Without `--seed` each start draws a seed, but the order of a started epoch must not change."""
    first = interrupted(toy, tmp_path, 2, seed=None)
    second = toy(tmp_path, resume=True, seed=None)
    assert first.seed != second.seed
    second.train()
    epoch = first.model.seen + second.model.seen[: ITERATIONS - 3]
    assert sorted(chain(*epoch)) == list(range(SAMPLES))


def test_hooks_receive_the_batch_indices(tmp_path, toy):
    interrupted(toy, tmp_path, ITERATIONS + 2)
    record = Record()
    toy(tmp_path, resume=True, hooks=[record]).train()
    assert record.batches == list(range(3, ITERATIONS))
    assert record.calls == [('before', 1), ('after', 1)]


def test_an_epoch_stopped_in_its_last_iteration_is_completed(tmp_path, toy):
    interrupted(toy, tmp_path, ITERATIONS - 1)
    assert not (tmp_path / 'epoch_1.pth').exists()
    toy(tmp_path, resume=True).train()
    assert (tmp_path / 'epoch_1.pth').exists()


@pytest.mark.parametrize('at', [0, 5, ITERATIONS])
def test_training_by_iterations_uses_each_batch_once_and_in_order(tmp_path, toy, whole_run, at):
    """Use the sampler of such recipes; the last interruption is in its second pass through the data."""

    def run(work_dir, **kwargs):
        loader = {
            'dataset': whole_run.train_dataloader.dataset,
            'sampler': {'type': 'InfiniteSampler', 'shuffle': True},
            'batch_size': 2,
        }
        by_iterations = {'type': 'DenseIterLoop', 'max_iters': ITERATIONS + 4, 'val_interval': 4}
        return toy(
            work_dir, train_dataloader=loader, train_cfg=by_iterations, log_processor={'by_epoch': False}, **kwargs
        )

    whole = run(tmp_path / 'whole')
    whole.train()
    before = run(tmp_path / 'run', hooks=[Interrupt(at)])
    with pytest.raises(TrainingStopped):
        before.train()
    after = run(tmp_path / 'run', resume=True, seed=None)
    after.train()
    assert len(before.model.seen) == at + 1
    assert before.model.seen + after.model.seen == whole.model.seen
    assert sorted(chain(*whole.model.seen[:ITERATIONS])) == list(range(SAMPLES))


@pytest.mark.parametrize('at', [3, ITERATIONS + 2, ITERATIONS + 3])
def test_a_training_that_ends_within_an_epoch_is_the_start_of_the_whole_one(tmp_path, toy, whole_run, at):
    """The last interruption is in the last iteration."""
    end = ITERATIONS + 4
    train_cfg = {'type': 'DenseEpochLoop', 'max_epochs': 9, 'max_iters': end, 'val_interval': 2}
    before = interrupted(toy, tmp_path, at, train_cfg=train_cfg).model.seen
    after = toy(tmp_path, resume=True, train_cfg=train_cfg)
    after.train()
    assert before + after.model.seen == whole_run.model.seen[:end]
    assert (after.iter, after.epoch, after.max_epochs) == (end, 2, 2)
    assert (tmp_path / 'epoch_2.pth').exists() and after.message_hub.get_info('iter_validated') == end
