"""Signals and non-finite losses: files, messages, and a resumed run that ends with the same weights."""

import json
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from repvit_dense.engine.guard import ECHO, TrainingStopped

ITERATIONS = 8  # per epoch
FORKED = pytest.mark.timeout(200)  # the first start imports everything


class Signal(Hook):
    """A hook that sends its process a signal before iteration `at` (from 0)."""

    priority = 'VERY_HIGH'

    def __init__(self, at, number=signal.SIGINT):
        self.at, self.number = at, number

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            os.kill(os.getpid(), self.number)


class Poison(Hook):
    """A hook that sets the loss to `value` from iteration `at` (from 0) on."""

    priority = 'HIGHEST'

    def __init__(self, at, value):
        self.at, self.value = at, value

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter >= self.at:
            outputs['loss_toy'] = torch.tensor(self.value)


def last(work_dir):
    return Path((work_dir / 'last_checkpoint').read_text())


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(state[key], expected[key])] == []


def validation_scores(work_dir):
    """Return (step, score) pairs, over all starts."""
    text = ''.join(path.read_text() for path in sorted(work_dir.glob('*/vis_data/scalars.json')))
    records = [json.loads(line) for line in text.splitlines()]
    return [(record['step'], record['toy/mAP']) for record in records if 'toy/mAP' in record]


# --- signals ---


@FORKED
@pytest.mark.parametrize(
    'send, number, code',
    [
        (os.killpg, signal.SIGINT, 130),  # Ctrl-C in a terminal: the workers receive it too
        (os.killpg, signal.SIGTERM, 143),  # `timeout` or a scheduler: it ends the workers
        (os.kill, signal.SIGTERM, 143),
    ],
)
def test_a_stopped_run_resumes_to_the_same_weights(tmp_path, start, toy, whole_run, send, number, code):
    work_dir = tmp_path / 'run'
    child = start(work_dir, wait=('train', 2), workers=1)
    child.wait_for('reached')
    workers = json.loads((work_dir / 'workers').read_text())
    send(child.pid, number)
    child.go()

    assert child.exit_code() == code
    saved = work_dir / 'interrupted_iter_3.pth'  # the iteration during the signal is finished
    assert last(work_dir) == saved
    assert f'stopped by {number.name} after iteration 3; saved {saved}' in child.output
    assert '--resume' in child.output
    assert 'Traceback' not in child.output
    assert len(workers) == 1
    assert_gone(workers)

    runner = toy(work_dir, resume=True, seed=None)
    runner.train()
    assert len(runner.model.seen) == 2 * ITERATIONS - 3
    assert_same(runner.model.state_dict(), whole_run.model.state_dict())
    assert validation_scores(work_dir) == validation_scores(Path(whole_run.work_dir))


@FORKED
def test_a_stopped_validation_is_run_again(tmp_path, start, toy, whole_run):
    work_dir = tmp_path / 'run'
    child = start(work_dir, wait=('val', 2 * ITERATIONS - 1))  # the last batch of the last validation
    child.wait_for('reached')
    os.kill(child.pid, signal.SIGTERM)
    child.go()

    assert child.exit_code() == 143
    assert last(work_dir).name == f'interrupted_iter_{2 * ITERATIONS}.pth'
    assert len(validation_scores(work_dir)) == 1

    runner = toy(work_dir, resume=True)
    runner.train()
    assert runner.model.seen == []
    assert_same(runner.model.state_dict(), whole_run.model.state_dict())
    assert validation_scores(work_dir) == validation_scores(Path(whole_run.work_dir))
    assert list(work_dir.glob('best_*.pth'))[0].name == list(Path(whole_run.work_dir).glob('best_*.pth'))[0].name


@FORKED
@pytest.mark.parametrize('background', [False, True])
def test_a_second_signal_stops_at_once(tmp_path, start, background):
    child = start(tmp_path / 'run', wait=('train', 2), workers=1, background=background)
    child.wait_for('reached')
    workers = json.loads((tmp_path / 'run/workers').read_text())
    os.kill(child.pid, signal.SIGINT)
    child.wait_for('received')
    assert child.process.is_alive()
    time.sleep(1.1 * ECHO)
    os.kill(child.pid, signal.SIGINT)  # without `go` the iteration does not end

    assert child.exit_code() == 130
    assert not list((tmp_path / 'run').glob('*.pth*'))
    assert_gone(workers)


@FORKED
def test_a_signal_that_ends_workers_while_the_loader_waits_for_them(tmp_path, start):
    child = start(tmp_path / 'run', block_at=11, workers=1)
    child.wait_for('reached')
    time.sleep(0.5)  # until the preloaded batches are used
    os.killpg(child.pid, signal.SIGTERM)
    assert child.exit_code() == 143
    iterations = int(last(tmp_path / 'run').stem.rpartition('_')[2])
    assert f'stopped by SIGTERM after iteration {iterations};' in child.output


@FORKED
def test_processes_stop_together(tmp_path, start):
    """One of two processes receives the signal; both stop after the same iteration and after the checkpoint."""
    children = [
        start(tmp_path / f'rank{rank}', group=rank, wait=('train', 2) if rank else None, seed=1) for rank in range(2)
    ]
    children[1].wait_for('reached')
    os.kill(children[1].pid, signal.SIGTERM)
    children[1].go()
    assert [child.exit_code() for child in children] == [143, 143]
    messages = [next(line for line in child.output.splitlines() if line.startswith('stopped by')) for child in children]
    assert [line.partition(';')[0] for line in messages] == ['stopped by SIGTERM after iteration 3'] * 2
    saved = last(tmp_path / 'rank0')
    assert saved.name == 'interrupted_iter_3.pth'
    assert (tmp_path / 'rank1.txt').stat().st_mtime_ns > saved.stat().st_mtime_ns
    assert not (tmp_path / 'rank1/last_checkpoint').exists()


def assert_gone(pids):
    deadline = time.monotonic() + 10
    while any(Path(f'/proc/{pid}').exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_forked_processes_neither_save_nor_survive(tmp_path, toy):
    """A worker before its setup by torch, or a process of an evaluation pool, inherits the handlers."""

    class Fork(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            ready, say = os.pipe()
            pid = os.fork()
            if not pid:
                os.write(say, b'.')
                time.sleep(10)
                os._exit(9)
            os.read(ready, 1)
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(pid, number)
            self.status = os.waitpid(pid, 0)[1]
            raise RuntimeError('enough')

    fork = Fork()
    with pytest.raises(RuntimeError, match='enough'):
        toy(tmp_path, hooks=[fork]).train()
    assert os.waitstatus_to_exitcode(fork.status) == 0


@pytest.mark.parametrize(
    'hooks',
    [[], [Signal(at=1, number=signal.SIGTERM)], [Poison(at=1, value=float('nan'))]],
    ids=['at the end', 'after a signal', 'after an error'],
)
def test_handlers_are_restored(tmp_path, toy, hooks):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(TrainingStopped) if hooks else nullcontext():
        toy(tmp_path, hooks=hooks, train_cfg={'type': 'DenseEpochLoop', 'max_epochs': 1}).train()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_starting_from_weights_of_a_stopped_validation_does_not_validate(tmp_path, toy):
    """`validation_due` is for resuming, not for a new training from these weights."""
    with pytest.raises(TrainingStopped):
        toy(tmp_path / 'a', hooks=[SignalInValidation()]).train()
    runner = toy(tmp_path / 'b', load_from=str(last(tmp_path / 'a')), hooks=[Signal(at=1)])
    with pytest.raises(TrainingStopped):
        runner.train()
    assert validation_scores(tmp_path / 'b') == []


@pytest.mark.parametrize('at', [2, 3, 6, ITERATIONS - 1])
def test_a_run_by_iterations_resumes_to_the_same_weights_and_scores(tmp_path, toy, at):
    """The signal may arrive in the iteration before a validation, or in the last one."""

    def run(work_dir, **kwargs):
        return toy(
            work_dir,
            train_cfg={'type': 'DenseIterLoop', 'max_iters': ITERATIONS, 'val_interval': 4},
            default_hooks={
                'logger': {'type': 'LoggerHook', 'interval': 2, 'log_metric_by_epoch': False},
                'checkpoint': {'type': 'CheckpointHook', 'interval': 4, 'by_epoch': False, 'save_best': 'toy/mAP'},
            },
            log_processor={'by_epoch': False},
            **kwargs,
        )

    whole = run(tmp_path / 'whole')
    whole.train()
    with pytest.raises(TrainingStopped):
        run(tmp_path / 'run', hooks=[Signal(at)]).train()
    assert last(tmp_path / 'run').name == f'interrupted_iter_{at + 1}.pth'
    resumed = run(tmp_path / 'run', resume=True, seed=None)
    resumed.train()
    assert_same(resumed.model.state_dict(), whole.model.state_dict())
    assert [step for step, _ in validation_scores(tmp_path / 'whole')] == [4, 8]
    assert validation_scores(tmp_path / 'run') == validation_scores(tmp_path / 'whole')


class SignalInValidation(Hook):
    def before_val_iter(self, runner, batch_idx, data_batch=None):
        os.kill(os.getpid(), signal.SIGINT)


# --- losses ---


@pytest.mark.parametrize('value, text', [(float('nan'), 'nan'), (float('inf'), 'inf'), (float('-inf'), '-inf')])
def test_a_non_finite_loss_stops_the_run(tmp_path, toy, value, text):
    runner = toy(tmp_path, hooks=[Poison(at=ITERATIONS + 2, value=value)])
    with pytest.raises(TrainingStopped) as stopped:
        runner.train()
    message = str(stopped.value)
    assert stopped.value.exit_code == 1
    assert f'iteration {ITERATIONS + 3}:' in message
    assert f'(loss_toy = {text})' in message  # the sum is finite here
    assert str(tmp_path / 'epoch_1.pth') in message
    assert 'clip_grad' in message


def test_no_checkpoint_follows_a_non_finite_loss(tmp_path, toy):
    every_iteration = {'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False}}
    with pytest.raises(TrainingStopped, match='iter_3.pth'):
        toy(tmp_path, hooks=[Poison(at=3, value=float('nan'))], default_hooks=every_iteration).train()
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_1.pth', 'iter_2.pth', 'iter_3.pth']


def test_a_non_finite_loss_before_any_checkpoint(tmp_path, toy):
    with pytest.raises(TrainingStopped, match='none yet'):
        toy(tmp_path, hooks=[Poison(at=0, value=float('nan'))]).train()


def test_other_outputs_may_be_non_finite(tmp_path, toy):
    class Accuracy(Hook):
        priority = 'HIGHEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            outputs['acc'] = torch.tensor(float('nan'))

    one = {'type': 'DenseEpochLoop', 'max_epochs': 1}
    toy(tmp_path, hooks=[Accuracy()], train_cfg=one).train()
