"""Random numbers follow from the seed and the position alone: a killed and resumed training ends with the same bits.

The toy data and hooks draw from the generators of Python, numpy and torch.
"""

import random
import signal

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from torch.utils.data import Dataset

from repvit_dense.engine.seeding import seed_all

ITERATIONS, SAMPLES = 8, 16
BY_ITERATIONS = {'train_cfg': {'type': 'DenseIterLoop', 'max_iters': 2 * ITERATIONS, 'val_interval': 8}}


class RandomData(Dataset):
    """Random samples; `loaded` counts the samples loaded in this process."""

    metainfo = {'classes': ('thing',)}

    def __init__(self):
        self.loaded = 0

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        self.loaded += 1
        assert type(index) is int
        drawn = random.random() + np.random.rand() + torch.rand(3, 6, 6)
        return index, drawn.float() + index


class Noise(Hook):
    """A hook that draws in the main process around each iteration and records data and numbers."""

    def __init__(self, stop_at=None):
        self.seen, self.stop_at = [], stop_at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        drawn = random.random(), np.random.rand(), torch.rand(()).item()
        self.seen.append((data_batch[0], torch.stack(data_batch[1]), drawn))
        with torch.no_grad():
            runner.model.out.bias += sum(drawn)
        if runner.iter == self.stop_at:
            raise KeyboardInterrupt

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        random.random(), np.random.rand(), torch.rand(())


@pytest.fixture(autouse=True)
def handlers():
    """Restore the signal handlers after each test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def trained(toy, work_dir, stop_at=None, **kwargs):
    noise = Noise(stop_at)
    loader = {
        'dataset': RandomData(),
        'sampler': {'type': 'DefaultSampler', 'shuffle': True},
        'batch_size': 2,
        **kwargs.pop('train_dataloader', {}),
    }
    hooks = [noise, {'type': 'DenseRecentCheckpointHook', 'iterations': 1}]
    runner = toy(work_dir, hooks=hooks, train_dataloader=loader, **kwargs)
    if stop_at is None:
        runner.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    return runner, noise.seen


def assert_same(runs, others):
    assert len(runs) == len(others)
    for (index, data, drawn), (index2, data2, drawn2) in zip(runs, others, strict=True):
        assert (list(index), drawn) == (list(index2), drawn2)
        assert torch.equal(data, data2)


def assert_same_weights(runner, other):
    state, expected = runner.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_all_generators_are_seeded():
    seed_all(1, 2)
    drawn = random.random(), np.random.rand(), torch.rand(()).item()
    seed_all(1, 2)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == drawn
    seed_all(2, 1)
    assert all(a != b for a, b in zip((random.random(), np.random.rand(), torch.rand(()).item()), drawn, strict=True))


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_do_not_change_the_numbers(tmp_path, toy, workers):
    alone, expected = trained(toy, tmp_path / 'alone')
    loader = {'num_workers': workers, 'persistent_workers': True}
    helped, seen = trained(toy, tmp_path / 'helped', train_dataloader=loader)
    helped.train_dataloader._iterator = None  # end the workers now; the garbage collector would wait 5 s for each
    assert_same(seen, expected)
    assert_same_weights(helped, alone)


def test_epochs_and_iterations_draw_different_numbers(tmp_path, toy):
    _, seen = trained(toy, tmp_path)
    fraction = {(int(i), e): x[0, 0, 0].item() - int(i) for e in (0, 1) for index, data, _ in
                seen[e * ITERATIONS : (e + 1) * ITERATIONS] for i, x in zip(index, data, strict=True)}  # fmt: skip
    assert len(set(fraction.values())) == 2 * SAMPLES
    assert len({drawn for _, _, drawn in seen}) == 2 * ITERATIONS


def test_another_seed_draws_different_numbers(tmp_path, toy):
    first, second = (trained(toy, tmp_path / str(seed), seed=seed)[1] for seed in (0, 1))
    assert not {drawn for _, _, drawn in first} & {drawn for _, _, drawn in second}


@pytest.mark.parametrize('settings', [{}, BY_ITERATIONS], ids=['epochs', 'iterations'])
@pytest.mark.parametrize('at', [3, ITERATIONS, ITERATIONS + 5])
def test_a_resumed_training_draws_the_same_numbers(tmp_path, toy, settings, at):
    whole, expected = trained(toy, tmp_path / 'whole', **settings)
    _, before = trained(toy, tmp_path / 'run', stop_at=at, **settings)
    resumed, after = trained(toy, tmp_path / 'run', resume=True, seed=None, **settings)
    assert_same(before[:-1] + after, expected)
    assert_same_weights(resumed, whole)
    assert resumed.train_dataloader.dataset.loaded == SAMPLES * 2 - at * 2  # skipped samples are not loaded


def test_resuming_with_a_smaller_last_batch(tmp_path, toy):
    loader = {'batch_size': 3}  # 5 batches of 3, one of 1
    whole, expected = trained(toy, tmp_path / 'whole', train_dataloader=loader)
    trained(toy, tmp_path / 'run', stop_at=8, train_dataloader=loader)
    resumed, after = trained(toy, tmp_path / 'run', resume=True, train_dataloader=loader)
    assert_same(after, expected[8:])
    assert_same_weights(resumed, whole)


def test_a_smaller_last_batch_can_be_dropped(tmp_path, toy):
    runner, _ = trained(toy, tmp_path, train_dataloader={'batch_size': 3, 'drop_last': True})
    assert runner.max_iters == 2 * 5


def test_a_killed_process_resumes_to_the_same_bits(tmp_path, start, toy):
    """Send SIGKILL within an iteration of a run with a worker."""
    every = {'type': 'DenseRecentCheckpointHook', 'iterations': 2}
    whole = toy(tmp_path / 'whole', hooks=[every])
    whole.train()
    child = start(tmp_path / 'run', wait=('train', 5), workers=1, every=2)
    child.wait_for('reached')
    child.process.kill()
    assert child.exit_code() == -9
    assert (tmp_path / 'run/last_checkpoint').read_text().endswith('recent_iter_4.pth')
    resumed = toy(tmp_path / 'run', hooks=[every], resume=True, seed=None)
    resumed.train()
    assert len(resumed.model.seen) == 2 * ITERATIONS - 4
    assert_same_weights(resumed, whole)


def test_another_number_of_processes_is_refused(tmp_path, toy):
    from repvit_dense.checkpoints.reading import CheckpointError

    trained(toy, tmp_path, stop_at=3)
    path = tmp_path / 'recent_iter_3.pth'
    content = torch.load(path, weights_only=False)
    content['meta']['world_size'] = 4
    torch.save(content, path)
    with pytest.raises(CheckpointError, match='number of processes: 4 there, 1 now'):
        trained(toy, tmp_path, resume=True)
