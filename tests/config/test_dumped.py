"""Configs that mmengine wrote are read back equal, and nothing in them is executed."""

import math
import os

import pytest
from mmengine.config import Config

from repvit_dense import config
from repvit_dense.errors import InputError


@pytest.mark.parametrize('name', config.names())
def test_every_config_is_read_back_equal(name):
    cfg = config.load(name)
    again = config.from_text(cfg.pretty_text)
    assert again.to_dict() == cfg.to_dict()
    assert type(again.model) is type(cfg.model)  # with attributes
    again.merge_from_dict({'model.backbone.frozen_stages': 2})
    assert again.model.backbone.frozen_stages == 2


def test_every_kind_of_literal_is_read():
    content = {
        'a': [1, -1, 2.5, -1e-3, True, None, float('inf'), -float('inf'), ()],
        'b': {'1': 'x', 2: {'with space': "it's"}, 'c': {}},
        'd': 'two\nlines',
        'e': (('nested', [(1, 2)]), dict.fromkeys('xy', 0)),
    }
    assert config.from_text(Config(content).pretty_text).to_dict() == content
    assert math.isnan(config.from_text('a = nan').a)
    assert config.from_text("a = float('inf')").a == math.inf
    assert config.from_text('').to_dict() == {}


@pytest.mark.parametrize(
    'line',
    [
        "x = __import__('os').system('touch ran')",
        "x = dict(a=[1, (open('ran', 'w'),)])",
        "x = dict(**{'type': 'X'})",
        'x = {**y}',
        'x = dict([1])',
        'x = list(y=1)',
        "x = float(__import__('os'))",
        'x = [i for i in (1, 2)]',
        "x = f'{1}'",
        'x = y',
        'x = -y',
        "x = -'y'",
        'x = 1 + 1',
        "x = b'bytes'",
        'x = 1j',
        'x = ...',
        'x.y = 1',
        'x, y = 1, 2',
        'x = y = 1',
        'x: int = 1',
        'x += 1',
        'import os',
        "'text'",
        'def x(): pass',
        "_base_ = './other.py'",
        'x = dict(a=1',
    ],
)
def test_anything_else_is_refused_with_its_line(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r'a\.py: not plain values \(line 2: .+\); nothing was executed'):
        config.from_text(f'a = 1\n{line}\n', 'a.py')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('text', ['x = ' + '[' * 10_000, 'x = ' + '-' * 100_000 + '1', 'x = {[]: 1}', 'text = 1', '\0'])
def test_malformed_texts_are_refused(text):
    with pytest.raises(InputError, match='the config in the checkpoint: not plain values'):
        config.from_text(text)


@pytest.mark.parametrize('value', ['os.system', 'subprocess.Popen', 'mmengine.load', 'mmdet.apis.x', 'torch.nn.ReLU'])
@pytest.mark.parametrize('text', ["a = dict(b=[dict(type='{}')])", "a = {{'ema_type': '{}'}}", "type = '{}'"])
def test_types_outside_the_registries_are_refused(text, value):
    """mmengine's registries would import and call them when the config is built."""
    with pytest.raises(InputError, match=f"='{value}' is not a registered name"):
        config.from_text(text.format(value))


def test_an_expression_as_a_type_is_refused():
    """mmcv evaluates the type of a non-maximum suppression."""
    with pytest.raises(InputError, match='is not a registered name'):
        config.from_text("a = dict(nms=dict(type='exec(input())'))")


def test_registered_names_with_a_scope_are_read():
    cfg = config.from_text("a = dict(type='mmpretrain.ConvNeXt', file='a.b.c', constructor='DefaultOptimWrapper')")
    assert cfg.a.type == 'mmpretrain.ConvNeXt'


def test_custom_imports_are_not_imported():
    text = "custom_imports = dict(imports=['no_such_module'], allow_failed_imports=False)"
    assert config.from_text(text).custom_imports.imports == ['no_such_module']


def test_the_newest_config_of_a_work_dir(tmp_path):
    cfg = config.load('repvit_maskrcnn_shapes')
    for age, epochs in enumerate((1, 2)):
        cfg.train_cfg.max_epochs = epochs
        cfg.dump(tmp_path / f'run{epochs}.py')
        os.utime(tmp_path / f'run{epochs}.py', (age, age))
    read = config.from_work_dir(tmp_path)
    assert read.to_dict() == cfg.to_dict()
    assert read.filename == str(tmp_path / 'run2.py')


def test_a_work_dir_without_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=f'{tmp_path}: no config in this folder; name a config'):
        config.from_work_dir(tmp_path)


def test_a_written_config_is_not_executed(tmp_path):
    (tmp_path / 'run.py').write_text(f"x = open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match=r'run\.py: not plain values \(line 1: open'):
        config.from_work_dir(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['run.py']


@pytest.mark.parametrize(
    'text', ['a = ' + '[' * 9999, 'a = ' + '-' * 9999 + '1', 'a = "\ud800"', 'a = ' + '9' * 5000, 'a\0']
)
def test_a_crafted_text_is_refused(text):
    with pytest.raises(InputError, match='nothing was executed. Name the config file instead'):
        config.from_text(text)


def test_a_long_text_is_refused_before_it_is_parsed():
    with pytest.raises(InputError, match='a config of 600,004 characters'):
        config.from_text('a = ' + '[]' * 300_000)


def test_only_files_of_a_work_dir_are_configs(tmp_path):
    (tmp_path / 'a.py').mkdir()
    os.mkfifo(tmp_path / 'b.py')
    with pytest.raises(InputError, match='no config in this folder'):
        config.load(tmp_path)


def test_converted_annotations_move_with_their_work_dir(tmp_path):
    moved = tmp_path / 'moved'
    (moved / 'coco').mkdir(parents=True)
    (moved / 'coco' / 'val.json').touch()
    loader = {'dataset': {'ann_file': f'{tmp_path}/old/coco/val.json', 'data_root': f'{tmp_path}/old/coco/none'}}
    (moved / 'a.py').write_text(f'val_dataloader = {loader}')
    dataset = config.from_work_dir(moved).val_dataloader.dataset
    assert dataset.ann_file == str(moved / 'coco' / 'val.json')
    assert dataset.data_root == f'{tmp_path}/old/coco/none'
