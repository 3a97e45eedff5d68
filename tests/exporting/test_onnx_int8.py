"""What ONNX Runtime makes of a quantised graph, and that its answers stay those of the model."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repvit_dense.exporting import formats, onnx_int8, quantize


class Net(nn.Module):
    """Two GELUs, the first after the layer that `mixed` keeps in fp32, and an enlargement by `enlarge`."""

    def __init__(self, enlarge):
        super().__init__()
        self.enlarge = enlarge
        self.stem, self.mix = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 1)
        self.deep, self.head = nn.Conv2d(32, 24, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x):
        x = self.deep(F.gelu(self.mix(F.gelu(self.stem(x)))))
        return self.head(F.interpolate(x, mode='bilinear', **self.enlarge).relu())


@pytest.fixture(params=[{'scale_factor': 2}, {'size': (64, 64)}], ids=['scales', 'sizes'])
def graph(request, pixel_classes):
    torch.manual_seed(0)
    return pixel_classes(Net(request.param))


@pytest.fixture
def quantized(graph, batches, tmp_path):
    """`quantized(method)`: the file."""

    def write(method):
        path = tmp_path / formats.write(graph, tmp_path, 'onnx', (64, 64))
        quantize.quantize(path, 'onnx', batches, method)
        return path

    return write


def optimised(path):
    """What the runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that the file written is for this machine
    options.optimized_model_filepath = str(path.with_name('optimised.onnx'))
    onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return onnx.load(options.optimized_model_filepath).graph


@pytest.mark.parametrize(('method', 'in_fp32'), [('minmax', 0), ('mixed', 1)])
def test_gelu_is_looked_up_wherever_both_sides_are_in_int8(quantized, method, in_fp32):
    kinds = [node.op_type for node in optimised(quantized(method)).node]
    assert kinds.count('Gelu') == in_fp32
    assert kinds.count('QLinearSigmoid') == kinds.count('QLinearMul') == 2 - in_fp32


def test_features_are_enlarged_with_their_channels_last(quantized):
    graph = optimised(quantized('mixed'))
    (resize,) = (node for node in graph.node if node.op_type == 'Resize')
    (before,) = (node for node in graph.node if resize.input[0] in node.output)
    assert before.op_type == 'DequantizeLinear'  # not a transposition
    (given,) = (tensor for tensor in graph.initializer if tensor.name in resize.input[2:])
    assert onnx.numpy_helper.to_array(given).tolist() in ([1, 2, 2, 1], [1, 64, 64, 24])


def test_answers_are_those_of_the_model(graph, quantized, agreement):
    session = onnxruntime.InferenceSession(quantized('mixed'), providers=['CPUExecutionProvider'])
    assert (
        agreement(graph, lambda *batch: session.run(None, dict(zip(('images', 'img_hw'), batch, strict=True)))[0]) > 0.9
    )


def test_an_fp32_graph_stays_as_it_is(graph, tmp_path):
    proto = onnx.load(tmp_path / formats.write(graph, tmp_path, 'onnx', (64, 64)))
    before = proto.SerializeToString(deterministic=True)
    assert onnx_int8.tuned(proto).SerializeToString(deterministic=True) == before


def test_a_sigmoid_of_that_slope_is_as_near_to_gelu_as_int8_can_tell():
    x = torch.linspace(-10, 10, 10001)
    assert (x * torch.sigmoid(onnx_int8.SLOPE * x) - F.gelu(x)).abs().max() < 0.0204
