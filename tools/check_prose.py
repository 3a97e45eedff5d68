"""Count habits of phrasing that slow a reader down, in comments and docstrings; `make lint` runs it.

Three rates are held below a limit: the words `what` and `where` per 1,000 words of prose, and the share of docstrings
that begin with a word such as `Whether` or `With` instead of a verb.

    python tools/check_prose.py [--list] [PATH ...]
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PATHS = ('repvit_dense', 'tools', 'tests', 'configs', 'setup.py')
WORD_LIMITS = {'what': 1.0, 'where': 2.5}  # occurrences per 1,000 words
NOT_VERBS = frozenset({'what', 'whether', 'where', 'of', 'how', 'as', 'with', 'for', 'in'})
VERBLESS_LIMIT = 2.0  # percent of docstrings
DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)


class Text(NamedTuple):
    """One comment or docstring.

    Attributes:
        path: the file.
        line: its first line, from 1.
        text: without quotes or `#`.
        words: lower-case words of the text, without code in backticks.
        is_docstring: False for a comment.
    """

    path: Path
    line: int
    text: str
    words: list[str]
    is_docstring: bool


class Rate(NamedTuple):
    """One measured habit.

    Attributes:
        label: description with the measured value and the limit, to be printed.
        exceeded: the value is above its limit.
        texts: the comments and docstrings that were counted.
    """

    label: str
    exceeded: bool
    texts: list[Text]


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without code in backticks."""
    return re.findall(r"[a-z][a-z'-]*", re.sub(r'`[^`]*`', ' ', text).lower())


def definitions(tree: ast.Module) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every node that can have a docstring. Expressions are skipped: they contain none."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, DEFINITIONS):
            yield node
        pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, STATEMENTS)]


def read_texts(path: Path) -> Iterator[Text]:
    """Yield the comments and docstrings of a Python file.

    Raises:
        SyntaxError: the file cannot be parsed; the error names it.
    """
    source = path.read_text(encoding='utf-8')
    for node in definitions(ast.parse(source, str(path))):
        docstring = ast.get_docstring(node)
        if docstring is not None:
            yield Text(path, node.body[0].lineno, docstring, split_words(docstring), True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comment = token.string.lstrip('#: ')
            yield Text(path, token.start[0], comment, split_words(comment), False)


def measure(texts: Sequence[Text]) -> list[Rate]:
    """Return one rate for each word in `WORD_LIMITS`, and one for docstrings that begin without a verb."""
    rates = []
    total = sum(len(text.words) for text in texts)
    for word, limit in WORD_LIMITS.items():
        rate = 1000 * sum(text.words.count(word) for text in texts) / max(1, total)
        label = f'"{word}": {rate:.2f} per 1,000 words (at most {limit})'
        rates.append(Rate(label, rate > limit, [text for text in texts if word in text.words]))
    docstrings = [text for text in texts if text.is_docstring]
    verbless = [text for text in docstrings if text.words and text.words[0] in NOT_VERBS]
    share = 100 * len(verbless) / max(1, len(docstrings))
    label = f'docstrings that begin without a verb: {share:.1f}% of {len(docstrings)} (at most {VERBLESS_LIMIT:.0f}%)'
    return [*rates, Rate(label, share > VERBLESS_LIMIT, verbless)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rates; return 1 if one exceeds its limit.

    Args:
        arguments: command line without the program's name; default `sys.argv[1:]`.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0], allow_abbrev=False)
    parser.add_argument('paths', nargs='*', type=Path, metavar='PATH', help='files or folders (default: all)')
    parser.add_argument('--list', action='store_true', help='print every comment and docstring that counts')
    options = parser.parse_args(arguments)
    paths = options.paths or [ROOT / name for name in PATHS]
    files = [file for path in paths for file in (sorted(path.rglob('*.py')) if path.is_dir() else [path])]
    rates = measure([text for file in files for text in read_texts(file)])
    for rate in rates:
        print(rate.label)
    if options.list:
        counted = {(text.path, text.line): text.text.partition('\n')[0] for rate in rates for text in rate.texts}
        for (path, line), first_line in sorted(counted.items()):
            print(f'{path}:{line}: {first_line}')
    return int(any(rate.exceeded for rate in rates))


if __name__ == '__main__':
    sys.exit(main())
