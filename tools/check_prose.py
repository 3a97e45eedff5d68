"""Count habits of phrasing that slow a reader down, in comments and docstrings; `make lint` runs it.

Three rates are held below a limit: the words "what" and "where" per 1,000 words of prose, and the share of docstrings
that begin with a word such as "Whether" or "With" instead of a verb.

    python tools/check_prose.py [--list] [PATH ...]
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PATHS = ('repvit_dense', 'tools', 'tests', 'configs', 'setup.py')
PER_1000_WORDS = {'what': 1.0, 'where': 2.5}
NO_VERB = ('what', 'whether', 'where', 'of', 'how', 'as', 'with', 'for', 'in')
NO_VERB_SHARE = 0.02
DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Text(NamedTuple):
    """One comment or docstring.

    Attributes:
        path: the file.
        line: its first line, from 1.
        text: without quotes or `#`.
        is_docstring: False for a comment.
    """

    path: Path
    line: int
    text: str
    is_docstring: bool


def texts(path: Path) -> list[Text]:
    """Return the comments and docstrings of a Python file."""
    source = path.read_text(encoding='utf-8')
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found.append(Text(path, token.start[0], token.string.lstrip('#: '), False))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DEFINITIONS) and ast.get_docstring(node) is not None:
            found.append(Text(path, node.body[0].lineno, ast.get_docstring(node), True))
    return found


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without code in backticks."""
    return re.findall(r"[a-z][a-z'-]*", re.sub(r'`[^`]*`', ' ', text).lower())


def main() -> int:
    """Print the three rates; return 1 if one exceeds its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('paths', nargs='*', type=Path, metavar='PATH', help='files or folders (default: all)')
    parser.add_argument('--list', action='store_true', help='print every place that counts')
    args = parser.parse_args()
    paths = args.paths or [ROOT / name for name in PATHS]
    files = [file for path in paths for file in (sorted(path.rglob('*.py')) if path.is_dir() else [path])]
    found = [text for file in files for text in texts(file)]
    total = sum(len(words(text.text)) for text in found)
    docstrings = [text for text in found if text.is_docstring]
    offenders, failed = [], False
    for word, limit in PER_1000_WORDS.items():
        places = [text for text in found for other in words(text.text) if other == word]
        rate = 1000 * len(places) / max(1, total)
        print(f'"{word}": {rate:.2f} per 1,000 words (at most {limit})')
        failed |= rate > limit
        offenders += places
    places = [text for text in docstrings if (words(text.text) or [''])[0] in NO_VERB]
    share = len(places) / max(1, len(docstrings))
    print(f'docstrings that begin without a verb: {share:.1%} of {len(docstrings)} (at most {NO_VERB_SHARE:.0%})')
    failed |= share > NO_VERB_SHARE
    if args.list:
        for text in sorted(set(offenders + places), key=lambda text: (text.path, text.line)):
            print(f'{text.path}:{text.line}: {text.text.splitlines()[0] if text.text else ""}')
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
