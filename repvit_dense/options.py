"""Declare the options of a command once, as dataclass fields, for the command line and for Python."""

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class _Limit(Protocol):
    """A `type` of an option whose text says what it accepts."""

    def allows(self, value: object) -> bool:
        """Return whether a value from Python is possible."""


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

    def __str__(self) -> str:
        return f'a whole number from {self.minimum} to {self.maximum}'

    def allows(self, value: object) -> bool:
        """Return whether a value from Python is possible."""
        values = value if isinstance(value, list | tuple) else [value]
        return all(
            not isinstance(each, bool) and isinstance(each, int) and self.minimum <= each <= self.maximum
            for each in values
        )


class _PositiveNumber:
    def __call__(self, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not self.allows(number):
            raise argparse.ArgumentTypeError(f"must be {self}, got '{text}'")
        return number

    def __str__(self) -> str:
        return 'a number above 0'

    def allows(self, value: object) -> bool:
        """Return whether a value from Python is possible."""
        return not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < math.inf


class _ImageSize:
    def __call__(self, text: str) -> int | tuple[int, int]:
        match = re.fullmatch(r'([1-9][0-9]{0,4})(?:[xX]([1-9][0-9]{0,4}))?', text)
        if not match:
            raise argparse.ArgumentTypeError(f"must be {self}, got '{text}'")
        return (int(match[1]), int(match[2])) if match[2] else int(match[1])

    def __str__(self) -> str:
        return 'a number of pixels (640), or width x height (1024x768)'

    def allows(self, value: object) -> bool:
        """Return whether a value from Python is possible."""
        sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
        return all(not isinstance(side, bool) and isinstance(side, int) and side > 0 for side in sides)


positive_number, image_size = _PositiveNumber(), _ImageSize()


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
        if isinstance(limit, _Limit) and value is not None and value != field.default and not limit.allows(value):
            raise InputError(f'{field.name}={value!r}: must be {limit}')
        for each in value if isinstance(value, list | tuple) else [value]:
            if choices and each not in (*choices, field.default):
                raise InputError(f'{field.name}={each!r}: expected {", ".join(map(repr, choices))}')
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
