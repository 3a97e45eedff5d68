"""One line for a person above the bars, from the first process only, and aligned columns."""

import io
import sys

import pytest
from tqdm import tqdm

from repvit_dense import screen
from tests.terminal import visible


def test_a_line_goes_to_stderr_with_control_characters_escaped(capsys):
    screen.say('a\x1b[2J')
    assert capsys.readouterr() == ('', 'a\\x1b[2J\n')


def test_a_line_above_a_bar_leaves_the_bar_below(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    with tqdm(total=2, file=sys.stderr, ascii=True):
        screen.say('halfway')
        assert 'halfway\n\r' in sys.stderr.getvalue()


def test_a_passing_line_is_below_all_others_and_disappears(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, 'stderr', stream)
    with screen.passing('loading ...'):
        screen.say('by the way')
    assert visible(stream.getvalue().replace('\n', '\r\n')) == ['by the way']
    assert stream.getvalue().endswith('\nloading ...\r           \r')


def test_other_processes_than_the_first_say_nothing(monkeypatch, capsys):
    monkeypatch.setattr(screen, '_muted', False)
    screen.mute()
    screen.say('twice')
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('error', [OSError, ValueError])
def test_a_terminal_that_is_gone_ends_nothing(monkeypatch, error):
    class Gone(io.StringIO):
        def write(self, text):
            raise error

    monkeypatch.setattr(sys, 'stderr', Gone())
    screen.say('anyone there?')


@pytest.mark.parametrize(
    ('right', 'table'),
    [(False, 'class  AP\n气球   0.5\ndog    0.25'), (True, 'class    AP\n气球    0.5\ndog    0.25')],
)
def test_columns_are_aligned_for_wide_characters_too(right, table):
    assert screen.columns([('class', 'AP'), ('气球', '0.5'), ('dog', 0.25)], right) == table
