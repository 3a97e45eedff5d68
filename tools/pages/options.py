"""Options that several pages share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repvit_dense import catalogue
from repvit_dense.benchmark.settings import positive_int
from repvit_dense.errors import InputError
from repvit_dense.options import option


def file_option(name: str) -> Any:
    """Return the required argument FILE of a page that belongs at docs/NAME."""
    return option(positional=True, type=Path, metavar='FILE', help=f'Markdown file to write, docs/{name}')


def rounds_option(default: int) -> Any:
    """Return the option --rounds."""
    return option(default, type=positive_int, metavar='N', help='timed rounds')


def threads_option() -> Any:
    """Return the option --threads."""
    return option(None, type=positive_int, metavar='N', help="number of CPU threads; by default PyTorch's own choice")


def size_option() -> Any:
    """Return the option --size."""
    return option(
        (512, 512), nargs=2, type=positive_int, metavar=('H', 'W'), help='height and width of the input in pixels'
    )


def json_option(text: str = 'also write all results to a JSON file') -> Any:
    """Return the option --json."""
    return option(None, type=Path, metavar='FILE', help=text)


def backbones_option(default: Sequence[str] | None, text: str = 'backbones of the catalogue') -> Any:
    """Return the option --backbones; a default of None stands for all."""
    return option(list(default) if default else None, nargs='+', metavar='NAME', help=text)


def resolve_backbones(names: Sequence[str]) -> list[str]:
    """Return the full catalogue names without duplicates.

    Raises:
        InputError: a name is unknown.
    """
    try:
        return list(dict.fromkeys(catalogue.find(name).name for name in names))
    except ValueError as error:
        raise InputError(f'--backbones: {error}') from error
