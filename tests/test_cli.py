"""The command line: help, refusals, and the position of arguments."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from repvit_dense import __version__, cli
from repvit_dense.errors import InputError

ROOT = Path(__file__).parents[1]
SHAPES = str(ROOT / 'configs/repvit_maskrcnn_shapes.py')
MODEL = ['config', '--backbone', '--data', '--cfg-options']
COMMON = [*MODEL, '--work-dir', '--seed', '--deterministic', '--launcher']
OPTIONS = {
    'train': [*COMMON, '--epochs', '--iters', '--lr', '--resume', '--amp', '--checkpoint-every'],
    'test': [*COMMON, 'checkpoint', '--artifact', '--threads', '--deploy', '--split', '--show-dir'],
    'predict': ['MODEL', 'ARTIFACT', 'IMAGE', *MODEL[1:], '--out', '--score', '--threads', '--device', '--deploy'],
    'export': [*MODEL, 'checkpoint', '--to', '--out', '--size', '--dynamic', '--precision', '--no-verify'],
    'benchmark': ['SUBJECT', '--against', '--what', '--batch', '--size', '--json', '--plot'],
    'serve': ['MODEL', '--port'],
    'card': ['MODEL', '--out', '--license'],
    'push': ['MODEL', 'USER/NAME', '--license', '--private', '--message'],
    'doctor': MODEL,
    'list': ['backbones', 'configs', 'pattern', '--task'],
}


def test_every_tool_is_covered():
    tools = {path.stem for path in (ROOT / 'tools').glob('*.py') if not path.stem.startswith('check_')}
    assert tools == OPTIONS.keys() == set(cli.COMMANDS)


@pytest.mark.parametrize('command', OPTIONS)
def test_help(capsys, monkeypatch, command):
    outputs = []
    for argv0, words in ((f'tools/{command}.py', [command, '--help']), ('repvit-dense', ['help', command])):
        monkeypatch.setattr(sys, 'argv', [argv0])
        with pytest.raises(SystemExit) as ended:
            cli.main(argv=words)
        assert ended.value.code == 0
        outputs.append(capsys.readouterr().out)
    assert f'usage: {command}.py' in outputs[0]
    assert f'usage: repvit-dense {command}' in outputs[1]
    assert [option for option in OPTIONS[command] if option not in outputs[0]] == []


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(argv=['--version'])
    assert (ended.value.code, capsys.readouterr().out) == (0, f'repvit-dense {__version__}\n')


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
        (['train', SHAPES, '--deterministc'], "did you mean '--deterministic'?"),
        (['train', SHAPES, '--backb', 'm0_6'], "unrecognized arguments: --backb m0_6; did you mean '--backbone'?"),
        (['train', SHAPES, '--seed', '1', '--seed', '2'], '--seed: given twice'),
        (['train', SHAPES, '--amp', '--amp'], '--amp: given twice'),
        (['train', SHAPES, '--seed', '-1'], 'must be 0 or more, got -1'),
        (['train', SHAPES, '--seed', '4294967296'], 'must be 4294967295 or less'),
        (['train', SHAPES, '--seed', '1_0'], "invalid int value: '1_0'"),
        (['train', SHAPES, '--epochs', '0'], 'must be 1 or more'),
        (['train', SHAPES, '--data', ''], '--data: the value is empty'),
        (['train', SHAPES, '--cfg-options', ''], '--cfg-options: the value is empty'),
        (['predict', SHAPES, 'a.jpg', '--out', ' '], '--out: the value is empty'),
        (['train', ''], 'config: the value is empty'),
        (['benchmark', '--rounds', '0'], 'must be 1 or more'),
        (['benchmark', '--batch', '99999999999999999999999'], 'invalid int value'),
        (['benchmark', '--batch', '70000'], 'must be 65536 or less'),
        (['benchmark', '--size', '64', 'nan'], "invalid int value: 'nan'"),
        ([], 'required: COMMAND'),
        (['infer'], "invalid choice: 'infer'"),
        (['infer'], "did you mean 'predict'?"),
        (['trian', 'x'], "did you mean 'train'?"),
        (['help', 'tset'], "did you mean 'test'?"),
        (['list', 'backbone'], "did you mean 'backbones'?"),
        (['train', SHAPES, 'epochs=3'], "did you mean '--epochs 3'?"),
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


# Command lines that are refused before PyTorch and OpenMMLab are imported, and words of the message.
EARLY = {
    'train none.py': 'none.py: no such config file',
    'train repvit_maskrcnn_coco': 'instances_train2017.json: not found',
    'train repvit_maskrcnn_coco --data nowhere': '--data nowhere: no such folder',
    'train repvit_maskrcnn_coco --data .': 'no data set for this instance config',
    'train repvit_maskrcnn_coco --data coco': 'instances_train2017.json: not found',
    'train repvit_semfpn_ade20k --backbone m0_9': 'images/training: not found',
    'train repvit_maskrcnn_shapes --backbone m0_8': "did you mean 'm0_9'?",
    'train repvit_maskrcnn_shapes --from none.pth': 'none.pth: no such file',
    'train repvit_maskrcnn_shapes --resume none.pth': 'none.pth: no such file',
    'train repvit_maskrcnn_shapes --device gpu': '--device gpu: expected cpu',
    'train repvit_maskrcnn_shapes --work-dir /proc/w': 'nothing can be written there',
    'train repvit_maskrcnn_shapes --cfg-options a': "key=value pairs, such as train_cfg.max_epochs=1; got 'a'",
    'test .': 'no config in this folder',
    'test repvit_maskrcnn_shapes none.pth': 'none.pth: no such file',
    'test repvit_maskrcnn_shapes --artifact .': 'no artifact there',
    'predict repvit_maskrcnn_shapes none.pth none.jpg': 'none.jpg: no such',
    'export repvit_maskrcnn_shapes none.pth --to onnx': 'none.pth: no such file',
    'export repvit_maskrcnn_shapes none.pth --to onx': "did you mean 'onnx'?",
    'doctor repvit_maskrcnn_shapes --data nowhere': '--data nowhere: no such folder',
    'benchmark m0_66': "unknown backbone 'm0_66'; did you mean 'm0_6'?",
}
FIRST = """
import json, sys
import repvit_dense.cli as cli

for words in json.loads(sys.argv[1]):
    print(words, file=sys.stderr)
    try:
        cli.main(argv=words.split())
    except SystemExit as end:
        print(words, end.code, *({'torch', 'mmcv', 'mmdet', 'mmseg', 'timm'} & sys.modules.keys()))
for words in ('backbones', 'configs *shapes --task semantic', 'data', 'formats', 'weights'):
    cli._run(cli.parse(['list', *words.split()]))
assert 'torch' not in sys.modules
"""


@pytest.fixture(scope='module')
def early(tmp_path_factory):
    """Return exit code, heavy modules and message of the command lines, all run in one fresh interpreter."""
    folder = tmp_path_factory.mktemp('empty')
    command = [sys.executable, '-c', FIRST, json.dumps(list(EARLY))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize('words', EARLY)
def test_a_mistake_is_named_before_anything_heavy_is_imported(early, words):
    lines, messages = early
    assert f'{words} 2' in lines
    following = messages[messages.index(f'{words}\n') :].removeprefix(f'{words}\n')
    assert EARLY[words] in ' '.join(following.partition('error: ')[2].splitlines()[:1])


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


@pytest.fixture
def fail(monkeypatch, capfd):
    """Return `fail(error, *arguments)`, the exit code and the error output of a command that raises an error."""
    from repvit_dense.commands import doctor

    def call(error, *arguments):
        def run(options):
            """Fail."""
            raise error

        monkeypatch.setattr(doctor, 'run', run)
        with pytest.raises(SystemExit) as ended:
            cli.main('doctor', [SHAPES, *arguments])
        return ended.value.code, capfd.readouterr().err

    return call


def test_a_fault_of_the_program_is_one_line_and_a_trace(fail):
    code, text = fail(RuntimeError('a fault\nof the program'))
    assert code == 1
    assert re.fullmatch(r'error: RuntimeError: a fault of the program \(traceback in .*\)\n', text)
    file = Path(re.search(r'traceback in (.*)\)', text)[1])
    assert 'raise error' in file.read_text()
    file.unlink()


@pytest.mark.parametrize(
    'error, code, words',
    [
        (KeyboardInterrupt(), 130, 'interrupted'),
        (MemoryError(), 1, 'error: not enough memory; use a smaller batch'),
        (RuntimeError('CUDA out of memory. Tried'), 1, 'error: not enough memory'),
        (BrokenPipeError(), 141, ''),
        (InputError('a\nb'), 2, 'error: a b'),
        (
            InputError('Caught InputError in worker\nOriginal Traceback (most recent call last):\n x\nx: a.jpg'),
            2,
            'error: x: a.jpg',
        ),
    ],
)
def test_an_error_sets_the_exit_code(fail, error, code, words):
    actual, text = fail(error)
    assert (actual, text.count('\n')) == (code, 1 if words else 0)
    assert text.startswith(words)


def test_output_that_the_terminal_cannot_show_is_escaped():
    code = "from repvit_dense import cli; cli.main('train', ['n\u00e4m\u20ac.py'])"
    environment = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith('error: n\\xe4m\\u20ac.py: no such config file')
