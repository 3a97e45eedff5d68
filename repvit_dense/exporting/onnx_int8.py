"""An int8 ONNX graph as ONNX Runtime computes it fastest.

onnxruntime.quantization puts a pair of `QuantizeLinear` and `DequantizeLinear` on every edge and leaves the operators
as they were. The runtime merges both into the operators that it has an int8 form of, with the channels last; what it
has none of is computed in fp32, between two conversions, often in another layout.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# gelu(x) is about x * sigmoid(1.702 x) (arXiv 1606.08415, section 2): at most 0.0203 off, of int8's order.
SLOPE = 1.702
# The extra initializers: names and values.
SLOPED, SHARE, ZERO, LAST, SAME = 'gelu_scale_{}', 'sigmoid_scale', 'sigmoid_zero', 'channels_last', 'same_shape'


def tuned(proto: 'ModelProto') -> 'ModelProto':
    """The quantised model, changed in place: GELU from a table, features enlarged with their channels last."""
    from onnx import numpy_helper

    graph = _Graph(proto)
    nodes = [new for node in proto.graph.node for new in graph.rewritten(node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in graph.added.items())
    return proto


class _Graph:
    """Attributes: `added`, name -> value of what the new nodes need besides."""

    def __init__(self, proto: 'ModelProto'):
        self.added: dict[str, np.ndarray] = {}
        self._weights = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._maker = {name: node for node in proto.graph.node for name in node.output}
        self._readers: dict[str, list[str]] = {}
        for node in proto.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node.op_type)

    def rewritten(self, node: 'NodeProto') -> 'Iterator[NodeProto]':
        rewrite = {'Gelu': self._gelu, 'Resize': self._resize}.get(node.op_type)
        if rewrite and self._in_int8(node):
            yield from rewrite(node)
        else:
            yield node

    def _in_int8(self, node: 'NodeProto') -> bool:
        """Whether what it reads comes in int8 and all that it writes is read so."""
        maker = self._maker.get(node.input[0])
        readers = self._readers.get(node.output[0], [])
        return maker is not None and maker.op_type == 'DequantizeLinear' and set(readers) == {'QuantizeLinear'}

    def _gelu(self, node: 'NodeProto') -> 'Iterator[NodeProto]':
        """A product with a sigmoid, for which the runtime has a table of all 256 values; GELU it computes in fp32."""
        from onnx import helper, numpy_helper

        name, x = node.name, node.input[0]
        quantized, scale, zero = self._maker[x].input
        sloped = SLOPED.format(name)
        self.added[sloped] = numpy_helper.to_array(self._weights[scale]) * np.float32(SLOPE)
        self.added[SHARE], self.added[ZERO] = np.array(1 / 255, np.float32), np.array(0, np.uint8)
        steps = [f'{name}_{step}' for step in ('sloped', 'sigmoid', 'sigmoid_int8', 'share')]
        for kind, given, step in (
            ('DequantizeLinear', [quantized, sloped, zero], steps[0]),  # a greater scale: times 1.702
            ('Sigmoid', [steps[0]], steps[1]),
            ('QuantizeLinear', [steps[1], SHARE, ZERO], steps[2]),
            ('DequantizeLinear', [steps[2], SHARE, ZERO], steps[3]),
        ):
            yield helper.make_node(kind, given, [step], name=step)
        yield helper.make_node('Mul', [x, steps[3]], list(node.output), name=name)

    def _resize(self, node: 'NodeProto') -> 'Iterator[NodeProto]':
        """Between two transpositions, of which the runtime makes none: int8 layers around it are laid out so already.

        The reshape changes nothing. It keeps the runtime from moving both to one side, where they would cancel.
        """
        from onnx import helper

        self.added[LAST] = np.array([0, 2, 3, 1])
        self.added[SAME] = np.zeros(4, np.int64)  # 0 stands for the input's own size
        name, x, y = node.name, node.input[0], node.output[0]
        steps = [f'{name}_{step}' for step in ('last', 'resized', 'kept')]
        yield helper.make_node('Transpose', [x], [steps[0]], name=steps[0], perm=[0, 2, 3, 1])
        node.input[0], node.output[0] = steps[:2]
        for i, given in enumerate(node.input):
            if i >= 2 and given:  # scales, or sizes
                node.input[i] = f'{name}_order_{i}'
                yield helper.make_node('Gather', [given, LAST], [node.input[i]], name=node.input[i])
        yield node
        yield helper.make_node('Reshape', [steps[1], SAME], [steps[2]], name=steps[2])
        yield helper.make_node('Transpose', [steps[2]], [y], name=f'{name}_first', perm=[0, 3, 1, 2])
