"""Rewrite a quantised ONNX graph into the form that ONNX Runtime computes fastest.

onnxruntime.quantization puts a pair of `QuantizeLinear` and `DequantizeLinear` on every edge and leaves the operators
unchanged. The runtime merges the pairs into operators that have an int8 kernel with channels-last layout. The others
run in fp32 between two conversions, often in another layout.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# gelu(x) is approximately x * sigmoid(1.702 x) (arXiv 1606.08415, section 2), within 0.0203: the resolution of int8.
SLOPE = 1.702
# Names of the added initializers.
SLOPED_SCALE, SIGMOID_SCALE, SIGMOID_ZERO = 'gelu_scale_{}', 'sigmoid_scale', 'sigmoid_zero'
CHANNELS_LAST, SAME_SHAPE = 'channels_last', 'same_shape'


def optimize(proto: 'ModelProto') -> 'ModelProto':
    """Compute GELU by a look-up table and resize in channels-last layout, in place; return the model."""
    from onnx import numpy_helper

    rewriter = _Rewriter(proto)
    nodes = [new for node in proto.graph.node for new in rewriter.rewrite(node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in rewriter.initializers.items()
    )
    return proto


class _Rewriter:
    """A rewriting node by node.

    Attributes:
        initializers: name -> value, the constants of the new nodes.
    """

    def __init__(self, proto: 'ModelProto'):
        self.initializers: dict[str, np.ndarray] = {}
        self._weights = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._producer = {name: node for node in proto.graph.node for name in node.output}
        self._readers: dict[str, list[str]] = {}
        for node in proto.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node.op_type)

    def rewrite(self, node: 'NodeProto') -> 'Iterator[NodeProto]':
        """Yield the nodes that replace this one."""
        rewrite = {'Gelu': self._gelu, 'Resize': self._resize}.get(node.op_type)
        if rewrite and self._is_int8(node):
            yield from rewrite(node)
        else:
            yield node

    def _is_int8(self, node: 'NodeProto') -> bool:
        """Return whether the input comes from int8 and every reader of the output quantises it."""
        producer = self._producer.get(node.input[0])
        readers = self._readers.get(node.output[0], [])
        return producer is not None and producer.op_type == 'DequantizeLinear' and set(readers) == {'QuantizeLinear'}

    def _gelu(self, node: 'NodeProto') -> 'Iterator[NodeProto]':
        """Replace GELU, which has no int8 kernel, by a product with a sigmoid, which is a table of 256 values."""
        from onnx import helper, numpy_helper

        name, x = node.name, node.input[0]
        quantized, scale, zero = self._producer[x].input
        sloped_scale = SLOPED_SCALE.format(name)
        self.initializers[sloped_scale] = numpy_helper.to_array(self._weights[scale]) * np.float32(SLOPE)
        self.initializers[SIGMOID_SCALE] = np.array(1 / 255, np.float32)
        self.initializers[SIGMOID_ZERO] = np.array(0, np.uint8)
        sloped, sigmoid, sigmoid_int8, factor = (
            f'{name}_{step}' for step in ('sloped', 'sigmoid', 'sigmoid_int8', 'factor')
        )
        for kind, inputs, output in (
            ('DequantizeLinear', [quantized, sloped_scale, zero], sloped),  # the larger scale multiplies by SLOPE
            ('Sigmoid', [sloped], sigmoid),
            ('QuantizeLinear', [sigmoid, SIGMOID_SCALE, SIGMOID_ZERO], sigmoid_int8),
            ('DequantizeLinear', [sigmoid_int8, SIGMOID_SCALE, SIGMOID_ZERO], factor),
        ):
            yield helper.make_node(kind, inputs, [output], name=output)
        yield helper.make_node('Mul', [x, factor], list(node.output), name=name)

    def _resize(self, node: 'NodeProto') -> 'Iterator[NodeProto]':
        """Transpose to channels-last before, and back after; the runtime cancels both against the int8 layers around.

        The reshape has no effect but keeps the runtime from moving both transpositions to one side, where they would
        cancel each other.
        """
        from onnx import helper

        self.initializers[CHANNELS_LAST] = np.array([0, 2, 3, 1])
        self.initializers[SAME_SHAPE] = np.zeros(4, np.int64)  # 0 stands for the length of the input
        name, x, y = node.name, node.input[0], node.output[0]
        last, resized, reshaped = (f'{name}_{step}' for step in ('last', 'resized', 'reshaped'))
        yield helper.make_node('Transpose', [x], [last], name=last, perm=[0, 2, 3, 1])
        node.input[0], node.output[0] = last, resized
        for i, argument in enumerate(node.input):
            if i >= 2 and argument:  # scales, or sizes
                node.input[i] = f'{name}_order_{i}'
                yield helper.make_node('Gather', [argument, CHANNELS_LAST], [node.input[i]], name=node.input[i])
        yield node
        yield helper.make_node('Reshape', [resized, SAME_SHAPE], [reshaped], name=reshaped)
        yield helper.make_node('Transpose', [reshaped], [y], name=f'{name}_first', perm=[0, 3, 1, 2])
