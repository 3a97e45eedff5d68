"""Keep the notices of other libraries off the screen during a command; those of a run go to its log file.

A library is installed software other than this package. Its prints, its Python warnings and its log records are
kept from the screen, with these exceptions:

- records of level ERROR, and records of any level with `extra={'screen': True}`;
- warnings, and records of level WARNING, from the files in `MATTER`, unless they announce a deprecation.

The standard library, except for its deprecations, and the user's own modules are no such library: their warnings and
their prints are shown. stderr is left alone, so that tracebacks and messages of crashed workers always appear.
"""

import logging
import os
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from repvit_dense.screen import say

FOR_PROGRAMMERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
STANDARD = str(Path(os.__file__).parent)
PACKAGE = Path(__file__).parents[1].as_posix()
INSTALLED = ('/site-packages/', '/dist-packages/')
# Files whose warnings are about this machine or this run: GPUs, workers, checkpoints, a training that is resumed.
MATTER = ('torch/cuda/', 'torch/utils/data/', 'mmengine/hooks/', 'mmengine/runner/runner.py')
LOGGING = ('logging', 'mmengine.logging.logger')
PREFIXES = {logging.WARNING: 'warning: ', logging.ERROR: 'error: ', logging.CRITICAL: 'error: '}

_depth = 0
_started: list[AbstractContextManager[None]] = []
_log: logging.Logger | None = None
_waiting: deque[str] = deque(maxlen=1000)  # notices from before the log file was opened


@contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Keep the notices of other libraries off the screen; do nothing if `verbose`. May be nested."""
    global _depth, _log  # noqa: PLW0603
    if verbose or sys.stdout is None:
        yield
        return
    stdout, show, proxy = sys.stdout, warnings.showwarning, _Stdout(sys.stdout)

    def show_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        hidden = _is_library(filename) or (filename.startswith(STANDARD) and issubclass(category, FOR_PROGRAMMERS))
        if file is not None or not hidden:
            show(message, category, filename, lineno, file, line)
        elif _is_library(filename) and _matters(filename, str(message)):
            say(f'warning: {message}')
        else:
            _keep(f'{filename}:{lineno}: {category.__name__}: {message}')

    sys.stdout, warnings.showwarning = proxy, show_warning
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if sys.stdout is proxy:
            sys.stdout = stdout
        if warnings.showwarning is show_warning:
            warnings.showwarning = show
        if not _depth:
            _log = None
            _waiting.clear()


def start() -> None:
    """Keep the notices of other libraries off the screen until this process ends."""
    if not _depth:
        context = quiet()
        context.__enter__()
        _started.append(context)  # it would end with its last reference


def is_active() -> bool:
    """Return whether a quiet command is running."""
    return _depth > 0


def log_to(logger: logging.Logger) -> None:
    """Write the notices so far to the log of a run, and those that follow."""
    global _log  # noqa: PLW0603
    if _depth:
        _log = logger
        while _waiting:
            logger.info(_waiting.popleft())


def _is_library(file: str) -> bool:
    path = file.replace('\\', '/')
    return any(folder in path for folder in INSTALLED) and not path.startswith(PACKAGE)


def _matters(file: str, text: str) -> bool:
    path = file.replace('\\', '/')
    return 'deprecat' not in text and (not _is_library(path) or any(f'/{part}' in path for part in MATTER))


def _keep(text: str) -> None:
    if _log is not None:
        _log.info(text.rstrip())
    elif text.strip():
        _waiting.append(text.rstrip())


class _Stdout:
    """The standard output during a command. Loggers of mmengine keep it as their stream when the command has ended."""

    def __init__(self, stream: TextIO):
        self._stream, self._line = stream, ''

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write to the screen or to the log, depending on the module that prints or logs."""
        if not _depth:
            return self._stream.write(text)
        file, record, by_mmengine = _origin(sys._getframe(1))
        if record is None:
            if not _is_library(file):
                return self._stream.write(text)
            self._line += text  # `print` writes each of its arguments by itself
            if '\n' in text:
                _keep(self._line)
                self._line = ''
        elif _is_for_screen(record, file, by_mmengine):
            if not by_mmengine:
                return self._stream.write(text)
            say(PREFIXES.get(record.levelno, '') + record.getMessage())
        elif not by_mmengine or _log is None:  # the loggers of mmengine write the log file themselves
            _keep(text)
        return len(text)


def _is_for_screen(record: logging.LogRecord, file: str, by_mmengine: bool) -> bool:
    if record.levelno >= logging.ERROR or getattr(record, 'screen', False):
        return True
    if record.levelno >= logging.WARNING:
        return _matters(file, record.getMessage())
    return not by_mmengine and not _is_library(file)


def _origin(frame: FrameType | None) -> tuple[str, logging.LogRecord | None, bool]:
    """Return the file that prints or logs, the log record if it logs, and whether mmengine's logger handles it."""
    record, by_mmengine = None, False
    while frame is not None and (name := frame.f_globals.get('__name__')) in LOGGING:
        if frame.f_code.co_name == 'emit':
            record = frame.f_locals.get('record')
        by_mmengine |= name != 'logging' and record is not None
        frame = frame.f_back
    return ('' if frame is None else frame.f_code.co_filename), record, by_mmengine
