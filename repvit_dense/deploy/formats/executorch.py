"""ExecuTorch: a program for its runtime, with what XNNPACK has kernels for handed to it."""

import os
import shutil
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.deploy.formats import torch_export

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from repvit_dense.deploy.graphs.base import Graph


def write(
    graph: 'Graph', path: Path, size: tuple[int, int], batch: int, dynamic: Collection[str], precision: str
) -> None:
    """A `.pte` file; arguments as in `formats.write`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    _find_flatc()
    program = torch_export.capture(graph, size, batch)
    name_each_use(program)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    with path.open('wb') as file:
        edge.to_executorch().write_to_file(file)


def _find_flatc() -> None:
    """ExecuTorch calls a tool that is beside it, but looks on the PATH only: not there without an active venv."""
    if not shutil.which('flatc'):
        os.environ.setdefault('FLATC_EXECUTABLE', str(files('executorch.data.bin') / 'flatc'))


def name_each_use(program: 'ExportedProgram') -> None:
    """Give every use of a shared weight a name of its own, in place; heads run the same layers on several levels.

    XNNPACK takes weights out of the program one use at a time and by name. In memory they stay one tensor, and the file
    holds it once.
    """
    from executorch.backends.transforms.utils import create_constant_placeholder
    from torch.export.graph_signature import InputKind

    kinds = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs if spec.kind in kinds}
    held = {**program.constants, **program.state_dict}
    for node in list(program.graph.nodes):
        if node.name not in specs or node.op != 'placeholder':
            continue
        spec = specs[node.name]
        for number, user in enumerate(list(node.users)[1:]):
            with program.graph.inserting_before(node):
                name = f'{node.name}_use_{number}'
                data = held[spec.target]
                other = create_constant_placeholder(program, program.graph, name, spec.kind, data, spec.persistent)
            user.replace_input_with(node, other)
    program.graph_module.recompile()
