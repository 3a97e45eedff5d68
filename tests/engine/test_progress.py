"""A bar in a terminal, log lines elsewhere, and no bar in the log file."""

import re
import sys
from pathlib import Path

import pytest

from repvit_dense.engine.guard import TrainingStopped
from tests.terminal import Terminal

BAR = '█'


@pytest.fixture
def on_terminal(monkeypatch):
    """`on_terminal(function)` returns the output of a function to a terminal."""

    def call(function, streams=('stdout', 'stderr')):
        terminal = Terminal()
        with monkeypatch.context() as patch:
            for name in streams:
                patch.setattr(sys, name, terminal.stream)
            try:
                function()
            finally:
                text = terminal.close()
        return text

    return call


def log_of(work_dir):
    return next(Path(work_dir).glob('*/*.log')).read_text()


def test_a_terminal_shows_bars_with_the_loss(tmp_path, toy, on_terminal):
    text = on_terminal(lambda: toy(tmp_path).train())
    assert BAR in text
    assert 'train: 100%' in text
    assert '16/16' in text
    assert 'epoch=2' in text
    assert re.search(r'epoch=1, loss=\d+\.\d{3}\W', text)
    assert 'val:' in text
    assert 'Epoch(train)' not in text  # the bar shows it
    assert 'Epoch(val)' in text  # once per epoch, above the bar


def test_training_by_iterations_shows_no_epochs(tmp_path, toy, on_terminal):
    by_iterations = {'type': 'DenseIterLoop', 'max_iters': 6, 'val_interval': 3}
    text = on_terminal(lambda: toy(tmp_path, train_cfg=by_iterations).train())
    assert '6/6' in text
    assert re.search(r'loss=\d+\.\d{3}\W', text)
    assert 'epoch=' not in text


def test_the_log_file_has_lines_but_no_bar(tmp_path, toy, on_terminal):
    on_terminal(lambda: toy(tmp_path).train())
    log = log_of(tmp_path)
    assert 'Epoch(train) [2][8/8]' in log
    assert 'loss_toy' in log
    assert [text for text in (BAR, '\r', 'it/s') if text in log] == []


def test_testing_has_a_bar(tmp_path, toy, on_terminal):
    text = on_terminal(lambda: toy(tmp_path).test())
    assert 'test: 100%' in text
    assert '8/8' in text


def test_a_resumed_bar_starts_at_the_resumed_iteration(tmp_path, toy, on_terminal):
    toy(tmp_path, train_cfg={'type': 'DenseEpochLoop', 'max_epochs': 1}).train()
    text = on_terminal(lambda: toy(tmp_path, resume=True).train())
    assert ' 8/16' in text
    assert ' 4/16' not in text


def test_without_a_terminal_lines_are_printed(tmp_path, toy, capsys):
    runner = toy(tmp_path)
    runner.train()
    captured = capsys.readouterr()
    assert 'Epoch(train) [1][2/8]' in captured.out
    assert BAR not in captured.out + captured.err
    assert 'it/s' not in captured.out + captured.err


def test_redirected_output_keeps_its_lines(tmp_path, toy, on_terminal, capsys):
    """`train ... > log.txt` shows the bar on the terminal and writes the log lines to the file."""
    text = on_terminal(lambda: toy(tmp_path).train(), streams=('stderr',))
    assert 'train: 100%' in text
    assert 'Epoch(train) [1][2/8]' in capsys.readouterr().out
    assert 'Epoch(' not in text


def test_warnings_are_shown(tmp_path, toy, on_terminal):
    from mmengine.hooks import Hook

    class Warn(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.logger.warning('mind the gap')
            runner.logger.info('all is well')

    text = on_terminal(lambda: toy(tmp_path, hooks=[Warn()]).train())
    assert 'mind the gap' in text
    assert 'all is well' not in text


def test_bars_are_closed_after_an_error(tmp_path, toy, on_terminal):
    """The error message must not be on the line of the bar."""
    from mmengine.hooks import Hook

    class Break(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 3:
                raise TrainingStopped('so far', 1)

    def train():
        try:
            toy(tmp_path, hooks=[Break()]).train()
        except TrainingStopped as stop:
            print(stop, file=sys.stderr)

    lines = on_terminal(train).replace('\r\n', '\n').split('\n')
    assert 'so far' in lines
