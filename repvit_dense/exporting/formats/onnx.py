"""ONNX, opset 20, written by the torch.export-based exporter of PyTorch."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError
from repvit_dense.exporting.formats import torch_export
from repvit_dense.exporting.graphs import COORDINATE_MODULES

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    from repvit_dense.exporting.formats import FileOptions
    from repvit_dense.exporting.graphs.base import Graph

OPSET = 20  # the first with GELU; ONNX Runtime lacks RoiAlign of later opsets
# Operators that stay in fp32 even inside a layer: coordinates and selections need full precision, and runtimes have no
# fp16 kernels for the others.
FP32_OPERATORS = {'CumSum', 'GridSample', 'Max', 'Min', 'Range', 'Resize', 'ScatterND', 'TopK'}
FP32_OPERATORS |= {'NonMaxSuppression', 'RoiAlign'}


def write(graph: 'Graph', path: Path, options: 'FileOptions') -> None:
    """Write an ONNX file."""
    import onnx

    proto = convert(graph, options.size, options.batch, options.dynamic)
    if options.precision == 'fp16':
        proto = to_half(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def convert(graph: 'Graph', size: tuple[int, int], batch: int = 1, dynamic: Collection[str] = ()) -> 'ModelProto':
    """Return the graph as an ONNX model in memory; arguments as in `formats.FileOptions`.

    Raises:
        InputError: an input of the exported model has another shape than requested.
    """
    import torch

    from repvit_dense.exporting.graphs import ops

    program = torch_export.capture(graph, size, batch, dynamic, graph.divisor)
    exported = torch.onnx.export(
        program,
        input_names=['images', 'img_hw'],
        output_names=list(graph.outputs),
        opset_version=OPSET,
        custom_translation_table=ops.onnx_translations(),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    proto = exported.model_proto
    require_shapes(proto, size, batch, dynamic)
    return proto


def to_half(proto: 'ModelProto') -> 'ModelProto':
    """Convert layers and their weights to fp16; operators between layers, inputs and outputs stay in fp32.

    Half precision rounds to whole pixels from 1024 on, too coarse for boxes.
    """
    import onnx

    proto = onnx.shape_inference.infer_shapes(proto)
    graph, converter = proto.graph, _HalfConverter(proto.graph)
    nodes = [converter.convert(node) for node in graph.node]
    del graph.node[:]
    graph.node.extend(part for parts in nodes for part in parts)
    used = {name for node in graph.node for name in node.input}
    weights = [tensor for tensor in (*graph.initializer, *converter.initializers.values()) if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    for value in graph.value_info:
        if value.name in converter.values:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return proto


class _HalfConverter:
    """A conversion node by node; a value read in both precisions is cast once.

    Attributes:
        values: names of the values that became fp16.
        initializers: name -> weight tensor in fp16.
    """

    def __init__(self, graph: 'GraphProto'):
        from onnx import TensorProto

        self.weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
        typed = (*graph.input, *graph.output, *graph.value_info)
        self.floats = {value.name for value in typed if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.floats |= self.weights.keys()
        self.results = {value.name for value in graph.output}
        self.values: set[str] = set()
        self.initializers: dict = {}
        self.casts: set[str] = set()

    def convert(self, node: 'NodeProto') -> 'list[NodeProto]':
        """Return the node, preceded by the casts of its inputs."""
        from onnx import TensorProto

        casts: list[NodeProto] = []
        halved = self._supports_half(node)
        for i, name in enumerate(node.input):
            if name in self.floats and (name in self.values) != halved:
                node.input[i] = self._cast(name, halved, casts)
        if halved:
            self.values |= self.floats & set(node.output)
            for attribute in node.attribute:
                if node.op_type == 'Cast' and attribute.name == 'to' and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
        return [*casts, node]

    def _supports_half(self, node: 'NodeProto') -> bool:
        if node.op_type in FP32_OPERATORS or self.results & set(node.output) or not in_layer(node):
            return False
        # A float that is cast to an integer is an index, so only the result of a cast decides.
        return bool(self.floats & set(node.output if node.op_type == 'Cast' else node.input))

    def _cast(self, name: str, halved: bool, casts: list) -> str:
        import numpy as np
        from onnx import TensorProto, helper, numpy_helper

        other = f'{name}_{"fp16" if halved else "fp32"}'
        if halved and name in self.weights:
            if other not in self.initializers:
                limit = np.finfo(np.float16).max
                weight = numpy_helper.to_array(self.weights[name]).clip(-limit, limit).astype(np.float16)
                self.initializers[other] = numpy_helper.from_array(weight, other)
        elif other not in self.casts:
            self.casts.add(other)
            to = TensorProto.FLOAT16 if halved else TensorProto.FLOAT
            casts.append(helper.make_node('Cast', [name], [other], name=f'cast_{other}', to=to))
        return other


def in_layer(node: 'NodeProto') -> bool:
    """Return whether a node belongs to a layer, by the notes of the exporter, rather than to the graph around them.

    The notes list the modules from the graph down to the operator: their names, `['', 'model.neck', ..., 'conv2d']`,
    and their classes, `['...Graph', '...FPN', ..., 'aten.conv2d.default']`.
    """
    notes = {note.key: note.value for note in node.metadata_props}
    depth = notes.get('pkg.torch.onnx.name_scopes', '').count(',')
    module = ['', '', *str(notes.get('pkg.torch.onnx.class_hierarchy', '')).split(',')][-2]
    return depth > 1 and module.strip(" '").rpartition('.')[2] not in COORDINATE_MODULES


def require_shapes(proto: 'ModelProto', size: tuple[int, int], batch: int, dynamic: Collection[str]) -> None:
    """Raise InputError if an axis of an input is fixed or dynamic against the request."""
    shapes = {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.input
    }
    count = None if 'batch' in dynamic else batch
    sides = (None, None) if 'size' in dynamic else size
    for name, wanted in {'images': [count, 3, *sides], 'img_hw': [count, 2]}.items():
        if name not in shapes:
            raise InputError(f'onnx: the exported model has no input {name}')
        for axis, (length, requested) in enumerate(zip(shapes[name], wanted, strict=True)):
            if isinstance(length, int) if requested is None else length != requested:
                request = 'dynamic' if requested is None else requested
                raise InputError(f'onnx: axis {axis} of {name} is {length}, requested was {request}')
