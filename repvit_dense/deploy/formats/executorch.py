"""ExecuTorch: a program for its runtime, with what XNNPACK has kernels for handed to it."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.deploy.formats import torch_export

if TYPE_CHECKING:
    from repvit_dense.deploy.graphs.base import Graph


def write(
    graph: 'Graph', path: Path, size: tuple[int, int], batch: int, dynamic: Collection[str], precision: str
) -> None:
    """A `.pte` file; arguments as in `formats.write`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch_export.capture(graph, size, batch)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    with path.open('wb') as file:
        edge.to_executorch().write_to_file(file)
