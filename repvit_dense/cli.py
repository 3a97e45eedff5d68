"""Parse the command line from the options of the commands, run one and set the exit code."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from repvit_dense.errors import InputError

# Each is a module of repvit_dense.commands with the dataclass `Options` and `run(options)`.
COMMANDS = ('train', 'test', 'predict', 'export', 'benchmark', 'doctor', 'list')


def main(command: str | None = None, argv: Sequence[str] | None = None) -> None:
    """Run a command and exit the process.

    The exit code is 0, 2 for bad input or a partial result, 130 after Ctrl-C.

    Args:
        command: name of the command; None: the first argument names it.
        argv: arguments; None: those of the process.
    """
    words = [*([command] if command else []), *(sys.argv[1:] if argv is None else argv)]
    parser = build_parser()
    arguments, rest = parser.parse_known_args(words)
    if not _fill_positionals(arguments, rest):
        parser.error(f'unrecognized arguments: {" ".join(rest)}')
    sys.exit(_run(arguments))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands from their option dataclasses."""
    parser = argparse.ArgumentParser(prog='repvit-dense', description='Mobile backbones for dense prediction.')
    subparsers = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    program = Path(sys.argv[0]).name
    for name in COMMANDS:
        module = import_module(f'repvit_dense.commands.{name}')
        summary = module.run.__doc__.splitlines()[0]
        prog = program if program == f'{name}.py' else f'repvit-dense {name}'
        add_options(subparsers.add_parser(name, help=summary, description=summary, prog=prog), module.Options)
    return parser


def add_options(parser: argparse.ArgumentParser, options_class: type) -> None:
    """Add every field that `repvit_dense.options.option` declared as an argument."""
    for field in dataclasses.fields(options_class):
        settings = dict(field.metadata)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if not settings.pop('positional', False):
            flags = settings.pop('flags', (f'--{field.name.replace("_", "-")}',))
            if default is False:
                settings['action'] = 'store_true'
            elif default:
                shown = ' '.join(map(str, default)) if isinstance(default, list | tuple) else default
                settings['help'] += f' (default: {shown})'
            parser.add_argument(*flags, dest=field.name, default=default, **settings)
        elif default is dataclasses.MISSING or settings.get('nargs') == '+':
            parser.add_argument(field.name, **settings)
        else:
            parser.add_argument(field.name, default=default, **settings)


def _fill_positionals(arguments: argparse.Namespace, rest: list[str]) -> bool:
    """Take positional arguments that follow an option; argparse leaves them if their number is open.

    Returns:
        False if they fit nowhere.
    """
    if not rest or any(word.startswith('-') for word in rest):
        return not rest
    positionals = [field for field in _fields(_module_of(arguments)) if field.metadata.get('positional')]
    for field in positionals:
        value = getattr(arguments, field.name)
        if isinstance(value, list):
            setattr(arguments, field.name, [*value, *rest])
            return True
        if value is None and len(rest) == 1:
            setattr(arguments, field.name, rest[0])
            return True
    return False


def _module_of(arguments: argparse.Namespace) -> ModuleType:
    return import_module(f'repvit_dense.commands.{arguments.command}')


def _fields(module: ModuleType) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(module.Options)


def _run(arguments: argparse.Namespace) -> int:
    module = _module_of(arguments)
    try:
        outcome = module.run(
            module.Options(**{field.name: getattr(arguments, field.name) for field in _fields(module)})
        )
    except InputError as error:
        print('error:', ' '.join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except RuntimeError as error:
        if not hasattr(error, 'exit_code'):
            raise
        print(error, file=sys.stderr)  # a training that was stopped and can be resumed
        return error.exit_code
    return 2 if getattr(outcome, 'failed', None) else 0
