"""Resuming with other settings: each changed value takes effect or is refused, with both values."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch.utils.data import Dataset

from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.engine.same_run import _data_differences, describe_data

ITERATIONS, EPOCHS = 8, 2
ONE_EPOCH = {'type': 'DenseEpochLoop', 'max_epochs': 1}
SETTINGS = {
    'model': {'type': 'ToyModel', 'backbone': {'init_cfg': {'checkpoint': 'a.pth'}, 'arch': 'm0_9'}, 'test_cfg': {}},
    'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 0.02, 'betas': (0.9, 0.999)}},
    'param_scheduler': [{'type': 'LinearLR', 'end': 12, 'by_epoch': False}, {'type': 'CosineAnnealingLR'}],
    'train_cfg': {'type': 'DenseEpochLoop', 'max_epochs': EPOCHS, 'val_interval': 1},
    'train_dataloader': {
        'batch_size': 2,
        'num_workers': 0,
        'dataset': {'data_root': 'a', 'pipeline': [{'type': 'Flip'}]},
    },
    'val_dataloader': {'batch_size': 1, 'dataset': {'type': 'Toy'}},
    'val_evaluator': {'type': 'ToyMetric', 'ann_file': 'a.json'},
    'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'save_best': 'toy/mAP'}},
    'custom_hooks': [{'type': 'DenseCurvesHook'}],
    'auto_scale_lr': {'enable': False, 'base_batch_size': 16},
    'work_dir': 'a',
}


def changed(changes):
    cfg = Config(SETTINGS)
    cfg.merge_from_dict(changes)
    return cfg


@pytest.fixture(scope='module')
def run(toys, tmp_path_factory):
    """`run(changes, **options)` resumes after the first epoch with a changed config; returns the runner."""
    folder = tmp_path_factory.mktemp('run')
    toys(folder / 'first', cfg=changed({}), train_cfg=ONE_EPOCH).train()

    def run(changes, **options):
        runner = toys(
            folder / 'second', cfg=changed(changes), resume=True, load_from=str(folder / 'first/epoch_1.pth'), **options
        )
        runner.train()
        return runner

    return run


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'optim_wrapper.optimizer.lr': 0.01}, 'optim_wrapper.optimizer.lr: 0.02 there, 0.01 now'),
        ({'optim_wrapper.optimizer.weight_decay': 0.1}, 'optim_wrapper.optimizer.weight_decay: not set there, 0.1 now'),
        ({'optim_wrapper.optimizer.type': 'SGD'}, 'optim_wrapper.optimizer.type: AdamW there, SGD now'),
        ({'optim_wrapper.type': 'AmpOptimWrapper'}, 'optim_wrapper.type: OptimWrapper there, AmpOptimWrapper now'),
        ({'optim_wrapper.accumulative_counts': 4}, 'optim_wrapper.accumulative_counts: not set there, 4 now'),
        ({'param_scheduler.0.end': 24}, 'param_scheduler.0.end: 12 there, 24 now'),
        ({'param_scheduler': []}, 'param_scheduler.1.type: CosineAnnealingLR there, not set now'),
        ({'train_dataloader.batch_size': 4}, 'train_dataloader.batch_size: 2 there, 4 now'),
        ({'train_dataloader.dataset.pipeline.0.type': 'Crop'}, 'train_dataloader.dataset.pipeline.0.type: Flip there'),
        ({'train_cfg.type': 'DenseIterLoop'}, 'train_cfg.type: DenseEpochLoop there, DenseIterLoop now'),
        ({'model.backbone.arch': 'm1_1'}, 'model.backbone.arch: m0_9 there, m1_1 now'),
        ({'default_hooks.checkpoint.save_best': 'mIoU'}, 'default_hooks.checkpoint.save_best: toy/mAP there, mIoU now'),
        ({'custom_hooks': [{'type': 'EMAHook'}]}, 'custom_hooks.0.type: not set there, EMAHook now'),
        ({'auto_scale_lr.enable': True}, 'auto_scale_lr.enable: not set there, True now'),
    ],
)
def test_a_change_that_would_not_take_effect_is_refused(run, changes, words):
    with pytest.raises(CheckpointError) as refused:
        run(changes)
    message = str(refused.value)
    assert words in message
    assert 'first/epoch_1.pth' in message
    assert 'in place of --resume' in message


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'work_dir': 'b', 'train_dataloader.num_workers': 3, 'train_cfg.val_interval': 5},
        {'train_dataloader.dataset.data_root': 'moved', 'val_evaluator.ann_file': 'moved.json'},
        {'default_hooks.checkpoint.interval': 3, 'model.backbone.init_cfg.checkpoint': 'b.pth'},
        {
            'custom_hooks': [{'type': 'DenseRecentCheckpointHook', 'iterations': 3}],
            'model.test_cfg': {'score_thr': 0.1},
        },
        {'auto_scale_lr.base_batch_size': 8},
    ],
)
def test_a_change_that_takes_effect_is_free(run, changes):
    assert run(changes, train_cfg=ONE_EPOCH).iter == ITERATIONS


def test_a_longer_training_is_longer_and_says_that_the_schedule_stays(run):
    longer = {'type': 'DenseEpochLoop', 'max_epochs': 3}
    runner = run({'train_cfg.max_epochs': 3, 'param_scheduler.1.end': 2}, train_cfg=longer)
    assert len(runner.model.seen) == 2 * ITERATIONS
    assert 'The length of the training is 3 epochs instead of 2 epochs' in log_of(runner)


def test_a_schedule_that_ends_with_the_training_forbids_another_length(run):
    """mmengine would restore the old end of the schedule."""
    with pytest.raises(CheckpointError, match='param_scheduler.1.end: 2 there, 3 now'):
        run({'train_cfg.max_epochs': 3})


def test_a_training_that_is_further_than_its_new_end_is_refused(run):
    with pytest.raises(CheckpointError, match='8 iterations are trained already, and train_cfg asks for 4'):
        run({'train_cfg.type': 'DenseEpochLoop'}, train_cfg={'type': 'DenseIterLoop', 'max_iters': 4})


def test_another_seed_is_refused(run):
    with pytest.raises(CheckpointError, match='randomness.seed .--seed.: 0 there, 1 now'):
        run({}, seed=1)


def test_the_seed_of_the_checkpoint_is_used_if_none_is_given(run):
    assert run({}, seed=None).seed == 0


def test_other_data_are_refused(run):
    class Fewer(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            return index, torch.zeros(3, 6, 6)

    with pytest.raises(CheckpointError, match='training data: 16 images there, 12 now'):
        run({}, data=Fewer())


def test_a_checkpoint_without_config_is_resumed_with_a_warning(run, toys, tmp_path):
    source = tmp_path / 'first'
    toys(source, train_cfg=ONE_EPOCH).train()
    content = torch.load(source / 'epoch_1.pth')
    del content['meta']['cfg'], content['meta']['data'], content['meta']['world_size']
    torch.save(content, source / 'old.pth')
    old = str(source / 'old.pth')
    runner = toys(tmp_path / 'second', cfg=changed({}), resume=True, load_from=old, train_cfg=ONE_EPOCH)
    runner.train()
    assert 'old.pth: whether the settings are those of this training is unknown (no config)' in log_of(runner)


def log_of(runner):
    return Path(runner.log_dir, f'{runner.timestamp}.log').read_text()


def test_a_refused_training_leaves_the_config_in_the_work_dir(toys, tmp_path):
    """The work dir stands for its config, so it must remain the one of its checkpoints."""
    toys(tmp_path / 'run', cfg=changed({}), train_cfg=ONE_EPOCH).train()
    before = {path: path.read_text() for path in (tmp_path / 'run').glob('*.py')}
    with pytest.raises(CheckpointError):
        toys(tmp_path / 'run', cfg=changed({'optim_wrapper.optimizer.lr': 1.0}), resume=True).train()
    assert {path: path.read_text() for path in (tmp_path / 'run').glob('*.py')} == before


# --- the same data in another place ---


class Files(Dataset):
    """Images of a folder, described as mmengine's data sets do."""

    def __init__(self, folder, boxes=(1, 2, 3)):
        self.paths, self.boxes = sorted(folder.iterdir()), boxes

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, index):
        return {'img_path': str(self.paths[index]), 'instances': [{'bbox': [self.boxes[index]]}]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'a').mkdir()
    for i in range(3):
        (tmp_path / f'a/{i}.png').write_bytes(bytes(i + 1))
    return tmp_path / 'a'


def test_data_may_move(folder):
    before = describe_data(Files(folder))
    assert before == describe_data(Files(folder.rename(folder.with_name('b'))))
    assert before['samples'] == 3


@pytest.mark.parametrize('change', ['name', 'size', 'boxes'])
def test_other_images_and_annotations_are_noticed(folder, change):
    before = describe_data(Files(folder))
    if change == 'name':
        (folder / '1.png').rename(folder / '1a.png')
    if change == 'size':
        (folder / '1.png').write_bytes(bytes(9))
    after = describe_data(Files(folder, boxes=(1, 2, 4)) if change == 'boxes' else Files(folder))
    assert before['samples'] == after['samples']
    assert len(list(_data_differences({'training': before}, {'training': after}))) == 1


def test_a_repaired_image_is_not_another_data_set():
    before, after = ({'training': {'samples': 20, 'checksums': [*range(19), last]}} for last in (1, 2))
    assert list(_data_differences(before, after)) == []


def test_data_without_files_are_counted(folder):
    assert describe_data([1, 2]) == {'samples': 2, 'checksums': None}
