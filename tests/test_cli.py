"""The command line: help, refusals, and the position of arguments."""

import subprocess
import sys
from pathlib import Path

import pytest

from repvit_dense import cli

ROOT = Path(__file__).parents[1]
SHAPES = str(ROOT / 'configs/repvit_maskrcnn_shapes.py')
MODEL = ['config', '--backbone', '--data', '--cfg-options']
COMMON = [*MODEL, '--work-dir', '--seed', '--deterministic', '--launcher']
OPTIONS = {
    'train': [*COMMON, '--epochs', '--resume', '--amp', '--auto-scale-lr', '--checkpoint-every'],
    'test': [*COMMON, 'checkpoint', '--artifact', '--threads', '--deploy', '--show-dir'],
    'predict': ['MODEL', 'ARTIFACT', 'IMAGE', *MODEL[1:], '--out', '--score', '--threads', '--device', '--deploy'],
    'export': [*MODEL, 'checkpoint', '--to', '--out', '--size', '--dynamic', '--precision', '--no-verify'],
    'benchmark': ['SUBJECT', '--against', '--what', '--batch', '--size', '--json', '--plot'],
    'doctor': MODEL,
    'list': ['backbones', 'configs', 'pattern', '--task'],
}


def test_every_tool_is_covered():
    tools = {path.stem for path in (ROOT / 'tools').glob('*.py') if not path.stem.startswith('check_')}
    assert tools == OPTIONS.keys() == set(cli.COMMANDS)


@pytest.fixture(scope='module')
def helps():
    """Return exit code, output and errors of `--help` of every command, from fresh interpreters."""
    results = {}
    for command in OPTIONS:
        tool = str(ROOT / 'tools' / f'{command}.py')
        done = subprocess.run([sys.executable, tool, '--help'], capture_output=True, text=True, cwd=ROOT)
        results[command] = done.returncode, done.stdout, done.stderr
    return results


@pytest.mark.parametrize('command', OPTIONS)
def test_help(helps, command):
    code, out, err = helps[command]
    assert (code, err) == (0, '')
    assert f'usage: {command}.py' in out
    assert [option for option in OPTIONS[command] if option not in out] == []


def test_the_console_script_lists_its_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(argv=['--help'])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in OPTIONS)


# --- refusals ---


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['train'], 'required: config'),
        (['train', SHAPES, '--seed', 'x'], "invalid int value: 'x'"),
        (['train', SHAPES, '--amp', 'fp8'], "invalid choice: 'fp8'"),
        (['train', SHAPES, '--launcher', 'ssh'], "invalid choice: 'ssh'"),
        (['train', SHAPES, '--epoch-count', '3'], 'unrecognized arguments: --epoch-count'),
        (['export', '--to', 'onnx'], 'required: config'),
        (['test', SHAPES, 'a.pth', 'b.pth'], 'unrecognized arguments: b.pth'),
        (['test', SHAPES, '--work-dir', 'w', 'a.pth', 'b.pth'], 'unrecognized arguments: a.pth b.pth'),
        (['predict', SHAPES, 'a.pth', 'a.jpg', '--epochs', '3'], 'unrecognized arguments: --epochs'),
        (['benchmark', '--rounds', '0'], 'must be 1 or more'),
        ([], 'required: COMMAND'),
        (['infer'], "invalid choice: 'infer'"),
    ],
)
def test_unknown_arguments(refuse, arguments, words):
    text = refuse(None, *arguments)
    assert text.startswith('usage: ')
    assert words in text


@pytest.mark.parametrize('command, more', [('train', []), ('test', ['x.pth'])])
def test_a_missing_config(refuse_in_a_line, command, more):
    message = refuse_in_a_line(command, 'none.py', *more)
    assert (
        'none.py: no such config file. Packaged ones: mobile-former_retinanet_coco, repvit_cascade-maskrcnn_coco, '
        in message
    )


def test_a_mistyped_name_is_refused_at_once():
    """Nothing heavy is imported before."""
    code = 'from repvit_dense import cli; import sys\ntry: cli.main()\nfinally: print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code, 'train', 'none.py'], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, 'False\n')
    assert done.stderr.startswith('error: none.py')


def test_a_broken_config(refuse_in_a_line, tmp_path):
    (tmp_path / 'broken.py').write_text('model = dict(\n\n\n')
    assert 'broken.py: cannot read this config: SyntaxError' in refuse_in_a_line('train', 'broken.py')


@pytest.mark.parametrize('option, words', [('nonsense', 'key=value'), ('train_cgf.max_epochs=1', "'train_cfg'")])
def test_nonsense_as_options(refuse_in_a_line, option, words):
    message = refuse_in_a_line('train', SHAPES, '--cfg-options', option)
    assert option in message
    assert words in message


def test_an_unknown_subject_to_measure(refuse_in_a_line):
    assert "unknown backbone 'm9'" in refuse_in_a_line('benchmark', 'm9')


def test_nothing_to_measure(refuse_in_a_line):
    assert 'name at least one subject to measure' in refuse_in_a_line('benchmark')


# --- positions ---


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

    def run(options):
        """Record the images."""
        called.append(options.images)

    monkeypatch.setattr(predict, 'run', run)
    with pytest.raises(SystemExit) as ended:
        cli.main('predict', [SHAPES, *arguments])
    assert ended.value.code == 0
    assert called == [[checkpoint, *images]]


def test_a_run_time_error_is_not_hidden(monkeypatch):
    from repvit_dense.commands import doctor

    def run(options):
        """Fail."""
        raise RuntimeError('a fault of the program')

    monkeypatch.setattr(doctor, 'run', run)
    with pytest.raises(RuntimeError, match='a fault of the program'):
        cli.main('doctor', [SHAPES])
