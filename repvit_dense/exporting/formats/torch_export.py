"""torch.export: the capture that every format starts from, and the `.pt2` file."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from repvit_dense.exporting.graphs.base import Graph

# Which axes of `images` are open, for each thing that may be dynamic; `img_hw` has the batch too.
AXES = {'batch': (0,), 'size': (2, 3)}


def write(
    graph: 'Graph', path: Path, size: tuple[int, int], batch: int, dynamic: Collection[str], precision: str
) -> None:
    """A file for `torch.export.load`; arguments as in `formats.write`."""
    import torch

    torch.export.save(capture(graph, size, batch, dynamic, graph.divisor), path)


def capture(
    graph: 'nn.Module', size: tuple[int, int], batch: int = 1, dynamic: Collection[str] = (), divisor: int = 32
) -> 'ExportedProgram':
    """The operations of a graph.

    Args:
        graph: takes `images` and `img_hw`, see `Graph.forward`.
        size: height and width in pixels.
        batch: images at a time; ignored where batch is dynamic.
        dynamic: of `AXES`.
        divisor: of which open heights and widths are multiples, in pixels.

    Raises:
        InputError: the model fixes a size that was to be open.
    """
    import torch

    height, width = size
    # A length of 1 is always taken as fixed, and equal sides as tied to each other: the example avoids both.
    if 'batch' in dynamic:
        batch = 2
    if 'size' in dynamic:
        height, width = max(height, 2 * divisor), max(width, 2 * divisor)
        width += divisor * (height == width)
    images = torch.zeros(batch, 3, height, width)
    img_hw = torch.tensor([[height, width]] * batch, dtype=torch.float32)
    try:
        with torch.no_grad():
            program = torch.export.export(
                graph.eval(),
                (images, img_hw),
                dynamic_shapes=_shapes(dynamic, divisor),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except torch._dynamo.exc.UserError as error:
        if 'onstraint' not in str(error):
            raise
        reason = ' '.join(str(error).split())[:300]
        raise InputError(
            f'--dynamic {",".join(dynamic)}: this model fixes a size that is to be open: {reason}'
        ) from error
    _require_open([node.meta['val'].shape for node in _inputs(program)], dynamic)
    return program


def _shapes(dynamic: Collection[str], divisor: int) -> tuple[dict, dict]:
    from torch.export import Dim

    images, img_hw = {}, {}
    if 'batch' in dynamic:
        images[0] = img_hw[0] = Dim('batch', min=1)
    if 'size' in dynamic:
        images[2], images[3] = (divisor * Dim(name, min=1) for name in ('rows', 'columns'))
    return images, img_hw


def _inputs(program: 'ExportedProgram') -> list:
    names = program.graph_signature.user_inputs
    return [node for node in program.graph.nodes if node.op == 'placeholder' and node.name in names]


def _require_open(shapes, dynamic: Collection[str]) -> None:
    images, img_hw = shapes
    for name in dynamic:
        fixed = [images[axis] for axis in AXES[name] if isinstance(images[axis], int)]
        fixed += [img_hw[0]] if name == 'batch' and isinstance(img_hw[0], int) else []
        if fixed:
            raise InputError(f'--dynamic {name}: this model fixes the {name} to {fixed[0]}')
