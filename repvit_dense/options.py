"""Declare the options of a command once, as dataclass fields, for the command line and for Python."""

import argparse
import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

from repvit_dense.errors import InputError


def option(default: Any = dataclasses.MISSING, *, help: str, **argparse_arguments: Any) -> Any:  # noqa: A002
    """Return a dataclass field that is also a command-line option.

    `repvit_dense.cli` turns the field `max_detections` into `--max-detections`; a `bool` field takes no value.

    Args:
        default: value without the option; a `list` or `dict` is copied for every instance. Required if left out.
        help: one line for `--help`; the default is appended.
        argparse_arguments: `metavar`, `choices`, `nargs`, `const` and `type` as in `ArgumentParser.add_argument`;
            `positional=True` for an argument without dashes.
    """
    metadata = {'help': help, **argparse_arguments}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class _WholeNumber:
    minimum: int
    maximum: int

    def __call__(self, text: str) -> int:
        if not re.fullmatch(r'[+-]?[0-9]{1,20}', text):
            raise argparse.ArgumentTypeError(f"invalid int value: '{text}'")
        number = int(text)
        if number < self.minimum:
            raise argparse.ArgumentTypeError(f'must be {self.minimum} or more, got {number}')
        if number > self.maximum:
            raise argparse.ArgumentTypeError(f'must be {self.maximum} or less, got {number}')
        return number

    def allows(self, value: object) -> bool:
        """Return whether a value from Python is possible."""
        return not isinstance(value, bool) and isinstance(value, int) and self.minimum <= value <= self.maximum


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a `type` of an option that converts text to an integer from `minimum` to `maximum`."""
    return _WholeNumber(minimum, maximum)


def check(settings: Any) -> None:
    """Refuse values of a dataclass of options that no command accepts: choices, bounds, empty and impossible text.

    Raises:
        InputError: names the option.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        choices, limit = field.metadata.get('choices'), field.metadata.get('type')
        for each in value if isinstance(value, list | tuple) else [value]:
            if choices and each not in (*choices, field.default):
                raise InputError(f'{field.name}={each!r}: expected {", ".join(map(repr, choices))}')
            if isinstance(limit, _WholeNumber) and each not in (None, field.default) and not limit.allows(each):
                raise InputError(
                    f'{field.name}={each!r}: must be a whole number from {limit.minimum} to {limit.maximum}'
                )
            if isinstance(each, str | os.PathLike):
                _check_text(field, str(each))


def name_of(field: dataclasses.Field[Any]) -> str:
    """Return an option as it is typed on the command line."""
    if field.metadata.get('positional'):
        return str(field.metadata.get('metavar', field.name))
    return str(field.metadata.get('flags', [f'--{field.name.replace("_", "-")}'])[-1])


def _check_text(field: dataclasses.Field[Any], text: str) -> None:
    if not text.strip():
        raise InputError(f'{name_of(field)}: the value is empty; name one, or leave the option out')
    if '\0' in text:
        raise InputError(f'{name_of(field)} {text}: contains a NUL character, which no name has')
