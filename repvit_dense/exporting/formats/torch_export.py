"""torch.export: the `.pt2` file, and the captured program that every format starts from."""

import io
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from repvit_dense.exporting.formats import FileOptions
    from repvit_dense.exporting.graphs.base import Graph

# Axes of `images` for each name in `formats.DYNAMIC`; the batch is also axis 0 of `img_hw`.
AXES = {'batch': (0,), 'size': (2, 3)}


def write(graph: 'Graph', path: Path, options: 'FileOptions') -> None:
    """Write a file for `torch.export.load`."""
    import torch

    content = io.BytesIO()  # torch aborts the process if it cannot write to a file
    torch.export.save(capture(graph, options.size, options.batch, options.dynamic, graph.divisor), content)
    path.write_bytes(content.getbuffer())


def capture(
    graph: 'nn.Module', size: tuple[int, int], batch: int = 1, dynamic: Collection[str] = (), divisor: int = 32
) -> 'ExportedProgram':
    """Return the operators of a graph, without the source paths and stack traces that torch.export records.

    Args:
        graph: a module with the inputs `images` and `img_hw`, see `Graph.forward`.
        size: height and width in pixels.
        batch: batch size; ignored if the batch is dynamic.
        dynamic: keys of `AXES`.
        divisor: dynamic heights and widths are multiples of it, in pixels.

    Raises:
        InputError: the model fixes an axis that should be dynamic.
    """
    import torch

    height, width = size
    # torch.export takes an axis of length 1 as fixed, and axes of equal length as equal; the example avoids both.
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
            f'--dynamic {",".join(dynamic)}: this model fixes a size that should be dynamic: {reason}'
        ) from error
    _require_dynamic([node.meta['val'].shape for node in _inputs(program)], dynamic)
    _remove_stack_traces(program)
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


def _require_dynamic(shapes: list, dynamic: Collection[str]) -> None:
    images, img_hw = shapes
    for name in dynamic:
        fixed = [images[axis] for axis in AXES[name] if isinstance(images[axis], int)]
        fixed += [img_hw[0]] if name == 'batch' and isinstance(img_hw[0], int) else []
        if fixed:
            raise InputError(f'--dynamic {name}: this model fixes the {name} to {fixed[0]}')


def _remove_stack_traces(program: 'ExportedProgram') -> None:
    """Remove, in place, the notes of each operator that hold paths of this machine; every format would save them."""
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, 'graph', None), 'nodes', ()):
            node.meta.pop('stack_trace', None)
            node.meta.pop('from_node', None)
