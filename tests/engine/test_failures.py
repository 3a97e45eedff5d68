"""A full disk, a work dir that is gone, samples that cannot be loaded, dead workers: one message, and a checkpoint."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mmengine.dataset import BaseDataset, Compose, ConcatDataset
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import TRANSFORMS
from torch.utils.data import Dataset

from repvit_dense.checkpoints.work_dir import find_checkpoint, last_checkpoint
from repvit_dense.engine.guard import TrainingStopped
from repvit_dense.engine.samples import SampleError, name_errors
from repvit_dense.errors import InputError

SAMPLES, ITERATIONS = 16, 8
ONE_EPOCH = {'type': 'DenseEpochLoop', 'max_epochs': 1, 'val_interval': 1}
BY_ITERATIONS = {'type': 'DenseIterLoop', 'max_iters': 12, 'val_interval': 20}


def stopped(runner, start='train'):
    with pytest.raises(TrainingStopped) as error:
        getattr(runner, start)()
    assert error.value.exit_code == 2
    return str(error.value)


# --- disk ---


@pytest.fixture(scope='module')
def first(toys, tmp_path_factory):
    """Train one epoch; return the work dir."""
    folder = tmp_path_factory.mktemp('first')
    toys(folder, train_cfg=ONE_EPOCH).train()
    return folder


@pytest.fixture
def trained(first, tmp_path):
    """Return a copy of the work dir."""
    return shutil.copytree(first, tmp_path / 'run')


@pytest.fixture
def full(monkeypatch):
    """`full(number)` lets checkpoints be half written from now on, with this error number."""

    def full(number=errno.ENOSPC):
        def put_half(self, content, path):
            Path(path).write_bytes(content[: len(content) // 2])
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(LocalBackend, 'put', put_half)

    return full


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_checkpoint_that_cannot_be_written_ends_the_training_with_one_message(trained, toy, full, number):
    full(number)
    message = stopped(toy(trained, resume=True, seed=None))
    assert f'{trained / "epoch_2.pth"}: cannot be written ({os.strerror(number)})' in message
    assert f'Last checkpoint: {trained / "epoch_1.pth"}; add --resume' in message
    assert not list(trained.glob('*.partial'))
    assert not (trained / 'epoch_2.pth').exists()
    assert last_checkpoint(trained) == str(trained / 'epoch_1.pth')
    assert find_checkpoint(str(trained)) == str(trained / 'best_toy_mAP_epoch_1.pth')


def test_an_older_file_of_the_same_name_stays(trained, toy, full):
    old = (trained / 'epoch_1.pth').read_bytes()
    full()
    assert 'No checkpoint was saved before' in stopped(toy(trained, train_cfg=ONE_EPOCH))
    assert (trained / 'epoch_1.pth').read_bytes() == old
    assert last_checkpoint(trained) is None  # the file belongs to the previous training in this folder
    assert (trained / 'previous_best_toy_mAP_epoch_1.pth').is_file()


def test_the_only_checkpoint_is_removed_after_its_successor_is_complete(tmp_path, toy, full):
    """mmengine removes the old checkpoint, and the old best one, first."""

    class Fill(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 1:
                full()

    keep_one = {'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'max_keep_ckpts': 1, 'save_best': 'toy/mAP'}}
    stopped(toy(tmp_path, default_hooks=keep_one, hooks=[Fill()]))
    assert sorted(path.name for path in tmp_path.glob('*.pth*')) == ['best_toy_mAP_epoch_1.pth', 'epoch_1.pth']


def test_one_checkpoint_is_kept(tmp_path, toy):
    keep_one = {'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'max_keep_ckpts': 1, 'save_best': 'toy/mAP'}}
    toy(tmp_path, default_hooks=keep_one).train()
    names = [path.name for path in tmp_path.glob('*.pth')]
    assert 'epoch_2.pth' in names
    assert len(names) == 2


class At(Hook):
    """A hook that calls a function before iteration `at`."""

    def __init__(self, at, function):
        self.at, self.function = at, function

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            self.function(runner)


class Full:
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self):
        pass

    close = flush


def test_a_log_that_cannot_be_written_ends_the_training(trained, toy):
    def fill(runner):
        runner.logger.handlers[-1].stream = Full()

    message = stopped(toy(trained, resume=True, hooks=[At(ITERATIONS + 1, fill)]))
    assert re.search(r'\d+\.log: cannot be written \(No space left on device\)', message)
    assert 'epoch_1.pth; add --resume' in message


def test_a_terminal_that_is_gone_does_not(tmp_path, toy, capsys):
    runner = toy(tmp_path, train_cfg=ONE_EPOCH)
    runner.logger.handlers[0].stream = Full()
    runner.train()
    assert (tmp_path / 'epoch_1.pth').is_file()
    assert 'Logging error' not in capsys.readouterr().err


def test_a_work_dir_that_is_removed_ends_the_training(tmp_path, toy):
    remove = At(5, lambda runner: shutil.rmtree(runner.work_dir))
    message = stopped(toy(tmp_path / 'run', hooks=[remove]))
    assert '.json: No such file or directory; the work dir was removed during the training' in message


def test_a_work_dir_that_cannot_be_made_is_an_input_error(tmp_path, toy):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='file.*: (File exists|Not a directory)'):
        toy(tmp_path / 'file')


def test_an_error_before_the_first_iteration_is_an_input_error(tmp_path, toy):
    def put(runner):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / 'x'))

    with pytest.raises(InputError, match='x: cannot be written .No space'):
        toy(tmp_path, hooks=[At(0, put)]).train()


# --- samples ---


class Broken(Dataset):
    """Sample 11 cannot be loaded."""

    metainfo = {'classes': ('thing',)}

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        if index == 11:
            raise ZeroDivisionError('no\nsuch   image')
        return index, torch.zeros(3, 6, 6)


BROKEN = {'dataset': Broken(), 'batch_size': 2, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}}


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('loop', [ONE_EPOCH, BY_ITERATIONS], ids=['epochs', 'iterations'])
def test_a_sample_that_cannot_be_loaded_leaves_a_checkpoint(tmp_path, toy, loop, workers):
    runner = toy(tmp_path, data=Broken(), train_cfg=loop, workers=workers)
    message = stopped(runner)
    saved = last_checkpoint(tmp_path)
    assert message == (
        'sample 11 of Broken: cannot be loaded (ZeroDivisionError: no such image). '
        f'Last checkpoint: {saved}; add --resume to the command to continue from there.'
    )
    assert Path(saved).name == f'interrupted_iter_{runner.iter}.pth'
    assert runner.iter == len(runner.model.seen) > 0


def test_a_validation_that_fails_is_repeated(tmp_path, toy):
    """Averaged weights are in the model during a validation; the checkpoint has both at their place."""
    ema = {'type': 'EMAHook', 'momentum': 0.5}
    whole = toy(tmp_path / 'whole', hooks=[ema])
    whole.train()
    message = stopped(toy(tmp_path / 'run', hooks=[ema], val_dataloader=BROKEN))
    assert 'sample 11 of Broken' in message
    assert last_checkpoint(tmp_path / 'run').endswith('interrupted_iter_8.pth')
    (tmp_path / 'run/epoch_1.pth').unlink()
    resumed = toy(tmp_path / 'run', hooks=[ema], resume=True)
    resumed.train()
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())


def test_a_test_stops_with_the_message(tmp_path, toy):
    with pytest.raises(InputError) as error:
        toy(tmp_path, test_dataloader={**BROKEN, 'num_workers': 1}).test()
    assert str(error.value) == 'sample 11 of Broken: cannot be loaded (ZeroDivisionError: no such image)'


@TRANSFORMS.register_module(name='FailsAt', force=True)
class FailsAt:
    """A transform that cannot read some files; it returns None or raises an error."""

    def __init__(self, names, error=True):
        self.names, self.error = names, error

    def __call__(self, info):
        if info['img_path'] not in self.names:
            return info
        if self.error:
            raise ValueError('empty buffer')
        return None


def images(names, **arguments):
    class Images(BaseDataset):
        def load_data_list(self):
            return [{'img_path': name, 'seg_map_path': name and None} for name in names]

    return Images(ann_file='', **arguments)


def loaded(dataset, index):
    name_errors(torch.utils.data.DataLoader(dataset))
    return dataset.__getitems__([index])


def test_the_file_is_named():
    data = images(['a.png', 'b.png'], pipeline=[FailsAt(['b.png'])])
    with pytest.raises(SampleError, match=r'^b.png: cannot be loaded \(ValueError: empty buffer\)$'):
        loaded(ConcatDataset([images(['c.png']), data]), 2)


def test_the_file_is_named_if_another_sample_is_loaded_in_place_of_the_first():
    data = images(['a.png', 'b.png'], pipeline=[FailsAt(['a.png'], error=False), FailsAt(['b.png'])])
    with pytest.raises(SampleError, match=r'^b.png: '):
        loaded(data, 0)


def test_a_transform_that_rejects_everything_is_named():
    data = images(['a.png'], pipeline=[Compose([]), FailsAt(['a.png'], error=False)], max_refetch=3)
    with pytest.raises(SampleError, match=r'^a.png, and every image tried after it, is rejected by FailsAt: '):
        loaded(data, 0)


# --- workers ---


@pytest.fixture
def poll_often(monkeypatch):
    """Let a data loader look after its workers every 0.2 seconds instead of 5."""
    monkeypatch.setattr(
        torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data, '__defaults__', (0.2,)
    )


def test_a_worker_that_is_killed_is_reported(tmp_path, toy, poll_often):
    """torch names the signal in its SIGCHLD handler only, which would interrupt an iteration."""

    def kill(runner):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    runner = toy(tmp_path, hooks=[At(2, kill)], workers=1)
    message = stopped(runner)
    assert message.startswith('DataLoader worker (pid')
    assert 'killed by signal: Killed. A worker ends like this if memory' in message
    assert f'interrupted_iter_{runner.iter}.pth; add --resume' in message


class Unshareable(torch.Tensor):
    def __reduce_ex__(self, protocol):
        raise RuntimeError('unable to allocate shared memory(shm)')


class Large(Broken):
    def __getitem__(self, index):
        x = torch.zeros(3, 6, 6)
        return index, x.as_subclass(Unshareable) if index == 11 else x


def test_a_batch_that_does_not_fit_into_shared_memory_ends_the_training(tmp_path, toy, poll_often, capfd):
    message = stopped(toy(tmp_path, data=Large(), workers=1))
    assert 'shared memory (/dev/shm) is exhausted; use fewer' in message
    assert 'cannot be passed on to the training: unable to allocate shared memory(shm)' in capfd.readouterr().err
