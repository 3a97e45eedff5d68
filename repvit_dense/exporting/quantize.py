"""Static int8 quantisation per channel by onnxruntime.quantization and NNCF.

A re-parameterised network quantises badly: merging branches leaves depthwise kernels whose channels differ by orders of
magnitude, and activations with outliers. `METHODS` holds the remedies in the order in which they were tried;
docs/deploy.md lists their results.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repvit_dense.compat.signal_stack import keep_signal_stack
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    import onnx
    import openvino

    from repvit_dense.exporting.samples import Batch


class Method(NamedTuple):
    """A way to choose activation ranges and the layers that stay in fp32.

    Attributes:
        percentile: percentage of the activations that the range covers; None for minimum and maximum.
        fp32_kinds: kinds of layers that stay in fp32: `'depthwise'`, `'excite'` (squeeze and excitation), `'ends'`
            (the first convolution, and the last layer before each output).
        correct_biases: shift biases by the mean error that rounding the weights causes (NNCF only).
        seven_bits: weights of 7 bits (ONNX only). Processors without VNNI or AMX add products of 8 bits in 16, which
            may overflow.
    """

    percentile: float | None = None
    fp32_kinds: tuple[str, ...] = ()
    correct_biases: bool = True
    seven_bits: bool = False


METHODS = {
    'minmax': Method(correct_biases=False),
    'percentile': Method(percentile=99.99, correct_biases=False),
    'corrected': Method(),
    'mixed': Method(fp32_kinds=('excite', 'ends')),
    'portable': Method(fp32_kinds=('excite', 'ends'), seven_bits=True),
    'cautious': Method(fp32_kinds=('excite', 'ends', 'depthwise')),
}
DEFAULT = {'onnx': 'mixed', 'openvino': 'cautious'}  # accuracy within a point of fp32, see docs/deploy.md
QUANTIZED_OPERATORS = ['Conv', 'MatMul', 'Gemm', 'Add', 'Mul', 'Concat', 'Resize', 'Relu']  # of ONNX


def quantize(model: Path, target: str, calibration: 'Sequence[Batch]', method: str | None = None) -> list[str]:
    """Replace a model file by an int8 version.

    Args:
        model: an fp32 file written by `formats.write`: `.onnx`, or `.xml` with its `.bin`.
        target: `'onnx'` or `'openvino'`.
        calibration: some tens of preprocessed batches of typical images.
        method: key of `METHODS`; None for the target's default.

    Returns:
        Names of the convolutions and matrix products that stay in fp32.

    Raises:
        InputError: no calibration batches.
    """
    if not calibration:
        raise InputError('int8 needs calibration images: --calibration N takes N training images')
    quantize_file = {'onnx': _onnx, 'openvino': _openvino}[target]
    return quantize_file(model, calibration, METHODS[method or DEFAULT[target]])


def _onnx(path: Path, calibration: 'Sequence[Batch]', method: Method) -> list[str]:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = ({'images': images, 'img_hw': img_hw} for images, img_hw in calibration)

        def get_next(self):
            return next(self.batches, None)

    from repvit_dense.exporting import onnx_int8
    from repvit_dense.exporting.formats.onnx import in_layer

    proto = onnx.load(path)
    in_fp32 = _select_layers(_onnx_nodes(proto), method.fp32_kinds)
    # Operators between layers compute boxes in pixels, for example, and need full precision.
    outside = [node.name for node in proto.graph.node if node.op_type in QUANTIZED_OPERATORS and not in_layer(node)]
    options: dict[str, Any] = {'ActivationSymmetric': False, 'WeightSymmetric': True}
    if method.percentile:
        options['CalibPercentile'] = method.percentile
    with tempfile.TemporaryDirectory() as folder:
        quantized_path = Path(folder, path.name)
        quantize_static(
            proto,
            quantized_path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED_OPERATORS,
            per_channel=True,
            reduce_range=method.seven_bits,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*in_fp32, *outside],
            calibrate_method=CalibrationMethod.Percentile if method.percentile else CalibrationMethod.MinMax,
            extra_options=options,
        )
        onnx.save(onnx_int8.optimize(onnx.load(quantized_path)), path)
    return in_fp32


@keep_signal_stack()
def _openvino(path: Path, calibration: 'Sequence[Batch]', method: Method) -> list[str]:
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    model = openvino.Core().read_model(path)
    in_fp32 = _select_layers(_openvino_nodes(model), method.fp32_kinds)
    ranges = RangeEstimatorParametersSet.MEAN_NO_OUTLIERS_MINMAX if method.percentile else None
    quantized = nncf.quantize(
        model,
        nncf.Dataset(list(calibration), lambda batch: {'images': batch[0], 'img_hw': batch[1]}),
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(calibration),
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(names=in_fp32, validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            disable_bias_correction=not method.correct_biases,
            disable_channel_alignment=False,
            activations_range_estimator_params=ranges or RangeEstimatorParametersSet.MINMAX,
        ),
    )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        quantized_path = Path(folder, path.name)
        openvino.save_model(quantized, quantized_path, compress_to_fp16=False)
        del model
        for suffix in ('.bin', '.xml'):
            quantized_path.with_suffix(suffix).replace(path.with_suffix(suffix))
    return in_fp32


class Node(NamedTuple):
    """An operator of either format.

    Attributes:
        name: unique in the graph.
        kind: `'depthwise'`, `'conv'`, `'matmul'`, `'pool'` (over all pixels), or `'other'`.
        sources: names of the nodes that it reads, without constants and inputs of the model.
    """

    name: str
    kind: str
    sources: tuple[str, ...]


LAYERS = ('depthwise', 'conv', 'matmul')


def _select_layers(nodes: 'Sequence[Node]', kinds: Sequence[str]) -> list[str]:
    """Return the names of the layers of some kinds, see `Method.fp32_kinds`, in graph order."""
    by_name = {node.name: node for node in nodes}
    read = {source for node in nodes for source in node.sources}
    selected = set()
    if 'depthwise' in kinds:
        selected |= {node.name for node in nodes if node.kind == 'depthwise'}
    if 'excite' in kinds:
        selected |= {node.name for node in nodes if node.kind in LAYERS and _reads_pool(node, by_name)}
    if 'ends' in kinds:
        selected.add(next(node.name for node in nodes if node.kind == 'conv'))
        for node in nodes:
            if node.name not in read:
                selected |= _nearest_layers(node, by_name)
    return [node.name for node in nodes if node.name in selected]


def _reads_pool(node: Node, by_name: dict[str, Node]) -> bool:
    """Return whether a layer reads pooled features only: a chain of single sources leads back to a pool."""
    while len(node.sources) == 1:
        node = by_name[node.sources[0]]
        if node.kind == 'pool':
            return True
    return False


def _nearest_layers(node: Node, by_name: dict[str, Node]) -> set[str]:
    """Return the last layers that an output is computed from."""
    seen, waiting, layers = set(), [node.name], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in by_name:
            continue
        seen.add(name)
        if by_name[name].kind in LAYERS:
            layers.add(name)
        else:
            waiting += by_name[name].sources
    return layers


def _onnx_nodes(proto: 'onnx.ModelProto') -> list[Node]:
    weights = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    producer = {output: node.name for node in proto.graph.node if node.op_type != 'Constant' for output in node.output}
    kinds = {'Conv': 'conv', 'MatMul': 'matmul', 'Gemm': 'matmul', 'GlobalAveragePool': 'pool', 'ReduceMean': 'pool'}

    def kind(node) -> str:
        groups = next((attribute.i for attribute in node.attribute if attribute.name == 'group'), 1)
        if node.op_type == 'Conv' and groups > 1 and groups == weights[node.input[1]][0]:
            return 'depthwise'
        return kinds.get(node.op_type, 'other')

    return [
        Node(node.name, kind(node), tuple(dict.fromkeys(producer[name] for name in node.input if name in producer)))
        for node in proto.graph.node
        if node.op_type != 'Constant'
    ]


def _openvino_nodes(model: 'openvino.Model') -> list[Node]:
    kinds = {'Convolution': 'conv', 'GroupConvolution': 'depthwise', 'MatMul': 'matmul', 'ReduceMean': 'pool'}
    constant: set[str] = set()
    inputs: set[str] = set()
    nodes: list[Node] = []
    for operation in model.get_ordered_ops():
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        sources = dict.fromkeys(value.get_node().get_friendly_name() for value in operation.input_values())
        if kind == 'Parameter':
            inputs.add(name)
        elif kind in ('Constant', 'ShapeOf') or constant.issuperset(
            sources
        ):  # shapes included: biases are broadcast to them
            constant.add(name)
        else:
            variable = tuple(key for key in sources if key not in constant | inputs)
            nodes.append(Node(name, kinds.get(kind, 'other'), variable))
    return nodes
