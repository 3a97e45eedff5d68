"""The commands as they are typed: help, refusals, and one short training with all that follows from it."""

import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from PIL import Image

from repvit_dense import cli

ROOT = Path(__file__).parents[1]
SHAPES = str(ROOT / 'configs/repvit_maskrcnn_shapes.py')
COCO = str(ROOT / 'configs/repvit_maskrcnn_coco.py')
MODEL = ['config', '--backbone', '--data', '--cfg-options']
COMMON = [*MODEL, '--work-dir', '--seed', '--deterministic', '--launcher']
OPTIONS = {
    'train': [*COMMON, '--resume', '--amp', '--auto-scale-lr', '--checkpoint-every'],
    'test': [*COMMON, 'checkpoint', '--artifact', '--threads', '--deploy', '--show-dir'],
    'predict': [*MODEL, 'checkpoint', 'ARTIFACT', 'IMAGE', '--out', '--score', '--threads', '--device', '--deploy'],
    'export': [*MODEL, 'checkpoint', '--to', '--out', '--size', '--dynamic', '--precision', '--no-verify'],
    'benchmark': ['SUBJECT', '--against', '--what', '--batch', '--size', '--json', '--plot'],
    'doctor': MODEL,
}


class Harmful:
    """Unpickling it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Variables that the commands set stay here."""
    monkeypatch.setenv('LOCAL_RANK', '0')


# --- help ---


def test_every_tool_is_looked_at():
    assert {path.stem for path in (ROOT / 'tools').glob('*.py')} == OPTIONS.keys()


@pytest.fixture(scope='module')
def helps():
    """Command -> (exit code, output, which heavy modules were imported), from fresh interpreters."""
    code = (
        'import runpy, sys\n'
        'sys.argv = sys.argv[1:]\n'
        'try:\n'
        '    runpy.run_path(sys.argv[0], run_name="__main__")\n'
        'finally:\n'
        '    print([m for m in ("torch", "mmengine", "mmcv", "mmdet", "numpy", "cv2") if m in sys.modules])\n'
    )
    results = {}
    for command in OPTIONS:
        tool = str(ROOT / 'tools' / f'{command}.py')
        done = subprocess.run([sys.executable, '-c', code, tool, '--help'], capture_output=True, text=True, cwd=ROOT)
        results[command] = done.returncode, done.stdout, done.stderr
    return results


@pytest.mark.parametrize('command', OPTIONS)
def test_help(helps, command):
    code, out, err = helps[command]
    assert (code, err) == (0, '')
    assert f'usage: {command}.py' in out
    assert [option for option in OPTIONS[command] if option not in out] == []


@pytest.mark.parametrize('command', OPTIONS)
def test_help_imports_nothing_heavy(helps, command):
    assert helps[command][1].splitlines()[-1] == '[]'


def test_the_console_script_lists_its_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(argv=['--help'])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in OPTIONS)


# --- refusals ---


@pytest.fixture
def refuse(capsys, tmp_path, monkeypatch):
    """`refuse(command, *arguments)`: what the command says when it will not run."""
    monkeypatch.chdir(tmp_path)

    def call(command, *arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(command, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert ended.value.code == 2, captured
        assert 'Traceback' not in captured.out + captured.err
        return captured.err

    return call


def one_line(text):
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith('error: ')
    return lines[0]


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['train'], 'required: config'),
        (['train', SHAPES, '--seed', 'x'], "invalid int value: 'x'"),
        (['train', SHAPES, '--amp', 'fp8'], "invalid choice: 'fp8'"),
        (['train', SHAPES, '--launcher', 'ssh'], "invalid choice: 'ssh'"),
        (['train', SHAPES, '--checkpoint-every', '5h'], "'5h' is neither a number of iterations (200) nor of minutes"),
        (['train', SHAPES, '--checkpoint-every', '0m'], "'0m' is neither"),
        (['train', SHAPES, '--epochs', '3'], 'unrecognized arguments: --epochs'),
        (['export', SHAPES, '--to', 'onnx'], 'required: checkpoint'),
        (['test', SHAPES, 'a.pth', 'b.pth'], 'unrecognized arguments: b.pth'),
        (['test', SHAPES, '--work-dir', 'w', 'a.pth', 'b.pth'], 'unrecognized arguments: a.pth b.pth'),
        (['predict', SHAPES, 'a.pth', 'a.jpg', '--epochs', '3'], 'unrecognized arguments: --epochs'),
        (['benchmark', '--rounds', '0'], 'must be 1 or more'),
        ([], 'required: COMMAND'),
        (['infer'], "invalid choice: 'infer'"),
    ],
)
def test_arguments_that_are_not_known(refuse, arguments, words):
    text = refuse(None, *arguments)
    assert text.startswith('usage: ')
    assert words in text


@pytest.mark.parametrize('command, more', [('train', []), ('test', ['x.pth'])])
def test_a_missing_config(refuse, command, more):
    message = one_line(refuse(command, 'none.py', *more))
    assert (
        'none.py: no such config file. Packaged ones: mobile-former_retinanet_coco, repvit_cascade-maskrcnn_coco, '
        in message
    )


def test_a_mistyped_name_is_refused_at_once():
    """In a fresh interpreter, before anything heavy is imported."""
    code = 'from repvit_dense import cli; import sys\ntry: cli.main()\nfinally: print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code, 'train', 'none.py'], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, 'False\n')
    assert 'none.py' in one_line(done.stderr)


def test_a_broken_config(refuse, tmp_path):
    (tmp_path / 'broken.py').write_text('model = dict(\n\n\n')
    assert 'broken.py: cannot read this config: SyntaxError' in one_line(refuse('train', 'broken.py'))


@pytest.mark.parametrize('option, words', [('nonsense', 'key=value'), ('train_cgf.max_epochs=1', "'train_cfg'")])
def test_nonsense_as_options(refuse, option, words):
    message = one_line(refuse('train', SHAPES, '--cfg-options', option))
    assert option in message
    assert words in message


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
@pytest.mark.skipif(torch.cuda.is_available(), reason='is refused without a GPU')
def test_mixed_precision_needs_a_gpu(refuse, precision):
    assert f'--amp {precision} needs a GPU' in one_line(refuse('train', SHAPES, '--amp', precision))


def test_scaling_needs_a_base(refuse):
    arguments = ['--auto-scale-lr', '--cfg-options', 'auto_scale_lr.base_batch_size=None']
    assert 'auto_scale_lr.base_batch_size=' in one_line(refuse('train', SHAPES, *arguments))


def test_missing_data(refuse):
    message = one_line(refuse('train', COCO))
    assert 'data/coco/annotations/instances_train2017.json: not found' in message
    assert 'python tools/train.py configs/repvit_maskrcnn_shapes.py' in message


def test_a_data_folder_with_other_things(refuse, tmp_path):
    (tmp_path / 'thesis.tex').touch()
    message = one_line(refuse('train', SHAPES, '--cfg-options', f'embedded_data.root={tmp_path}'))
    assert 'thesis.tex' in message
    assert (tmp_path / 'thesis.tex').exists()


CHECKPOINTS = pytest.mark.parametrize(
    'arguments', [['test', SHAPES], ['train', SHAPES, '--resume']], ids=['test', 'resume']
)


@CHECKPOINTS
def test_a_missing_checkpoint(refuse, tmp_path, arguments):
    assert 'none.pth: no such file' in one_line(refuse(*arguments, 'none.pth'))
    assert not (tmp_path / 'data').exists()  # refused before any work
    assert not (tmp_path / 'work_dirs').exists()


@CHECKPOINTS
@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 cut short', b'<!DOCTYPE html><html>', b'x = 1\n' * 100])
def test_a_file_that_is_no_checkpoint(refuse, tmp_path, arguments, content):
    (tmp_path / 'file.pth').write_bytes(content)
    assert 'file.pth' in one_line(refuse(*arguments, 'file.pth'))


@CHECKPOINTS
@pytest.mark.parametrize('save', [torch.save, lambda content, path: Path(path).write_bytes(pickle.dumps(content, 2))])
def test_a_harmful_checkpoint(refuse, tmp_path, arguments, save):
    trap = tmp_path / 'trap'
    content = {'state_dict': {'a': torch.zeros(1)}, 'meta': {'x': Harmful(trap)}}
    pickle.loads(pickle.dumps(content))
    trap.unlink()  # it works
    save(content, tmp_path / 'harmful.pth')
    message = one_line(refuse(*arguments, 'harmful.pth'))
    assert 'harmful.pth' in message
    assert 'executed' in message
    assert not trap.exists()


def test_a_work_dir_without_checkpoints(refuse, tmp_path):
    (tmp_path / 'empty').mkdir()
    assert 'empty: no checkpoint in this folder' in one_line(refuse('test', SHAPES, 'empty'))


def test_a_last_checkpoint_that_is_gone(refuse, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/last_checkpoint').write_text('/elsewhere/epoch_3.pth')
    message = one_line(refuse('train', SHAPES, '--work-dir', 'run', '--resume'))
    assert 'last_checkpoint names /elsewhere/epoch_3.pth, which is not there' in message
    assert '--resume CHECKPOINT' in message


@pytest.mark.parametrize('arguments', [[], ['x.pth', '--artifact', 'x']])
def test_a_checkpoint_or_an_artifact_is_evaluated(refuse, arguments):
    assert 'name a checkpoint, or an artifact' in one_line(refuse('test', SHAPES, *arguments))


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['--artifact', 'none'], 'none: no such folder'),
        (['--artifact', 'none', '--deploy'], '--deploy: an artifact is fused already'),
        (['x.pth', '--threads', '1'], '--threads goes with --artifact'),
    ],
)
def test_an_artifact_that_cannot_be_evaluated(refuse, tmp_path, arguments, words):
    assert words in one_line(refuse('test', SHAPES, *arguments))
    assert not (tmp_path / 'data').exists()  # refused before any work


def test_a_folder_is_predicted_with_as_an_artifact(refuse, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'x.jpg').touch()
    assert 'folder: no manifest.json in this folder' in one_line(refuse('predict', 'folder', 'x.jpg'))
    message = one_line(refuse('predict', 'folder', 'x.jpg', '--backbone', 'resnet18'))
    assert '--backbone does not go with an artifact' in message


def test_prediction_needs_a_checkpoint_and_images(refuse):
    message = one_line(refuse('predict', 'mistyped', 'x.jpg'))
    assert 'mistyped: not the folder of an artifact, so a checkpoint and images must follow' in message


@pytest.mark.parametrize(
    'arguments, checkpoint, images',
    [
        (['c.pth', 'a.jpg', 'b.jpg'], 'c.pth', ['a.jpg', 'b.jpg']),
        (['--score', '.5', 'c.pth', 'a.jpg'], 'c.pth', ['a.jpg']),
        (['c.pth', '--out', 'o', 'a.jpg', 'b.jpg'], 'c.pth', ['a.jpg', 'b.jpg']),
        (['c.pth', 'a.jpg', '--out', 'o', 'b.jpg'], 'c.pth', ['a.jpg', 'b.jpg']),
    ],
)
def test_options_may_stand_among_images(monkeypatch, arguments, checkpoint, images):
    from repvit_dense.commands import predict

    called = []
    monkeypatch.setattr(predict, 'run', lambda args, cfg, path: called.append((path, args.images)))
    with pytest.raises(SystemExit) as ended:
        cli.main('predict', [SHAPES, *arguments])
    assert ended.value.code == 0
    assert called == [(checkpoint, images)]


def test_an_unknown_subject_to_measure(refuse):
    assert "unknown backbone 'm9'" in one_line(refuse('benchmark', 'm9'))


def test_nothing_to_measure(refuse):
    assert 'name at least one subject to measure' in one_line(refuse('benchmark'))


# --- which checkpoint ---


def test_the_best_checkpoint_of_a_work_dir(tmp_path):
    for age, name in enumerate(['best_a_epoch_1.pth', 'best_a_epoch_10.pth', 'epoch_12.pth', 'best_x.pth.partial']):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (age, age))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_12.pth'))
    assert cli._find_checkpoint(str(tmp_path)) == str(tmp_path / 'best_a_epoch_10.pth')
    for path in tmp_path.glob('best_a*'):
        path.unlink()
    torch.save({}, tmp_path / 'epoch_12.pth')
    assert cli._find_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_12.pth')


@pytest.mark.parametrize('given', ['a.pth', 'https://example.org/a.pth', 'repvit_m1_1_coco.pth'])
def test_other_names_are_left_alone(given):
    assert cli._find_checkpoint(given) == given


def test_a_work_dir_may_move(tmp_path):
    """And where it was copied, the copy goes on from its own."""
    for name in ('here', 'there'):
        (tmp_path / name).mkdir()
        torch.save({}, tmp_path / name / 'epoch_1.pth')
        (tmp_path / name / 'last_checkpoint').write_text(str(tmp_path / 'here/epoch_1.pth'))
    assert cli._last_checkpoint(tmp_path / 'there') == str(tmp_path / 'there/epoch_1.pth')
    assert cli._last_checkpoint(tmp_path / 'here') == str(tmp_path / 'here/epoch_1.pth')


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path)  # which does not notice


@pytest.mark.parametrize('damage', [lambda path: path.write_bytes(path.read_bytes()[:-100]), flip_a_bit, Path.unlink])
def test_the_one_before_a_damaged_checkpoint(tmp_path, damage, capsys):
    names = ('epoch_1.pth', 'recent_iter_20.pth', 'epoch_2.pth', 'best_a_epoch_2.pth', 'interrupted_iter_9.pth.partial')
    for age, name in enumerate(names):
        torch.save({'state_dict': {'a': torch.zeros(10**4)}}, tmp_path / name)
        os.utime(tmp_path / name, (age, age))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    damage(tmp_path / 'epoch_2.pth')
    assert cli._last_checkpoint(tmp_path) == str(tmp_path / 'recent_iter_20.pth')
    if damage is not Path.unlink:
        assert f'{tmp_path / "epoch_2.pth"}: damaged' in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments, expected',
    [
        ([], {'seed': 7, 'deterministic': True}),
        (['--seed', '3'], {'seed': 3, 'deterministic': True}),
    ],
)
def test_options_of_the_config_stand_where_the_command_says_nothing(arguments, expected):
    options = ['randomness.seed=7', 'randomness.deterministic=True', 'work_dir=w']
    args = cli.build_parser().parse_args(['train', SHAPES, *arguments, '--cfg-options', *options])
    cfg = cli._load(args)
    assert cfg.randomness == expected
    assert cfg.work_dir == 'w'


def test_defaults():
    cfg = cli._load(cli.build_parser().parse_args(['train', 'repvit_maskrcnn_coco']))
    assert cfg.work_dir == str(Path('work_dirs/repvit_maskrcnn_coco'))
    assert cfg.randomness == {'seed': None}
    assert cfg.launcher == 'none'


def test_every_combination_has_a_work_dir_of_its_own():
    arguments = ['train', 'repvit_maskrcnn_coco', '--backbone', 'resnet18', '--data', 'shapes']
    cfg = cli._load(cli.build_parser().parse_args(arguments))
    assert cfg.work_dir == str(Path('work_dirs/repvit_maskrcnn_coco--resnet18--shapes'))
    assert cfg.model.backbone.type == 'TimmFeatures'
    assert cfg.train_dataloader.dataset.data_root == 'data/shapes/'


class Caught(Exception):
    """Instead of a training or a test."""


@pytest.fixture
def settle(monkeypatch, tmp_path):
    """`settle(command, *arguments)`: the config that the command would run."""
    from repvit_dense import config
    from repvit_dense.engine.runner import DenseRunner

    def from_cfg(cfg):
        raise Caught(cfg)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DenseRunner, 'from_cfg', from_cfg)
    monkeypatch.setattr(config, 'prepare_data', lambda cfg: None)
    monkeypatch.setattr(config, 'check', lambda cfg, splits: None)

    def call(*arguments):
        with pytest.raises(Caught) as caught:
            cli.main(argv=list(arguments))
        return caught.value.args[0]

    return call


@pytest.fixture
def weights(tmp_path):
    torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'weights.pth')
    return 'weights.pth'


def test_nothing_to_resume_is_a_beginning(settle, weights, capsys):
    """With the weights that the config starts from."""
    cfg = settle('train', SHAPES, '--work-dir', 'run', '--resume', '--cfg-options', f'load_from={weights}')
    assert (cfg.load_from, cfg.resume) == (weights, False)
    assert 'run: no checkpoint to go on from, training starts from the beginning' in capsys.readouterr().err


def test_the_last_checkpoint_is_resumed(settle, weights, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/last_checkpoint').write_text(weights)
    cfg = settle('train', SHAPES, '--work-dir', 'run', '--resume')
    assert (cfg.load_from, cfg.resume) == (weights, True)


def test_a_named_checkpoint_is_resumed(settle, weights):
    cfg = settle('train', SHAPES, '--resume', weights, '--auto-scale-lr')
    assert (cfg.load_from, cfg.resume) == (weights, True)
    assert cfg.auto_scale_lr.enable
    assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size


@pytest.mark.parametrize('restarts, expected', [('0', False), ('1', True)])
def test_a_job_that_torchrun_starts_again_is_resumed(settle, weights, tmp_path, monkeypatch, restarts, expected):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/last_checkpoint').write_text(weights)
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', restarts)
    assert settle('train', SHAPES, '--work-dir', 'run').resume == expected
    if expected:  # what the first start was told is behind the last checkpoint
        cfg = settle('train', SHAPES, '--work-dir', 'run', '--resume', 'older.pth')
        assert cfg.load_from == weights


def test_a_job_that_died_before_its_first_checkpoint(settle, weights, monkeypatch, capsys):
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    assert not settle('train', SHAPES, '--work-dir', 'run').resume
    assert 'starts from the beginning' in capsys.readouterr().err
    assert settle('train', SHAPES, '--work-dir', 'run', '--resume', weights).load_from == weights


@pytest.mark.parametrize('text, expected', [('200', {'iterations': 200}), ('5m', {'minutes': 5})])
def test_more_checkpoints(settle, text, expected):
    cfg = settle('train', SHAPES, '--checkpoint-every', text)
    assert cfg.custom_hooks[-1] == {'type': 'DenseRecentCheckpointHook', **expected}


def test_an_operation_that_is_not_deterministic(refuse, settle, monkeypatch):
    from repvit_dense.engine.runner import DenseRunner

    def from_cfg(cfg):
        raise RuntimeError('roi_align_backward_kernel does not have a deterministic implementation, but you set ...')

    monkeypatch.setattr(DenseRunner, 'from_cfg', from_cfg)
    message = one_line(refuse('train', SHAPES, '--deterministic'))
    assert '--deterministic: roi_align_backward_kernel of this model' in message


def test_testing_loads_the_checkpoint_and_nothing_else(settle, weights, tmp_path):
    options = ['--cfg-options', 'resume=True', 'model.backbone.init_cfg.type=Pretrained']
    cfg = settle('test', SHAPES, weights, '--deploy', '--show-dir', 'pictures', *options)
    assert (cfg.load_from, cfg.resume) == (weights, False)
    assert 'init_cfg' not in cfg.model.backbone
    assert cfg.custom_hooks[-1].type == 'DenseFuseHook'
    assert cfg.default_hooks.visualization.draw
    assert cfg.default_hooks.visualization.test_out_dir == str(tmp_path / 'pictures')
    cfg = settle('test', SHAPES, '--work-dir', 'w', weights)
    assert cfg.load_from == weights
    assert 'DenseFuseHook' not in [hook.type for hook in cfg.custom_hooks]
    assert 'draw' not in cfg.default_hooks.visualization


# --- from training to pictures ---

PRELOAD = ['pytest', 'repvit_dense', 'mmdet.apis', 'matplotlib.pyplot', 'torch.utils.tensorboard']
CHILD = """
import os, runpy, sys
os.chdir(folder)
for stream in (1, 2):
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), stream)
sys.argv = arguments
runpy.run_path(arguments[0], run_name='__main__')
"""


class Project:
    """A folder with a small data set and a work dir, and the commands that fill them."""

    def __init__(self, folder):
        self.folder, self.work_dir = folder, folder / 'run'
        root = folder / 'shapes'
        self.options = [
            'embedded_data.num_train=8',
            'embedded_data.num_val=3',
            'embedded_data.size=96,128',
            f'embedded_data.root={root}',
            *(f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')),
            *(f'{split}_evaluator.ann_file={root}/annotations/instances_val2017.json' for split in ('val', 'test')),
            'train_dataloader.batch_size=4',
            'default_hooks.logger.interval=1',
        ]

    def fork(self, command, *arguments, until=None, options=()):
        """Exit code and all that was written. The process is forked from one that has done the imports, which take as
        long as all that is done here. It gets a SIGINT as soon as it has written `until`.
        """
        output = self.folder / 'output.txt'
        output.unlink(missing_ok=True)
        tool = str(ROOT / 'tools' / f'{command}.py')
        line = [tool, SHAPES, *map(str, arguments), '--cfg-options', *self.options, *options]
        values = {'folder': str(self.folder), 'output': str(output), 'arguments': line}
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(PRELOAD)
        process = context.Process(target=exec, args=(CHILD, values))
        process.start()
        while until and process.is_alive():
            if output.exists() and until in output.read_text():
                os.kill(process.pid, signal.SIGINT)
                break
            time.sleep(0.02)
        process.join()
        return process.exitcode, output.read_text()

    def scores(self, work_dir):
        """What the last test in this work dir came to."""
        path = max(path for path in (self.folder / work_dir).glob('*/*.json') if path.stem == path.parent.name)
        return json.loads(path.read_text())

    def predictions(self, name):
        """Image -> scores in order, largest first."""
        found = {}
        for part in json.loads((self.folder / f'{name}.segm.json').read_text()):
            found.setdefault(part['image_id'], []).append(part['score'])
        return {image: sorted(scores, reverse=True) for image, scores in found.items()}


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp('project'))


@pytest.fixture(scope='module')
def trained(project):
    """Trained for an epoch, gone on and interrupted, gone on to the end of the third: what each of these wrote."""
    work_dir = ['--work-dir', 'run']
    first = project.fork('train', *work_dir, '--seed', 0, options=['train_cfg.max_epochs=1'])
    second = project.fork('train', *work_dir, '--resume', until='[2][1/2]', options=['train_cfg.max_epochs=99'])
    third = project.fork('train', *work_dir, '--resume', options=['train_cfg.max_epochs=3'])
    return first, second, third


@pytest.fixture(scope='module')
def tested(project, trained):
    """The plain form, then the fused one with pictures."""
    plain = project.fork('test', 'run', '--work-dir', 'plain', options=['test_evaluator.outfile_prefix=plain'])
    deploy = project.fork(
        'test', 'run', '--work-dir', 'deploy', '--deploy', '--show-dir', 'pictures/of run#1',
        options=['test_evaluator.outfile_prefix=deploy'],
    )  # fmt: skip
    return plain, deploy


@pytest.mark.slow
def test_training(project, trained):
    (code, output), *_ = trained
    assert code == 0, output
    assert 'Traceback' not in output
    assert 'Epoch(train) [1][2/2]' in output
    best = re.search(r'Best checkpoint: (\S+) \(score 0\.\d{3}\)', output)
    assert Path(best[1]).parent == project.work_dir
    assert f'Curves: {project.work_dir / "curves.png"}' in output
    assert len(list((project.folder / 'shapes/train2017').iterdir())) == 8


@pytest.mark.slow
def test_what_training_leaves(project, trained):
    assert (project.work_dir / 'epoch_1.pth').exists()
    assert len(list(project.work_dir.glob('best_coco_segm_mAP_epoch_*.pth'))) == 1
    assert list(project.work_dir.rglob('events.out.tfevents.*'))
    with Image.open(project.work_dir / 'curves.png') as picture:
        assert picture.size == (1200, 960)
    assert not list(project.work_dir.rglob('*.partial*'))
    # Nothing else, anywhere.
    assert {path.name for path in project.folder.iterdir()} <= {
        'run', 'shapes', 'output.txt', 'plain', 'deploy', 'pictures',
        'plain.bbox.json', 'plain.segm.json', 'deploy.bbox.json', 'deploy.segm.json',
    }  # fmt: skip


@pytest.mark.slow
def test_an_interrupted_training(project, trained):
    _, (code, output), _ = trained
    assert code == 130, output
    assert 'Traceback' not in output
    said = re.search(r'stopped by SIGINT after iteration (\d+); saved (\S+)\. The same command with --resume', output)
    assert int(said[1]) >= 3
    assert Path(said[2]) == project.work_dir / f'interrupted_iter_{said[1]}.pth'


@pytest.mark.slow
def test_a_resumed_training(project, trained):
    _, (_, interrupted), (code, output) = trained
    assert code == 0, output
    iterations = int(re.search(r'after iteration (\d+)', interrupted)[1])
    assert re.search(rf'resumed epoch: \d+, iter: {iterations}\n', output)
    records = [
        json.loads(line)
        for path in sorted(project.work_dir.glob('*/vis_data/scalars.json'))
        for line in path.read_text().splitlines()
    ]
    steps = [record['step'] for record in records if 'loss' in record]
    assert steps == list(range(1, 7))  # three epochs of two iterations, over three starts
    assert [record['step'] for record in records if 'coco/segm_mAP' in record] == [1, 2, 3]
    assert (project.work_dir / 'last_checkpoint').read_text() == str(project.work_dir / 'epoch_3.pth')


@pytest.mark.slow
def test_testing_both_forms(project, tested):
    for code, output in tested:
        assert code == 0, output
        assert 'Traceback' not in output
        assert 'best_coco_segm_mAP_epoch_' in output
    assert 'deploy form' not in tested[0][1]
    before, after = re.search(r'Testing in deploy form: ([\d,]+) parameters fused to ([\d,]+)', tested[1][1]).groups()
    assert int(after.replace(',', '')) < int(before.replace(',', ''))

    plain, deploy = project.scores('plain'), project.scores('deploy')
    names = [name for name in plain if name.startswith('coco/')]
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(names)
    assert [deploy[name] for name in names] == pytest.approx([plain[name] for name in names], abs=1e-3)
    # So short a training scores nothing; the predictions themselves do agree.
    plain, deploy = project.predictions('plain'), project.predictions('deploy')
    assert len(plain) == 3
    assert max(map(max, plain.values())) > 0.1
    assert plain.keys() == deploy.keys()
    for image, scores in plain.items():
        assert deploy[image] == pytest.approx(scores, abs=1e-3)


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.sources, self.text = [], ''
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name == 'src']

    def handle_data(self, data):
        self.text += data


@pytest.mark.slow
def test_pictures_and_page(project, tested):
    folder = project.folder / 'pictures/of run#1'
    assert f'Page: {folder / "index.html"}' in tested[1][1]
    page = Page(folder / 'index.html')
    files = [(folder / unquote(source)).resolve() for source in page.sources]
    assert files[0] == project.work_dir / 'curves.png'
    assert sorted(files[1:]) == sorted(folder.glob('*.png'))
    assert len(files) == 1 + 3
    for file in files[1:]:
        with Image.open(file) as picture:
            assert picture.size == (2 * 128, 96)  # ground truth beside prediction
    assert 'coco/segm_mAP' in page.text


@pytest.mark.slow
def test_a_checkpoint_of_other_classes(project, trained):
    """Names both numbers; nothing is tested."""
    heads = ('bbox_head', 'mask_head')
    options = [f'model.roi_head.{head}.num_classes=2' for head in heads]
    classes = ["metainfo.classes=('circle','square')"]
    options += [f'{split}_dataloader.dataset.{classes[0]}' for split in ('train', 'val', 'test')]
    code, output = project.fork('test', 'run', '--work-dir', 'plain', options=options)
    assert code == 2, output
    assert 'Traceback' not in output
    message = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(message) == 1
    assert 'trained on 8 classes, the data has 2' in message[0]
