"""Declare the options of a command once, as dataclass fields, for the command line and for Python."""

import dataclasses
from typing import Any


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
