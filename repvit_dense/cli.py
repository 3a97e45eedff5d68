"""Parse the command line from the options of the commands, run one and set the exit code."""

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from repvit_dense import __version__, plugin
from repvit_dense.compat.quiet import quiet
from repvit_dense.errors import InputError, nearest, printable, shorten
from repvit_dense.options import check

# Each is a module of repvit_dense.commands with the dataclass `Options` and `run(options)`.
COMMANDS = ('train', 'test', 'predict', 'export', 'benchmark', 'serve', 'card', 'push', 'doctor', 'list')
# Verbs of other libraries.
OTHER_NAMES = {
    **dict.fromkeys(('infer', 'inference', 'detect', 'demo'), 'predict'),
    **dict.fromkeys(('val', 'eval', 'evaluate', 'validate'), 'test'),
    **dict.fromkeys(('fit', 'finetune', 'fine-tune'), 'train'),
    **dict.fromkeys(('checks', 'check', 'settings'), 'doctor'),
    **dict.fromkeys(('models', 'search'), 'list'),
    **dict.fromkeys(('upload', 'publish'), 'push'),
}
BROKEN_PIPE = 141  # as a shell reports a process that SIGPIPE ended


def main(command: str | None = None, argv: Sequence[str] | None = None) -> None:
    """Run a command and exit the process.

    The exit code is 0, 2 for bad input or a partial result, 130 after Ctrl-C, 141 if the reader of the output is gone,
    and 1 for a fault of the program.

    Args:
        command: name of the command; None: the first argument names it.
        argv: arguments; None: those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a stream of another kind
            stream.reconfigure(errors='backslashreplace')  # type: ignore[union-attr]
    try:
        try:
            code = _run(parse([*([command] if command else []), *(sys.argv[1:] if argv is None else argv)]))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # Python would report the broken pipe again when it closes the stream
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """A parser that refuses abbreviated options, empty values, and options that are given twice.

    Only an option with any number of values (`nargs='+'`) may be given again; its values are joined.
    """

    def __init__(self, **settings: Any):
        super().__init__(**{'allow_abbrev': False, **settings})
        self.register('action', None, _Store)
        self.register('action', 'store_true', partial(_Store, nargs=0))

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if not arg_string.strip() and action.nargs != argparse.PARSER:
            raise argparse.ArgumentError(action, 'the value is empty')
        return super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            choices = [str(choice) for choice in action.choices or ()]
            meant = OTHER_NAMES.get(str(value)) if 'predict' in choices else None
            raise argparse.ArgumentError(action, f'{error.message}{nearest(meant or str(value), choices)}') from None

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a whole command line; exit with 2 if an argument is unknown."""
        arguments, rest = self.parse_known_args(args, namespace)
        if rest:
            getattr(arguments, 'parser', self).refuse(rest)
        return arguments

    def refuse(self, words: list[str]) -> NoReturn:
        """End with a message that names these arguments, and the option that is most similar to the first."""
        option = next((word.partition('=')[0] for word in words if word.startswith('-')), '')
        key, equals, value = words[0].partition('=')
        if equals and f'--{key}' in self._option_string_actions:
            hint = f"; did you mean '--{key} {value}'?"
        else:
            hint = nearest(option, self._option_string_actions)
        self.error(f'unrecognized arguments: {" ".join(words)}{hint}')

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with 2."""
        text = shorten(printable(' '.join(message.split())), 2000)
        self.exit(2, f'{self.format_usage()}{self.prog}: error: {text}\n')


class _Store(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        seen = vars(namespace).setdefault('seen', set())
        if option_string and self.dest in seen:
            if self.nargs != '+':
                raise argparse.ArgumentError(self, 'given twice; give it once')
            values = [*getattr(namespace, self.dest), *values]
        seen.update([self.dest] if option_string else [])
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a command line, with the name of the command; exit with 2 if it is not valid."""
    if words[:1] == ['help']:
        words = [*words[1:2], '--help']
    arguments, rest = build_parser().parse_known_args(words)
    if not _fill_positionals(arguments, rest):
        arguments.parser.refuse(rest)
    return arguments


def build_parser() -> Parser:
    """Build the parser of all commands from their option dataclasses."""
    parser = Parser(
        prog='repvit-dense',
        description='Mobile backbones for dense prediction.',
        epilog='`repvit-dense help COMMAND` shows the options of a command.',
    )
    parser.add_argument('--version', action='version', version=f'repvit-dense {__version__}')
    subparsers = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    program = Path(sys.argv[0]).name
    for name in COMMANDS:
        module = import_module(f'repvit_dense.commands.{name}')
        summary = module.run.__doc__.splitlines()[0]
        prog = program if program == f'{name}.py' else f'repvit-dense {name}'
        command = subparsers.add_parser(name, help=summary, description=summary, prog=prog)
        command.set_defaults(parser=command)
        add_options(command, module.Options)
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
    plugin.postpone()
    try:
        options = module.Options(**{field.name: getattr(arguments, field.name) for field in _fields(module)})
        check(options)
        with quiet(getattr(options, 'verbose', False)):
            outcome = module.run(options)
    except InputError as error:
        _complain(f'error: {_summary(error)}')
        return 2
    except KeyboardInterrupt:
        _complain('interrupted')
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if hasattr(error, 'exit_code'):
            _complain(str(error))  # a training that was stopped and can be resumed
            return int(error.exit_code)
        _complain(f'error: {_describe(error)} ({_write_trace(arguments)})')
        return 1
    return getattr(outcome, 'exit_code', 2 if getattr(outcome, 'failed', None) else 0)


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone, the exit code is not
        print(text, file=sys.stderr, flush=True)


def _summary(error: Exception) -> str:
    """Return the message of an error on one line; of an error in a worker process, without that process's trace."""
    lines = printable(error).split('\n')
    if any(line.startswith('Original Traceback') for line in lines):
        lines = [line for line in lines if line.strip()][-1:]
    return ' '.join(' '.join(lines).split())


def _describe(error: Exception) -> str:
    text = shorten(_summary(error), 500)
    if isinstance(error, MemoryError) or 'out of memory' in text or 'allocate memory' in text:
        return f'not enough memory; use a smaller batch, smaller images or another device: {text or "MemoryError"}'
    return f'{type(error).__name__}: {text}'


def _write_trace(arguments: argparse.Namespace) -> str:
    """Write the traceback of the current error to the work dir, else to the temporary folder; return the place."""
    for folder in (getattr(arguments, 'work_dir', None), tempfile.gettempdir()):
        try:
            if folder and Path(folder).is_dir():
                with tempfile.NamedTemporaryFile(
                    'w', -1, 'utf-8', None, '.txt', 'error-', folder, delete=False
                ) as file:
                    file.write(printable(traceback.format_exc()))
                return f'traceback in {file.name}'
        except (OSError, ValueError):
            continue
    return 'its traceback could not be written'
