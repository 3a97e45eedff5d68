"""The hooks and loops, and a packaged config, under mmengine's own Runner."""

import os
import signal

import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner

from repvit_dense import config
from repvit_dense.checkpoints.work_dir import best_checkpoint, last_checkpoint
from repvit_dense.data import shapes
from repvit_dense.engine.guard import TrainingStopped

ITERATIONS = 8
EPOCHS = {'type': 'DenseEpochLoop', 'max_epochs': 2, 'val_interval': 1}
STOCK = {'by_epoch': True, 'max_epochs': 2, 'val_interval': 1}


class Stop(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def train_and_stop(toy, work_dir, loop):
    with pytest.raises(TrainingStopped) as stopped:
        toy(work_dir, runner=Runner, hooks=[Stop()], train_cfg=loop).train()
    return str(stopped.value)


@pytest.mark.parametrize('loop', [EPOCHS, STOCK], ids=['dense', 'stock'])
def test_the_hooks_train_and_stop(tmp_path, toy, loop):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    toy(tmp_path, runner=Runner, train_cfg=loop).train()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (tmp_path / 'curves.png').is_file()
    message = train_and_stop(toy, tmp_path, loop)  # the checkpoints of the first training are set aside
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert best_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path) == str(tmp_path / 'interrupted_iter_3.pth')
    assert ('at the start of the epoch' in message) == (loop is STOCK)


def test_a_stopped_training_resumes(tmp_path, toy, whole_run):
    train_and_stop(toy, tmp_path, EPOCHS)
    runner = toy(tmp_path, runner=Runner, resume=True)
    runner.train()
    assert runner.model.seen == whole_run.model.seen[3:]


def test_a_packaged_config_trains(tmp_path):
    shapes.generate(tmp_path / 'shapes', 0, 4, 2, (64, 64))
    cfg = config.load('repvit_segformer_shapes', ['model.backbone.init_cfg=None', f'work_dir={tmp_path}'])
    cfg.model.backbone.arch = {'embed_dims': (8, 16, 24, 32), 'depths': (1, 2, 1, 2)}
    cfg.model.decode_head.in_channels = [8, 16, 24, 32]
    cfg.train_cfg.update(max_iters=1, val_interval=1)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(tmp_path / 'shapes')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert (tmp_path / 'iter_1.pth').is_file()
    assert 'mIoU' in runner.val_loop.run()
