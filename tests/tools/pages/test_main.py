"""Test the command line `python -m tools.pages`."""

import ast
import dataclasses
from importlib import import_module
from pathlib import Path

import pytest
import torch

from repvit_dense import cli
from tools.pages import __main__ as command
from tools.pages import growth, peers, peers_learning, targets, targets_processes

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize('name', command.PAGES)
def test_every_page_has_options_and_a_run_function(name):
    module = import_module(f'tools.pages.{name}')
    assert dataclasses.is_dataclass(module.Options) and callable(module.run)


def test_every_module_with_a_run_function_is_a_page():
    def defines_run(path):
        return any(
            isinstance(node, ast.FunctionDef) and node.name == 'run' for node in ast.parse(path.read_text()).body
        )

    paths = (ROOT / 'tools' / 'pages').glob('*.py')
    assert {path.stem for path in paths if defines_run(path)} - {'__main__'} == set(command.PAGES)


def test_help_lists_every_page(capsys):
    with pytest.raises(SystemExit):
        command.main(['--help'])
    text = capsys.readouterr().out
    assert all(name in text for name in command.PAGES)


def test_the_options_of_a_page_are_parsed(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(peers, 'run', lambda options: seen.append(options) or 2)
    file = tmp_path / 'peers.md'
    assert command.main(['peers', file, '--backbones', 'm1_1', 'swin_tiny', '--rounds', '2']) == 2
    assert seen == [peers.Options(file=file, backbones=['m1_1', 'swin_tiny'], rounds=2)]
    assert seen[0].json is None and peers.Options(file=file).rounds == 3


def test_parts_and_options_of_the_targets_are_parsed(monkeypatch):
    seen = []
    monkeypatch.setattr(targets, 'run', lambda options: seen.append(options) or 0)
    assert command.main(['targets', 'training', 'export', '--rounds', '1', '--batch', '4']) == 0
    assert command.main(['targets']) == 0
    assert seen == [targets.Options(parts=['training', 'export'], rounds=1, batch=4), targets.Options()]


def test_the_number_of_threads_applies_to_the_page(tmp_path, monkeypatch):
    seen, threads = [], torch.get_num_threads()
    monkeypatch.setattr(growth, 'run', lambda options: seen.append(torch.get_num_threads()) or 0)
    command.main(['growth', tmp_path / 'growth.md', '--threads', threads + 1])
    assert seen == [threads + 1]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize('name', ['growth', 'ladder', 'model_zoo', 'peers', 'peers_learning', 'export_table'])
def test_a_missing_directory_is_refused_before_the_measurement(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(import_module(f'tools.pages.{name}'), 'run', lambda options: pytest.fail('measured first'))
    assert command.main([name, tmp_path / 'missing' / 'page.md']) == 2
    assert 'there is no directory' in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without GPU')
def test_a_missing_gpu_is_refused(capsys):
    assert command.main(['targets', '--device', 'cuda']) == 2
    assert '--device cuda: PyTorch finds no GPU' in capsys.readouterr().err


def test_an_unknown_backbone_is_refused(tmp_path, capsys):
    assert command.main(['peers_learning', tmp_path / 'page.md', '--backbones', 'resnet99']) == 2
    assert "--backbones: unknown backbone 'resnet99'" in capsys.readouterr().err
    assert peers_learning.Options(file=tmp_path).backbones == list(peers_learning.BACKBONES)


def test_the_start_of_every_command_has_a_target():
    assert targets_processes.COMMANDS == cli.COMMANDS
