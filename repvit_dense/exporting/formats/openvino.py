"""OpenVINO IR, by way of ONNX."""

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.exporting.formats import onnx

if TYPE_CHECKING:
    from repvit_dense.exporting.graphs.base import Graph


def write(
    graph: 'Graph', path: Path, size: tuple[int, int], batch: int, dynamic: Collection[str], precision: str
) -> None:
    """`model.xml` and `model.bin`; arguments as in `formats.write`.

    fp16 is how weights are kept; what is computed in half precision is for the runtime to decide.
    """
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'model.onnx')
        onnx.write(graph, file, size, batch, dynamic, 'fp32')
        model = openvino.Core().read_model(file)
        for output, name in zip(model.outputs, graph.outputs, strict=True):
            output.get_tensor().set_names({name})  # a tensor may have several, and a reader gets any of them
        openvino.save_model(model, path, compress_to_fp16=precision == 'fp16')
