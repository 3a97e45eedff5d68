"""Rewriting of quantised graphs for ONNX Runtime."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repvit_dense.exporting import formats, onnx_int8, quantize


class Net(nn.Module):
    """A network with two GELUs, the first after the layer that `mixed` keeps in fp32, and a resize operator."""

    def __init__(self, resize):
        super().__init__()
        self.resize = resize
        self.stem, self.mix = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 1)
        self.deep, self.head = nn.Conv2d(32, 24, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x):
        x = self.deep(F.gelu(self.mix(F.gelu(self.stem(x)))))
        return self.head(F.interpolate(x, mode='bilinear', **self.resize).relu())


@pytest.fixture(params=[{'scale_factor': 2}, {'size': (64, 64)}], ids=['scales', 'sizes'])
def graph(request, pixel_classes):
    torch.manual_seed(0)
    return pixel_classes(Net(request.param))


@pytest.fixture
def quantized(graph, batches, tmp_path):
    """Return `quantized(method)`, which writes an int8 file and returns its path."""

    def write(method):
        path = tmp_path / formats.write(graph, tmp_path, 'onnx', formats.FileOptions((64, 64)))
        quantize.quantize(path, 'onnx', batches, method)
        return path

    return write


def optimized(path):
    """Return the graph of a file as the runtime optimises it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # suppresses a warning that the written file suits this machine only
    options.optimized_model_filepath = str(path.with_name('optimized.onnx'))
    onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return onnx.load(options.optimized_model_filepath).graph


@pytest.mark.parametrize(('method', 'in_fp32'), [('minmax', 0), ('mixed', 1)])
def test_gelu_between_int8_layers_becomes_a_table(quantized, method, in_fp32):
    kinds = [node.op_type for node in optimized(quantized(method)).node]
    assert kinds.count('Gelu') == in_fp32
    assert kinds.count('QLinearSigmoid') == kinds.count('QLinearMul') == 2 - in_fp32


def test_resize_is_computed_in_channels_last_layout(quantized):
    graph = optimized(quantized('mixed'))
    (resize,) = (node for node in graph.node if node.op_type == 'Resize')
    (before,) = (node for node in graph.node if resize.input[0] in node.output)
    assert before.op_type == 'DequantizeLinear'  # not Transpose
    (argument,) = (tensor for tensor in graph.initializer if tensor.name in resize.input[2:])
    assert onnx.numpy_helper.to_array(argument).tolist() in ([1, 2, 2, 1], [1, 64, 64, 24])


def test_int8_agrees_with_the_model(graph, quantized, agreement):
    session = onnxruntime.InferenceSession(quantized('mixed'), providers=['CPUExecutionProvider'])
    assert (
        agreement(graph, lambda *batch: session.run(None, dict(zip(('images', 'img_hw'), batch, strict=True)))[0]) > 0.9
    )


def test_an_fp32_graph_is_unchanged(graph, tmp_path):
    proto = onnx.load(tmp_path / formats.write(graph, tmp_path, 'onnx', formats.FileOptions((64, 64))))
    before = proto.SerializeToString(deterministic=True)
    assert onnx_int8.optimize(proto).SerializeToString(deterministic=True) == before


def test_the_sigmoid_approximates_gelu_within_the_resolution_of_int8():
    x = torch.linspace(-10, 10, 10001)
    assert (x * torch.sigmoid(onnx_int8.SLOPE * x) - F.gelu(x)).abs().max() < 0.0204
