"""Write a model file: one module per format with `write(graph, path, options)`, named by its row of `targets.TARGETS`.

Importing this package loads no exporter.
"""

import contextlib
import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.artifact.targets import TARGETS, Target
from repvit_dense.errors import InputError
from repvit_dense.exporting.sizes import check_size

if TYPE_CHECKING:
    from repvit_dense.exporting.graphs.base import Graph


class FileOptions(NamedTuple):
    """Options of one model file.

    Attributes:
        size: height and width in pixels, multiples of `Graph.divisor`; the traced example if the size is dynamic.
        batch: batch size; ignored if the batch is dynamic.
        dynamic: dynamic axes, from `targets.DYNAMIC`.
        precision: `'fp32'` or `'fp16'`; an int8 file is made from the fp32 file.
        classes: class names, stored in a Core ML file.
        preprocess: stored in a Core ML file, as in the manifest.
    """

    size: tuple[int, int]
    batch: int = 1
    dynamic: tuple[str, ...] = ()
    precision: str = 'fp32'
    classes: Sequence[str] = ()
    preprocess: dict | None = None


def check(target: str, precision: str = 'fp32', dynamic: Collection[str] = (), batch: int = 1) -> Target:
    """Return the format, or refuse options that it does not support.

    Args:
        target: key of `targets.TARGETS`.
        precision: from `targets.PRECISIONS`.
        dynamic: dynamic axes, from `targets.DYNAMIC`.
        batch: batch size.

    Raises:
        InputError: unsupported option, or a missing package; the message lists the supported values, or the command
            that installs the package.
    """
    if target not in TARGETS:
        raise InputError(f'--to {target}: unknown format; known: {", ".join(TARGETS)}')
    row = TARGETS[target]
    if precision not in row.precisions:
        raise InputError(f'--precision {precision}: {target} supports {", ".join(row.precisions)}')
    refused = [name for name in dynamic if name not in row.dynamic]
    if refused:
        supported = f'supports {", ".join(row.dynamic)}' if row.dynamic else 'supports fixed shapes only'
        raise InputError(f'--dynamic {",".join(refused)}: {target} {supported}')
    if batch < 1 or (batch > 1 and not row.batches):
        raise InputError(f'--batch {batch}: {target} supports {"1 or more" if row.batches else "1"}')
    missing, missing_int8 = (
        [name for name in names if importlib.util.find_spec(name) is None] for names in (row.modules, row.int8_modules)
    )
    if precision != 'int8':
        missing_int8 = []
    if missing or missing_int8:
        extra = f'{row.extra}-int8' if missing_int8 else row.extra
        names = ', '.join([*missing, *missing_int8])
        raise InputError(f'--to {target}: {names} is not installed: pip install "repvit_dense[{extra}]"')
    return row


def write(graph: 'Graph', folder: Path, target: str, options: FileOptions) -> str:
    """Write the model file of one format.

    Args:
        graph: in eval mode; a plain graph if the format needs one.
        folder: an existing folder.
        target: key of `targets.TARGETS`.
        options: size, batch, precision and metadata.

    Returns:
        Name of the model file in `folder`.

    Raises:
        InputError: unsupported option, or a failure of the converter.
    """
    row = check(target, options.precision, options.dynamic, options.batch)
    check_size(options.size, graph.divisor)
    if row.plain and not graph.plain:
        raise ValueError(f'{target} needs a plain graph')
    module = importlib.import_module(f'{__name__}.{row.module}')
    try:
        with silence_converters():
            module.write(graph, folder / row.model, options)
    except (InputError, OSError):  # the latter: the file cannot be written
        raise
    except Exception as error:  # converters raise errors of many classes
        raise InputError(
            f'{target}: cannot convert this model: {type(error).__name__}: {_first_line(error)}'
        ) from error
    return row.model


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), 'no reason given')


@contextlib.contextmanager
def silence_converters() -> Iterator[None]:
    """Suppress output, log messages up to WARNING, and Python warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
