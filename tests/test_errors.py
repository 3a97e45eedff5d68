"""Messages are readable whatever a file contains."""

import pytest

from repvit_dense.errors import InputError, printable, shorten


def test_a_long_name_in_a_message_loses_its_middle():
    message = str(InputError(f'{"x" * 10**6}.png: cannot be read; check the name'))
    assert (
        len(message) < 400 and message.startswith('xxx') and message.endswith('xxx.png: cannot be read; check the name')
    )


def test_a_message_of_many_words_is_cut_and_keeps_its_end():
    message = str(InputError('name, ' * 10_000 + 'and the remedy'))
    assert len(message) <= 4000 and message.endswith('and the remedy')


def test_characters_that_no_terminal_can_show_are_escaped():
    assert printable('a\udcffb\x00\x1b[2J\nStraße 街') == 'a\\udcffb\\x00\\x1b[2J\nStraße 街'


@pytest.mark.parametrize('text, expected', [('short', 'short'), ('a' * 50 + 'b' * 50, 'a' * 7 + '[...]' + 'b' * 7)])
def test_shorten_cuts_the_middle(text, expected):
    assert shorten(text, 20) == expected
