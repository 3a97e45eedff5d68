"""int8, static and per channel, by the runtimes' own quantisers: onnxruntime.quantization and NNCF.

A re-parameterised network is known to quantise badly: merging branches leaves depthwise kernels whose channels differ
by orders of magnitude, and activations with outliers. `METHODS` are the remedies, in the order in which they were
tried; docs/deploy.md has what each gave.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.compat.signal_stack import kept_signal_stack
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import openvino

    Batch = tuple[np.ndarray, np.ndarray]  # images (B, 3, H, W) and img_hw (B, 2), both float32


class Method(NamedTuple):
    """How ranges are found and what stays in fp32.

    Attributes:
        percentile: of the activations' histogram that the range covers, in percent; None for minimum and maximum.
        spare: kinds of layers that stay in fp32: `'depthwise'`, `'excite'` (squeeze and excitation), `'ends'` (the
            first convolution and those that feed an output).
        correct: shift biases by the error that rounding the weights makes on average (NNCF only).
    """

    percentile: float | None = None
    spare: tuple[str, ...] = ()
    correct: bool = True


METHODS = {
    'minmax': Method(correct=False),
    'percentile': Method(percentile=99.99, correct=False),
    'corrected': Method(),
    'mixed': Method(spare=('excite', 'ends')),
    'cautious': Method(spare=('excite', 'ends', 'depthwise')),
}
DEFAULT = {'onnx': 'mixed', 'openvino': 'cautious'}  # within a point of fp32 there, docs/deploy.md
QUANTIZED = ['Conv', 'MatMul', 'Gemm', 'Add', 'Mul', 'Concat', 'Resize', 'Relu']  # operators of ONNX


def quantize(model: Path, target: str, calibration: 'Sequence[Batch]', method: str | None = None) -> list[str]:
    """Replace a model file by its int8 form.

    Args:
        model: an fp32 file that `formats.write` wrote: `.onnx`, or `.xml` with its `.bin`.
        target: `'onnx'` or `'openvino'`.
        calibration: batches of preprocessed images that are typical of the data, some tens.
        method: key of `METHODS`; None: the target's own.

    Returns:
        names of the convolutions and matrix products kept in fp32.

    Raises:
        InputError: there is nothing to calibrate with.
    """
    if not calibration:
        raise InputError('int8 needs images to calibrate with: --calibration takes them from the training data')
    write = {'onnx': _onnx, 'openvino': _openvino}[target]
    return write(model, calibration, METHODS[method or DEFAULT[target]])


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
            self.rest: Iterator[dict] = ({'images': images, 'img_hw': img_hw} for images, img_hw in calibration)

        def get_next(self):
            return next(self.rest, None)

    from repvit_dense.exporting import onnx_int8
    from repvit_dense.exporting.formats.onnx import in_layer

    proto = onnx.load(path)
    spared = _spared(_onnx_nodes(proto), method.spare)
    # What the graph does besides its layers, with boxes in pixels say, needs every bit.
    outside = [node.name for node in proto.graph.node if node.op_type in QUANTIZED and not in_layer(node)]
    options = {'ActivationSymmetric': False, 'WeightSymmetric': True}
    if method.percentile:
        options['CalibPercentile'] = method.percentile
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, path.name)
        quantize_static(
            proto,
            written,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*spared, *outside],
            calibrate_method=CalibrationMethod.Percentile if method.percentile else CalibrationMethod.MinMax,
            extra_options=options,
        )
        onnx.save(onnx_int8.tuned(onnx.load(written)), path)
    return spared


@kept_signal_stack()
def _openvino(path: Path, calibration: 'Sequence[Batch]', method: Method) -> list[str]:
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    model = openvino.Core().read_model(path)
    spared = _spared(_openvino_nodes(model), method.spare)
    ranges = RangeEstimatorParametersSet.MEAN_NO_OUTLIERS_MINMAX if method.percentile else None
    quantized = nncf.quantize(
        model,
        nncf.Dataset(list(calibration), lambda batch: {'images': batch[0], 'img_hw': batch[1]}),
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(calibration),
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(names=spared, validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            disable_bias_correction=not method.correct,
            disable_channel_alignment=False,
            activations_range_estimator_params=ranges or RangeEstimatorParametersSet.MINMAX,
        ),
    )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder, path.name)
        openvino.save_model(quantized, written, compress_to_fp16=False)
        del model
        for suffix in ('.bin', '.xml'):
            written.with_suffix(suffix).replace(path.with_suffix(suffix))
    return spared


class Node(NamedTuple):
    """One operation of either format.

    Attributes:
        kind: `'depthwise'`, `'conv'`, `'matmul'`, `'pool'` (over all pixels), or `'other'`.
        sources: names of the nodes it reads from; constants and the inputs of the model are none.
    """

    name: str
    kind: str
    sources: tuple[str, ...]


LAYERS = ('depthwise', 'conv', 'matmul')


def _spared(nodes: 'Sequence[Node]', kinds: Sequence[str]) -> list[str]:
    """Names of the layers that stay in fp32: those of the kinds of `Method.spare`, in the order of the graph."""
    by_name = {node.name: node for node in nodes}
    read = {source for node in nodes for source in node.sources}
    spared = set()
    if 'depthwise' in kinds:
        spared |= {node.name for node in nodes if node.kind == 'depthwise'}
    if 'excite' in kinds:
        spared |= {node.name for node in nodes if node.kind in LAYERS and _reads_pool(node, by_name)}
    if 'ends' in kinds:
        spared.add(next(node.name for node in nodes if node.kind == 'conv'))
        for node in nodes:
            if node.name not in read:
                spared |= _nearest_layers(node, by_name)
    return [node.name for node in nodes if node.name in spared]


def _reads_pool(node: Node, by_name: dict[str, Node]) -> bool:
    """Whether a layer sees pooled features only: going back where there is but one way leads to a pool."""
    while len(node.sources) == 1:
        node = by_name[node.sources[0]]
        if node.kind == 'pool':
            return True
    return False


def _nearest_layers(node: Node, by_name: dict[str, Node]) -> set[str]:
    """The layers an output is computed from, without those before them."""
    seen, waiting, found = set(), [node.name], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in by_name:
            continue
        seen.add(name)
        if by_name[name].kind in LAYERS:
            found.add(name)
        else:
            waiting += by_name[name].sources
    return found


def _onnx_nodes(proto: 'onnx.ModelProto') -> list[Node]:
    weights = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    maker = {output: node.name for node in proto.graph.node if node.op_type != 'Constant' for output in node.output}
    kinds = {'Conv': 'conv', 'MatMul': 'matmul', 'Gemm': 'matmul', 'GlobalAveragePool': 'pool', 'ReduceMean': 'pool'}

    def kind(node) -> str:
        groups = next((attribute.i for attribute in node.attribute if attribute.name == 'group'), 1)
        if node.op_type == 'Conv' and groups > 1 and groups == weights[node.input[1]][0]:
            return 'depthwise'
        return kinds.get(node.op_type, 'other')

    return [
        Node(node.name, kind(node), tuple(dict.fromkeys(maker[name] for name in node.input if name in maker)))
        for node in proto.graph.node
        if node.op_type != 'Constant'
    ]


def _openvino_nodes(model: 'openvino.Model') -> list[Node]:
    kinds = {'Convolution': 'conv', 'GroupConvolution': 'depthwise', 'MatMul': 'matmul', 'ReduceMean': 'pool'}
    constant, inputs, nodes = set(), set(), []
    for operation in model.get_ordered_ops():
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        sources = dict.fromkeys(value.get_node().get_friendly_name() for value in operation.input_values())
        if kind == 'Parameter':
            inputs.add(name)
        elif kind in ('Constant', 'ShapeOf') or constant.issuperset(sources):  # sizes too: biases are broadcast to them
            constant.add(name)
        else:
            found = tuple(key for key in sources if key not in constant | inputs)
            nodes.append(Node(name, kinds.get(kind, 'other'), found))
    return nodes
