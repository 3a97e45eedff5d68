"""OpenVINO IR, converted from ONNX."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.exporting.formats import onnx

if TYPE_CHECKING:
    from repvit_dense.exporting.formats import FileOptions
    from repvit_dense.exporting.graphs.base import Graph


def write(graph: 'Graph', path: Path, options: 'FileOptions') -> None:
    """Write `model.xml` and `model.bin`.

    With fp16, weights are stored in half precision; the runtime chooses the precision that it computes in.
    """
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'model.onnx')
        onnx.write(graph, file, options._replace(precision='fp32'))
        model = openvino.Core().read_model(file)
        for output, name in zip(model.outputs, graph.outputs, strict=True):
            output.get_tensor().set_names({name})  # a tensor with several names is listed under any one of them
        openvino.save_model(model, path, compress_to_fp16=options.precision == 'fp16')
