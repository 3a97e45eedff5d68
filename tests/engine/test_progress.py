"""A bar in a terminal, lines elsewhere, and no bar in the log file; a quiet command shows little else."""

import re
import sys
from pathlib import Path

import pytest

from repvit_dense.compat.quiet import quiet
from repvit_dense.engine import progress
from repvit_dense.engine.guard import TrainingStopped
from tests.terminal import COLUMNS, Terminal, visible

BAR = '█'


@pytest.fixture
def on_terminal(monkeypatch):
    """`on_terminal(function)` returns the output of a function to a terminal."""

    def call(function, streams=('stdout', 'stderr'), columns=COLUMNS, encoding='utf-8'):
        terminal = Terminal(columns, encoding)
        with monkeypatch.context() as patch:
            patch.setenv('COLUMNS', str(columns))
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


# --- a quiet command ---


def quietly(work_dir, toy, **settings):
    def train():
        with quiet():
            toy(work_dir, **settings).train()

    return train


def test_a_quiet_training_shows_header_bar_validations_results_and_next_commands(tmp_path, toy, on_terminal):
    lines = visible(on_terminal(quietly(tmp_path, toy)))
    titles = ['data', 'model', 'weights', 'schedule', 'device', 'work dir', 'log']
    assert [line[:8].rstrip() for line in lines[:7]] == titles
    assert lines[0].endswith('16 training images, 16 for validation, 1 class (thing)')
    log = next(tmp_path.glob('*/*.log'))
    assert lines[6] == f'log       {log} (everything else)'
    validations = [line for line in lines if line.startswith('epoch')]
    assert re.fullmatch(r'epoch 1/2  loss \d+\.\d{3}  mAP 0\.\d{3}  \(best\)', validations[0])
    assert len(validations) == 2
    assert [line for line in lines if BAR in line][-1].startswith('train: 100%')
    assert re.fullmatch(r'toy/mAP 0\.\d{3}', lines[lines.index('Scores of the last validation:') + 1])
    assert [line.split()[1:3] for line in lines[-3:]] == [
        [verb, str(tmp_path)] for verb in ('test', 'predict', 'export')
    ]
    assert len(lines) < 20
    assert 'Epoch(train)' in log.read_text() and validations[1] in log.read_text()


@pytest.mark.parametrize('settings', [{'columns': 60}, {'columns': 60, 'encoding': 'ascii'}])
def test_a_narrow_terminal_without_unicode_shows_one_bar(tmp_path, toy, on_terminal, settings):
    lines = visible(on_terminal(quietly(tmp_path, toy), **settings), 60)
    (bar,) = [line for line in lines if 'it/s' in line]
    assert bar.startswith('train: 100%')
    assert (BAR in bar) == ('encoding' not in settings)


@pytest.mark.parametrize('terminal', [True, False])
def test_lines_of_progress_replace_the_bar(tmp_path, toy, on_terminal, capsys, monkeypatch, terminal):
    """Use a pipe, and a terminal that cannot draw over a line."""
    monkeypatch.setattr(progress, 'SECONDS', 0)
    monkeypatch.setattr(progress, 'SHARE', 0.25)
    if terminal:
        monkeypatch.setenv('TERM', 'dumb')
        text = on_terminal(quietly(tmp_path, toy))
    else:
        quietly(tmp_path, toy)()
        text = capsys.readouterr().err
    pattern = r'train 25%, 4/16, epoch 1, loss \d+\.\d{3}, \d+\.\d\d it/s, 00:\d\d left'
    lines = text.splitlines()
    assert len([line for line in lines if re.fullmatch(pattern, line)]) == 1
    assert len([line for line in lines if line.startswith('train ')]) == 3
    assert [line for line in lines if 'epoch 2/2' in line]
    assert BAR not in text and '\x1b' not in text


def test_lines_of_progress_are_rare(capsys):
    lines = progress.Lines('train', 1000)
    for _ in range(999):
        lines.update()
    assert capsys.readouterr().err == ''


def test_other_processes_print_no_results(tmp_path, toy, capsys, monkeypatch):
    monkeypatch.setattr(progress, 'is_main_process', lambda: False)
    quietly(tmp_path, toy)()
    assert capsys.readouterr().out == ''


def test_a_quiet_test_shows_three_lines_the_bar_and_the_scores(tmp_path, toy, on_terminal):
    def test():
        with quiet():
            toy(tmp_path).test()

    lines = visible(on_terminal(test))
    assert [line.split()[0] for line in lines] == ['data', 'model', 'log', 'test:', 'toy/mAP']


def test_warnings_of_the_run_are_shown_once_above_the_bar(tmp_path, toy, on_terminal):
    from mmengine.hooks import Hook

    class Warn(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.logger.warning('mind the gap')
            runner.logger.info('all is well')

    lines = visible(on_terminal(quietly(tmp_path, toy, hooks=[Warn()])))
    assert [line for line in lines if 'mind' in line or 'well' in line] == ['warning: mind the gap']
