"""ONNX, opset 20, by torch's current exporter."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError
from repvit_dense.exporting.formats import torch_export

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    from repvit_dense.exporting.graphs.base import Graph

OPSET = 20  # has GELU; ONNX Runtime has no RoiAlign of a later one
# These stay in fp32 even inside a layer: coordinates and selections need every bit, and runtimes lack the rest in fp16.
FULL = ('CumSum', 'GridSample', 'Max', 'Min', 'NonMaxSuppression', 'Range', 'Resize', 'RoiAlign', 'ScatterND', 'TopK')

# What these compute themselves are places in pixels, which half precision cannot tell apart beyond 2048.
COORDINATES = ('DeformableAttention', 'PixelDecoder')


def write(
    graph: 'Graph', path: Path, size: tuple[int, int], batch: int, dynamic: Collection[str], precision: str
) -> None:
    """An ONNX file; arguments as in `formats.write`."""
    import onnx

    proto = convert(graph, size, batch, dynamic)
    if precision == 'fp16':
        proto = to_half(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def convert(graph: 'Graph', size: tuple[int, int], batch: int = 1, dynamic: Collection[str] = ()) -> 'ModelProto':
    """The graph as an ONNX model in memory; arguments as in `formats.write`.

    Raises:
        InputError: an input has another shape than was asked for.
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
    """Layers and their weights in fp16; what the graph does besides them, with boxes in pixels say, stays in fp32.

    Half precision counts whole pixels only from 1024 on. Inputs and outputs stay as they are.
    """
    import onnx

    proto = onnx.shape_inference.infer_shapes(proto)
    graph, half = proto.graph, _Half(proto.graph)
    nodes = [half.converted(node) for node in graph.node]
    del graph.node[:]
    graph.node.extend(part for parts in nodes for part in parts)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in (*graph.initializer, *half.initializers.values()) if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for value in graph.value_info:
        if value.name in half.values:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return proto


class _Half:
    """Node by node: casts where a value of one precision is read in the other, each value once.

    Attributes:
        values: names of what became fp16.
        initializers: name -> tensor, weights in fp16.
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

    def converted(self, node: 'NodeProto') -> 'list[NodeProto]':
        """The node behind the casts that it needs."""
        from onnx import TensorProto

        casts, halved = [], self._takes_half(node)
        for i, name in enumerate(node.input):
            if name in self.floats and (name in self.values) != halved:
                node.input[i] = self._cast(name, halved, casts)
        if halved:
            self.values |= self.floats & set(node.output)
            for attribute in node.attribute:
                if node.op_type == 'Cast' and attribute.name == 'to' and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
        return [*casts, node]

    def _takes_half(self, node: 'NodeProto') -> bool:
        if node.op_type in FULL or self.results & set(node.output) or not in_layer(node):
            return False
        # What is cast to a whole number is an index.
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
    """Whether an operator comes from a layer; the exporter notes its place: `['', 'model.neck', ..., 'conv2d']`.

    And of which class each place is: `['...Graph', '...FPN', ..., 'aten.conv2d.default']`.
    """
    notes = {note.key: note.value for note in node.metadata_props}
    places = notes.get('pkg.torch.onnx.name_scopes', '').count(',')
    *_, owner, _ = ['', '', *notes.get('pkg.torch.onnx.class_hierarchy', '').split(',')]
    return places > 1 and owner.strip(" '").rpartition('.')[2] not in COORDINATES


def require_shapes(proto: 'ModelProto', size: tuple[int, int], batch: int, dynamic: Collection[str]) -> None:
    """Refuse a model whose inputs are not fixed, or not open, as was asked for. Raises InputError."""
    shapes = {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.input
    }
    number = None if 'batch' in dynamic else batch
    sides = (None, None) if 'size' in dynamic else size
    for name, wanted in {'images': [number, 3, *sides], 'img_hw': [number, 2]}.items():
        if name not in shapes:
            raise InputError(f'onnx: the exported model has no input {name}')
        for axis, (found, asked) in enumerate(zip(shapes[name], wanted, strict=True)):
            if isinstance(found, int) if asked is None else found != asked:
                what = 'open' if asked is None else f'to be {asked}'
                raise InputError(f'onnx: axis {axis} of {name} was asked {what}, the exported model has {found}')
