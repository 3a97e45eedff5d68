"""Config files: whatever they do, a message says it; YAML and JSON files execute nothing."""

import json
import os
import signal

import pytest

from repvit_dense import config
from repvit_dense.config import source
from repvit_dense.errors import InputError

SHAPES = config.find('repvit_maskrcnn_shapes')


def refusal(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(InputError) as refused:
        config.load(folder / name)
    assert not (folder / 'executed').exists()
    return str(refused.value)


@pytest.mark.parametrize(
    'text, words',
    [
        ('model = dict(', 'cannot read this config: SyntaxError'),
        ('1 / 0', 'cannot read this config: ZeroDivisionError'),
        ('import sys; sys.exit()', 'it ended Python, sys.exit(None)'),
        ('raise SystemExit(0)', 'it ended Python, sys.exit(0)'),
        ('raise KeyboardInterrupt', 'cannot read this config: KeyboardInterrupt'),
        ('raise GeneratorExit', 'cannot read this config: GeneratorExit'),
        ('x = 1\0', 'cannot read this config'),
        ('_base_ = 5', '_base_ must be a file name or a list of them, not 5'),
        ("_base_ = './none.py'", 'its _base_ ./none.py was not found'),
        ("_base_ = ['b.py']", 'its _base_ c.py was not found'),
        ("_base_ = 'a.py'", 'its _base_ leads back to itself (a.py -> a.py)'),
        ("_base_ = 'd.py'", 'its _base_ leads back to itself (a.py -> d.py -> a.py)'),
        ("_base_ = 'e.yaml'", 'e.yaml: cannot be read as YAML'),
    ],
)
def test_a_python_config_that_cannot_be_read(tmp_path, text, words):
    (tmp_path / 'b.py').write_text("_base_ = 'c.py'")
    (tmp_path / 'd.py').write_text("_base_ = 'a.py'")
    (tmp_path / 'e.yaml').write_text(f"x: !!python/object/apply:os.mkdir ['{tmp_path}/executed']")
    (tmp_path / 'a.py').write_text(text)
    with pytest.raises(InputError) as refused:
        config.load(tmp_path / 'a.py')
    assert words in str(refused.value)
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize(
    'text, words',
    [
        ("x: !!python/object/apply:os.mkdir ['executed']", 'cannot be read as YAML'),
        ('custom_imports: {imports: [antigravity]}', 'custom_imports would execute code'),
        ('model: {backbone: {type: os.system}}', 'type: os.system is not a registered name'),
        ('model: {test_cfg: {nms: {type: exec("1")}}}', 'is not a registered name'),
        ('custom_hooks: [{type: [a, os.system]}]', 'is not a registered name'),
        ('a: "{{$HOME:x}}"', 'templates are possible in Python configs only'),
        ('_base_: b.py', 'is a Python file, which a data file must not execute'),
        ('_base_: [c.json]', 'c.json: custom_imports would execute code'),
        ('_base_: none.yaml', 'its _base_ none.yaml was not found'),
        ('_base_: a.yaml', 'its _base_ leads back to itself (a.yaml -> a.yaml)'),
        ('_base_: mmdet::../../../../b.py', '_base_'),
        ('_base_: 5', '_base_ must be a file name'),
        ('- 1', 'not a config; expected a mapping'),
        ('', 'not a config; expected a mapping'),
        ('1: 2', 'not a config; expected a mapping'),
    ],
)
def test_a_data_file_that_would_execute_code(tmp_path, text, words):
    (tmp_path / 'b.py').write_text("import os; os.mkdir('executed')")
    (tmp_path / 'c.json').write_text('{"custom_imports": {"imports": ["antigravity"]}}')
    message = refusal(tmp_path, 'a.yaml', text)
    assert words in message


@pytest.mark.parametrize('suffix', ['.yaml', '.json'])
def test_a_data_file_changes_its_bases(tmp_path, suffix):
    base = {'_base_': os.path.relpath(SHAPES, tmp_path), 'train_cfg': {'max_epochs': 7}}
    (tmp_path / f'base{suffix}').write_text(json.dumps(base))
    child = {'_base_': [f'base{suffix}'], 'train_dataloader': {'batch_size': 3}, 'val_evaluator': None}
    (tmp_path / 'child.json').write_text(json.dumps(child))
    expected = config.load(SHAPES)
    expected.train_cfg.max_epochs, expected.train_dataloader.batch_size, expected.val_evaluator = 7, 3, None
    cfg = config.load(tmp_path / 'child.json')
    assert cfg.to_dict() == expected.to_dict()
    assert cfg.filename == str(tmp_path / 'child.json')


@pytest.mark.parametrize(
    'base, key',
    [
        ('repvit_dense::repvit_segformer_shapes.py', 'model'),
        ('mmseg::_base_/schedules/schedule_20k.py', 'train_cfg'),
        ('mmdet::_base_/schedules/schedule_1x.py', 'train_cfg'),
    ],
)
def test_a_base_of_a_package(tmp_path, base, key):
    (tmp_path / 'a.py').write_text(f'_base_ = {base!r}')
    assert key in config.load(tmp_path / 'a.py')


def test_a_base_that_the_package_lacks(tmp_path):
    assert 'its _base_ repvit_dense::nope.py was not found' in refusal(
        tmp_path, 'a.py', "_base_ = 'repvit_dense::nope.py'"
    )


def test_ctrl_c_while_a_config_is_read(tmp_path, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    (tmp_path / 'a.py').write_text('import os, signal; os.kill(os.getpid(), signal.SIGINT); x = [i for i in range(9)]')
    with pytest.raises(KeyboardInterrupt):
        config.load(tmp_path / 'a.py')


def test_two_bases_with_the_same_key(tmp_path):
    (tmp_path / 'b.json').write_text('{"x": 1}')
    (tmp_path / 'c.json').write_text('{"x": 2}')
    assert 'two of its bases set x' in refusal(tmp_path, 'a.json', '{"_base_": ["b.json", "c.json"]}')


def test_other_kinds_of_files(tmp_path):
    os.mkfifo(tmp_path / 'pipe.py')
    with pytest.raises(InputError, match=r'pipe\.py: not a config; it is no regular file'):
        config.load(tmp_path / 'pipe.py')
    assert 'its name must end in .py' in refusal(tmp_path, 'a.txt', 'x = 1')
    assert source.DATA_SUFFIXES == ('.yaml', '.yml', '.json')
