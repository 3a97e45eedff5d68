"""What an artifact can be written as, and what each format takes. Light to import: refusals come before any work."""

import contextlib
import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.artifact.manifest import PRECISIONS
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from repvit_dense.exporting.graphs.base import Graph

DYNAMIC = ('batch', 'size')


class Target(NamedTuple):
    """One format.

    Attributes:
        module: the one here that writes it.
        model: name of the model file; for Core ML that of a folder.
        precisions: of `manifest.PRECISIONS`.
        dynamic: what of `DYNAMIC` may be left open.
        batches: whether it takes more than one image at a time.
        plain: whether it needs the graph of plain operators, see `Graph`.
        extra: what pip installs it with; None where torch is enough.
        modules: what has to be importable.
    """

    module: str
    model: str
    precisions: tuple[str, ...]
    dynamic: tuple[str, ...]
    batches: bool
    plain: bool
    extra: str | None
    modules: tuple[str, ...]


TARGETS = {
    'onnx': Target(
        'onnx', 'model.onnx', PRECISIONS, DYNAMIC, True, False, 'onnx', ('onnx', 'onnxscript', 'onnxruntime')
    ),
    'openvino': Target(
        'openvino', 'model.xml', PRECISIONS, DYNAMIC, True, False, 'openvino', ('openvino', 'onnx', 'onnxscript')
    ),
    'coreml': Target('coreml', 'model.mlpackage', ('fp32', 'fp16'), (), False, True, 'coreml', ('coremltools',)),
    'executorch': Target('executorch', 'model.pte', ('fp32',), (), True, True, 'executorch', ('executorch',)),
    'torch': Target('torch_export', 'model.pt2', ('fp32',), DYNAMIC, True, False, None, ()),
}
# What int8 needs besides.
QUANTIZERS = {'openvino': ('nncf',)}


def check(target: str, precision: str = 'fp32', dynamic: Collection[str] = (), batch: int = 1) -> Target:
    """Refuse what a format does not take, or cannot do here.

    Args:
        target: key of `TARGETS`.
        precision: of `manifest.PRECISIONS`.
        dynamic: what is to be left open, of `DYNAMIC`.
        batch: images at a time.

    Raises:
        InputError: says what the format takes, or how to install what is missing.
    """
    if target not in TARGETS:
        raise InputError(f'--to {target}: unknown format; known: {", ".join(TARGETS)}')
    takes = TARGETS[target]
    if precision not in takes.precisions:
        raise InputError(f'--precision {precision}: {target} takes {", ".join(takes.precisions)}')
    refused = [name for name in dynamic if name not in takes.dynamic]
    if refused:
        alternatives = f'takes {", ".join(takes.dynamic)}' if takes.dynamic else 'takes fixed shapes only'
        raise InputError(f'--dynamic {",".join(refused)}: {target} {alternatives}')
    if batch < 1 or (batch > 1 and not takes.batches):
        raise InputError(f'--batch {batch}: {target} takes {"1 or more" if takes.batches else "1"}')
    needed = takes.modules + (QUANTIZERS.get(target, ()) if precision == 'int8' else ())
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f'--to {target}: {", ".join(missing)} is not installed: pip install "repvit_dense[{takes.extra}]"'
        )
    return takes


def check_size(size: tuple[int, int], divisor: int) -> None:
    """Refuse a height or width that is no multiple of `divisor`, all in pixels. Raises InputError."""
    if any(side < divisor or side % divisor for side in size):
        nearest = [max(divisor, -(-side // divisor) * divisor) for side in size]
        raise InputError(
            f'--size {size[0]} {size[1]}: height and width must be multiples of {divisor} pixels; '
            f'the next are {nearest[0]} {nearest[1]}'
        )


def smallest_open(stride: int, divisor: int) -> int:
    """The smallest side that a model of any size can be exported at, all in pixels.

    A level of `ceil(side / stride) == 1` pixel would be taken for one that never has more. Levels of a stride up to the
    divisor do not matter: the example that is traced has two of their pixels or more.
    """
    return divisor if stride <= divisor else (stride // divisor + 1) * divisor


def check_open_size(size: tuple[int, int], smallest: int) -> None:
    """Refuse a height or width below the smallest that is to be left open, all in pixels. Raises InputError."""
    if min(size) < smallest:
        raise InputError(
            f'--size {size[0]} {size[1]} --dynamic size: at less than {smallest} pixels a side, the coarsest features '
            f'of this model have a single pixel, which would be fixed; take '
            f'--size {max(size[0], smallest)} {max(size[1], smallest)}'
        )


def write(
    graph: 'Graph',
    folder: Path,
    target: str,
    size: tuple[int, int],
    batch: int = 1,
    dynamic: Collection[str] = (),
    precision: str = 'fp32',
    classes: Collection[str] = (),
    preprocess: dict | None = None,
) -> str:
    """Write the model file of one format.

    Args:
        graph: in eval mode; plain where the format asks for it.
        folder: where to; it is there.
        target: key of `TARGETS`.
        size: height and width in pixels, multiples of `graph.divisor`; an example where size is dynamic.
        batch: images at a time; ignored where batch is dynamic.
        dynamic: what is left open, of `DYNAMIC`.
        precision: `'fp32'` or `'fp16'`; int8 is made from the fp32 file.
        classes, preprocess: what Core ML carries in its own file; `preprocess` as in the manifest.

    Returns:
        name of the model file in `folder`.

    Raises:
        InputError: the format does not take this, or its converter fails.
    """
    takes = check(target, precision, dynamic, batch)
    check_size(size, graph.divisor)
    if takes.plain and not graph.plain:
        raise ValueError(f'{target} needs the plain graph')
    module = importlib.import_module(f'{__name__}.{takes.module}')
    options = {'classes': list(classes), 'preprocess': preprocess} if target == 'coreml' else {}
    try:
        with _quiet():
            module.write(graph, folder / takes.model, tuple(size), batch, tuple(dynamic), precision, **options)
    except InputError:
        raise
    except Exception as error:  # converters raise all sorts of errors
        raise InputError(
            f'{target}: cannot convert this model: {type(error).__name__}: {_first_line(error)}'
        ) from error
    return takes.model


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), 'no reason given')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Converters print their progress, and warn of versions and of what they do not need."""
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
