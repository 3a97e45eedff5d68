"""The kind of error that a command reports without a traceback, and text that is fit for a message."""

import difflib
import re
from collections.abc import Iterable

LONGEST_WORD, LONGEST_MESSAGE = 300, 4000  # characters


class InputError(ValueError):
    """An error in the user's input; the message names the problem, its place and the remedy. Commands exit with 2.

    The message may quote names from files: unprintable characters are escaped, and long words lose their middle.
    """

    def __init__(self, message: str):
        words = re.sub(rf'\S{{{LONGEST_WORD + 1},}}', lambda word: shorten(word[0], LONGEST_WORD), printable(message))
        super().__init__(shorten(words, LONGEST_MESSAGE))


def printable(text: object) -> str:
    """Return a text in which control characters, except line breaks, and lone surrogates are escaped."""
    text = str(text)
    if text.isprintable():
        return text
    return ''.join(c if c.isprintable() or c == '\n' else c.encode('unicode_escape').decode() for c in text)


def shorten(text: object, limit: int = 120) -> str:
    """Return a text of at most `limit` characters; a longer one has `[...]` in place of its middle."""
    text = str(text)
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f'{text[:half]}[...]{text[-half:]}'


def nearest(name: str, known: Iterable[object]) -> str:
    """Return '; did you mean NAME?' for the end of a message, or an empty text if no known name is similar."""
    similar = difflib.get_close_matches(name, [word for word in known if isinstance(word, str)], n=1, cutoff=0.6)
    return f"; did you mean '{similar[0]}'?" if similar else ''
