"""`train`: refusals, and the config that it runs."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from repvit_dense.commands.base import open_run_config, preparing
from repvit_dense.commands.train import Options

ROOT = Path(__file__).parents[2]
SHAPES = str(ROOT / 'configs/repvit_maskrcnn_shapes.py')
COCO = str(ROOT / 'configs/repvit_maskrcnn_coco.py')


def test_ctrl_c_while_mmengine_formats_the_config():
    """It catches everything there and raises a SyntaxError."""
    with pytest.raises(KeyboardInterrupt), preparing():
        try:
            raise KeyboardInterrupt
        except BaseException:
            raise SyntaxError('Failed to format the config file') from None


class Harmful:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# --- refusals ---


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
@pytest.mark.skipif(torch.cuda.is_available(), reason='is refused without a GPU')
def test_mixed_precision_needs_a_gpu(refuse_in_a_line, precision):
    assert f'--amp {precision} needs a GPU' in refuse_in_a_line('train', SHAPES, '--amp', precision)


def test_missing_data(refuse_in_a_line):
    message = refuse_in_a_line('train', COCO)
    assert 'data/coco/annotations/instances_train2017.json: not found' in message
    assert 'python tools/train.py configs/repvit_maskrcnn_shapes.py' in message


def test_a_data_folder_with_other_things(refuse_in_a_line, tmp_path):
    (tmp_path / 'thesis.tex').touch()
    message = refuse_in_a_line('train', SHAPES, '--cfg-options', f'embedded_data.root={tmp_path}')
    assert 'thesis.tex' in message
    assert (tmp_path / 'thesis.tex').exists()


CHECKPOINTS = pytest.mark.parametrize(
    'arguments', [['test', SHAPES], ['train', SHAPES, '--resume']], ids=['test', 'resume']
)


@CHECKPOINTS
def test_a_missing_checkpoint(refuse_in_a_line, tmp_path, arguments):
    assert 'none.pth: no such file' in refuse_in_a_line(*arguments, 'none.pth')
    assert not (tmp_path / 'data').exists()  # refused before any work
    assert not (tmp_path / 'work_dirs').exists()


@CHECKPOINTS
@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 cut short', b'<!DOCTYPE html><html>', b'x = 1\n' * 100])
def test_a_file_that_is_no_checkpoint(refuse_in_a_line, tmp_path, arguments, content):
    (tmp_path / 'file.pth').write_bytes(content)
    assert 'file.pth' in refuse_in_a_line(*arguments, 'file.pth')


@CHECKPOINTS
@pytest.mark.parametrize('save', [torch.save, lambda content, path: Path(path).write_bytes(pickle.dumps(content, 2))])
def test_a_harmful_checkpoint(refuse_in_a_line, tmp_path, arguments, save):
    trap = tmp_path / 'trap'
    content = {'state_dict': {'a': torch.zeros(1)}, 'meta': {'x': Harmful(trap)}}
    pickle.loads(pickle.dumps(content))
    trap.unlink()  # it works
    save(content, tmp_path / 'harmful.pth')
    message = refuse_in_a_line(*arguments, 'harmful.pth')
    assert 'harmful.pth' in message
    assert 'executed' in message
    assert not trap.exists()


def test_a_work_dir_without_checkpoints(refuse_in_a_line, tmp_path):
    (tmp_path / 'empty').mkdir()
    assert 'empty: no checkpoint in this folder' in refuse_in_a_line('test', SHAPES, 'empty')


def test_a_last_checkpoint_that_is_gone(refuse, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/last_checkpoint').write_text('/elsewhere/epoch_3.pth')
    message = refuse('train', SHAPES, '--work-dir', 'run', '--resume')
    assert 'last_checkpoint names /elsewhere/epoch_3.pth, which is not there' in message
    assert '--resume CHECKPOINT' in message


@pytest.mark.parametrize('interval', ['5h', '0m', '0', '-1', 'x'])
def test_a_checkpoint_interval_of_another_form(refuse_in_a_line, interval):
    message = refuse_in_a_line('train', SHAPES, f'--checkpoint-every={interval}')
    assert f"'{interval}' is neither a number of iterations (200) nor of minutes (5m)" in message


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['--epochs', '1', '--iters', '1'], 'give one of the two'),
        (['--device', 'cuda:99'], '--device cuda:99: '),
        (['--freeze', 'head'], "--freeze head: expected 'backbone'"),
        (['--freeze', 'backbone'], 'the backbone starts from random weights'),
        (['--lr', '1', '--cfg-options', 'optim_wrapper.optimizer.lr=2'], '--lr sets the same'),
        (['--batch', '1', '--cfg-options', 'train_dataloader.batch_size=2'], '--batch sets the same'),
        (['--size', '8'], 'from 32 to 8192 pixels'),
    ],
)
def test_options_that_do_not_fit(refuse_in_a_line, arguments, words):
    assert words in refuse_in_a_line('train', SHAPES, *arguments)


# --- the config that runs ---


def unchanged(cfg):
    """Stand for the changes of a command."""


@pytest.mark.parametrize(
    'arguments, options, expected',
    [
        ({}, ['randomness.seed=7'], {'seed': 7, 'deterministic': True}),
        ({'seed': 3}, [], {'seed': 3, 'deterministic': True}),
    ],
)
def test_options_of_the_config_stand_where_the_command_says_nothing(arguments, options, expected):
    options = [*options, 'randomness.deterministic=True', 'work_dir=w']
    cfg = open_run_config(Options(SHAPES, cfg_options=options, **arguments), unchanged)
    assert cfg.randomness == expected
    assert cfg.work_dir == 'w'


@pytest.mark.parametrize(
    'option, key',
    [
        (['--seed', '1'], 'randomness.seed=2'),
        (['--workers', '0'], 'train_dataloader.num_workers=2'),
        (['--work-dir', 'w'], 'work_dir=v'),
    ],
)
def test_a_value_that_is_given_twice(refuse_in_a_line, option, key):
    assert f'{option[0]} sets the same' in refuse_in_a_line('train', SHAPES, *option, '--cfg-options', key)


@pytest.mark.parametrize(
    'folder, words',
    [('file/w', 'Not a directory'), ('x' * 300, 'File name too long'), ('/proc/w', 'nothing can be written there')],
)
def test_a_work_dir_that_cannot_be_written(refuse_in_a_line, tmp_path, folder, words):
    (tmp_path / 'file').touch()
    assert words in refuse_in_a_line('train', SHAPES, '--work-dir', folder)
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_defaults():
    cfg = open_run_config(Options('repvit_maskrcnn_coco'), unchanged)
    assert cfg.work_dir == str(Path('work_dirs/repvit_maskrcnn_coco'))
    assert cfg.randomness == {'seed': None}
    assert cfg.launcher == 'none'


def test_every_combination_has_a_work_dir_of_its_own():
    options = Options('repvit_maskrcnn_coco', backbone='resnet18', data='shapes')
    cfg = open_run_config(options, unchanged)
    assert cfg.work_dir == str(Path('work_dirs/repvit_maskrcnn_coco--resnet18--shapes'))
    assert cfg.model.backbone.type == 'DenseTimm'
    assert cfg.train_dataloader.dataset.data_root == 'data/shapes/'


def test_nothing_to_resume_is_a_beginning(settle, weights, capsys):
    """Training starts from the weights of the config."""
    cfg = settle('train', SHAPES, '--work-dir', 'run', '--resume', '--cfg-options', f'load_from={weights}')
    assert (cfg.load_from, cfg.resume) == (weights, False)
    assert 'run: no checkpoint to continue from, training starts from the beginning' in capsys.readouterr().err


def test_the_last_checkpoint_is_resumed(settle, weights, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/last_checkpoint').write_text(weights)
    cfg = settle('train', SHAPES, '--work-dir', 'run', '--resume')
    assert (cfg.load_from, cfg.resume) == (weights, True)


def test_a_named_checkpoint_is_resumed(settle, weights):
    cfg = settle('train', SHAPES, '--resume', weights)
    assert (cfg.load_from, cfg.resume) == (weights, True)


@pytest.mark.parametrize('restarts, expected', [('0', False), ('1', True)])
def test_a_job_that_torchrun_starts_again_is_resumed(settle, weights, tmp_path, monkeypatch, restarts, expected):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/last_checkpoint').write_text(weights)
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', restarts)
    assert settle('train', SHAPES, '--work-dir', 'run').resume == expected
    if expected:  # the checkpoint that the first start was given is older than the last one
        cfg = settle('train', SHAPES, '--work-dir', 'run', '--resume', 'older.pth')
        assert cfg.load_from == weights


def test_a_job_that_died_before_its_first_checkpoint(settle, weights, monkeypatch, capsys):
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    assert not settle('train', SHAPES, '--work-dir', 'run').resume
    assert 'starts from the beginning' in capsys.readouterr().err
    assert settle('train', SHAPES, '--work-dir', 'run', '--resume', weights).load_from == weights


def test_the_written_config_keeps_its_learning_rate(settle):
    """A batch size of `--cfg-options` does not scale it; nor does a later start from the written config."""
    cfg = settle('train', SHAPES, '--cfg-options', 'train_dataloader.batch_size=4')
    Path('run').mkdir()
    cfg.dump('run/config.py')
    assert settle('train', 'run').optim_wrapper.optimizer.lr == cfg.optim_wrapper.optimizer.lr


@pytest.mark.parametrize('text, expected', [('200', {'iterations': 200}), ('5m', {'minutes': 5})])
def test_more_checkpoints(settle, text, expected):
    cfg = settle('train', SHAPES, '--checkpoint-every', text)
    assert cfg.custom_hooks[-1] == {'type': 'DenseRecentCheckpointHook', **expected}


def test_an_operation_that_is_not_deterministic(refuse_in_a_line, settle, monkeypatch):
    from repvit_dense.engine.runner import DenseRunner

    class Runner:
        message_hub = SimpleNamespace(runtime_info={'max_iters': 1})
        record = SimpleNamespace(name=lambda *_: None)

        def train(self):
            raise RuntimeError('roi_align_backward_kernel does not have a deterministic implementation, but you ...')

    monkeypatch.setattr(DenseRunner, 'from_cfg', lambda cfg: Runner())
    message = refuse_in_a_line('train', SHAPES, '--deterministic')
    assert '--deterministic: roi_align_backward_kernel of this model' in message


# --- the recipe of the data ---


@pytest.mark.parametrize(
    ('config', 'classes', 'expected'),
    [
        ('repvit_rtmdet_bccd', ('Platelets', 'RBC', 'WBC'), True),
        ('repvit_rtmdet_bccd', ('RBC', 'Platelets', 'WBC'), False),
        ('repvit_maskrcnn_coco', (), False),  # COCO's classes are those of its type
    ],
)
def test_a_recipe_stays_for_data_with_its_classes(config, classes, expected):
    from mmengine.config import Config

    from repvit_dense.commands.train import _is_data_of

    loader = {'dataset': {'type': 'RepeatDataset', 'dataset': {'metainfo': {'classes': classes}}}}
    assert _is_data_of(Options(config), Config({'train_dataloader': loader})) is expected
