"""A training run that takes a moment, with the package's runner and hooks: a convolution learns to sum its input.

As a script, `conftest.py '{"work_dir": ...}'` trains in a separate process and exits like the command `train`.
"""

import json
import multiprocessing
import signal
import sys
import time
from itertools import count
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from repvit_dense.backbones.layers import ConvBN
from repvit_dense.engine.guard import TrainingStopped
from repvit_dense.engine.runner import DenseRunner

SAMPLES, BATCH, EPOCHS = 16, 2, 2
HOOKS = ('DenseNonFiniteLossHook', 'DenseSaveOnSignalHook', 'DenseProgressHook', 'DenseCurvesHook')
_number = count()


class ToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = ConvBN(3, 4, 3)
        self.out = nn.Conv2d(4, 1, 1)
        self.seen = []  # indices of the training samples, one list per batch

    def forward(self, index, x, mode='tensor'):
        x = torch.stack(x)
        y = self.out(self.conv(x)).mean((1, 2, 3))
        error = (y - x.sum((1, 2, 3))).square()
        if mode == 'loss':
            self.seen.append(index)
            return {'loss_toy': error.mean()}
        return list(error)


class ToyData(Dataset):
    """Samples `(index, (3, 6, 6) tensor)`. Loading sample `block_at` creates the file `mark` and never returns."""

    metainfo = {'classes': ('thing',)}

    def __init__(self, block_at=None, mark=None):
        self.block_at, self.mark = block_at, mark

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        if index == self.block_at:
            Path(self.mark).touch()
            time.sleep(600)
        return index, torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(index))


class ToyMetric(BaseMetric):
    default_prefix = 'toy'

    def process(self, data_batch, data_samples):
        self.results += [error.item() for error in data_samples]

    def compute_metrics(self, results):
        return {'mAP': 1 / (1 + sum(results) / len(results))}


class Wait(Hook):
    """A hook that creates a file `reached` before iteration `at` (from 0) of a stage, and waits for a file `go`."""

    def __init__(self, stage, at):
        self.stage, self.left = stage, at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._before_iter('train', runner)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self._before_iter('val', runner)

    def _before_iter(self, stage, runner):
        if stage != self.stage:
            return
        self.left -= 1
        if self.left != -1:
            return
        folder = Path(runner.work_dir)
        (folder / 'workers').write_text(json.dumps([child.pid for child in multiprocessing.active_children()]))
        (folder / 'reached').touch()
        guard = next(hook for hook in runner.hooks if type(hook).__name__ == 'DenseSaveOnSignalHook')
        while not (folder / 'go').exists():
            time.sleep(0.01)
            if guard._received:
                (folder / 'received').touch()


class SlowSave(Hook):
    def before_save_checkpoint(self, runner, checkpoint):
        time.sleep(0.5)


def make_runner(work_dir, workers=0, seed=0, hooks=(), data=None, runner=DenseRunner, **kwargs):
    """Build a runner for `EPOCHS` epochs of `SAMPLES` samples; `kwargs` are arguments of the class `runner`."""
    state = torch.get_rng_state()
    torch.manual_seed(0)  # initial weights do not depend on `seed`
    model = ToyModel()
    torch.set_rng_state(state)
    arguments = {
        'model': model,
        'work_dir': str(work_dir),
        'train_dataloader': {
            'dataset': data or ToyData(),
            'sampler': {'type': 'DefaultSampler', 'shuffle': True},
            'batch_size': BATCH,
            'num_workers': workers,
            'persistent_workers': workers > 0,
        },
        'train_cfg': {'type': 'DenseEpochLoop', 'max_epochs': EPOCHS, 'val_interval': 1},
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 0.02}},
        'param_scheduler': [{'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 12}],
        'default_hooks': {
            'logger': {'type': 'LoggerHook', 'interval': 2},
            'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'save_best': 'toy/mAP', 'rule': 'greater'},
        },
        'custom_hooks': [*({'type': name} for name in HOOKS), *hooks],
        'randomness': {'seed': seed},
        'experiment_name': f'toy{next(_number)}',  # runs of the same name share mmengine's message hub
    }
    for split in ('val', 'test'):
        arguments[f'{split}_cfg'] = {}
        arguments[f'{split}_evaluator'] = [ToyMetric()]
        arguments[f'{split}_dataloader'] = {
            'dataset': ToyData(),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'batch_size': BATCH,
        }
    return runner(**{**arguments, **kwargs})


# --- in a separate process ---

# One server forks the processes of all test files, so it preloads the imports of all of them.
PRELOAD = ['pytest', 'repvit_dense', 'mmdet.apis', 'matplotlib.pyplot', 'torch.utils.tensorboard']
CHILD = """
import os, runpy, sys
os.setpgid(0, 0)
for stream in (1, 2):
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
sys.argv = [path, options]
runpy.run_path(path, run_name='__main__')
"""


class Child:
    """A training process whose output goes to a file. It is forked from a process that has done the imports."""

    def __init__(self, work_dir, **options):
        self.work_dir = Path(work_dir)
        self.work_dir.mkdir(exist_ok=True)
        self._file = self.work_dir.with_suffix('.txt')
        values = {
            'output': str(self._file),
            'path': __file__,
            'options': json.dumps({'work_dir': str(work_dir), **options}),
        }
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(PRELOAD)
        self.process = context.Process(target=exec, args=(CHILD, values))
        self.process.start()
        self.pid = self.process.pid

    def wait_for(self, name):
        deadline = time.monotonic() + 120
        while not (self.work_dir / name).exists():
            assert self.process.is_alive() and time.monotonic() < deadline, self.output
            time.sleep(0.01)

    def go(self):
        (self.work_dir / 'go').touch()

    def exit_code(self):
        self.process.join(120)
        return self.process.exitcode

    @property
    def output(self):
        return self._file.read_text()


def train_and_exit(work_dir, wait=None, block_at=None, group=None, background=False, every=None, **kwargs):
    """Train and exit like the command `train`.

    Args:
        work_dir: work directory of the run.
        wait: arguments of `Wait`.
        block_at: index of the sample whose loading blocks.
        group: rank in a process group of two processes, which meet in the file `group` beside `work_dir`.
        background: ignore SIGINT, like a job that a script starts with `&`.
        every: iterations between recent checkpoints.
        kwargs: arguments of `make_runner`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.default_int_handler)
    if group is not None:
        store = torch.distributed.FileStore(str(Path(work_dir).with_name('group')), 2)
        torch.distributed.init_process_group('gloo', store=store, rank=group, world_size=2)
    if block_at is not None:  # interval in seconds at which a loader checks its workers; default 5
        torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.5,)
    hooks = [SlowSave()] if group is not None else []
    hooks += [Wait(*wait)] if wait else []
    hooks += [{'type': 'DenseRecentCheckpointHook', 'iterations': every}] if every else []
    data = ToyData(block_at, str(Path(work_dir, 'reached')))
    try:
        make_runner(work_dir, hooks=hooks, data=data, **kwargs).train()
    except TrainingStopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


@pytest.fixture
def start():
    """`start(work_dir, **options)` returns a `Child` that runs `train_and_exit`."""
    children = []

    def start(work_dir, **options):
        children.append(Child(work_dir, **options))
        return children[-1]

    yield start
    for child in children:
        if child.process.is_alive():
            child.process.kill()


@pytest.fixture
def toy():
    """`toy(work_dir, **options)` calls `make_runner`."""
    return make_runner


@pytest.fixture(scope='session')
def toys():
    """Return `toy` for fixtures of a wider scope."""
    return make_runner


@pytest.fixture(scope='session')
def whole_run(tmp_path_factory):
    """Return a runner after an uninterrupted training."""
    runner = make_runner(tmp_path_factory.mktemp('whole'))
    runner.train()
    return runner


if __name__ == '__main__':
    train_and_exit(**json.loads(sys.argv[1]))
