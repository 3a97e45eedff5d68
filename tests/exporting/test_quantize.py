"""int8 quantisation: the layers that stay in fp32, and agreement with the model."""

import pytest
import torch
from torch import nn

from repvit_dense.compat.signal_stack import keep_signal_stack
from repvit_dense.errors import InputError
from repvit_dense.exporting import formats, quantize
from repvit_dense.exporting.graphs.base import Graph
from repvit_dense.exporting.quantize import Node

# A stem, a depthwise convolution with squeeze and excitation, a 1x1 convolution, and a head with two outputs.
NODES = [
    Node('stem', 'conv', ()),
    Node('gelu', 'other', ('stem',)),
    Node('dw', 'depthwise', ('gelu',)),
    Node('pool', 'pool', ('dw',)),
    Node('squeeze', 'conv', ('pool',)),
    Node('relu', 'other', ('squeeze',)),
    Node('excite', 'conv', ('relu',)),
    Node('scale', 'other', ('dw', 'excite')),
    Node('mix', 'conv', ('scale',)),
    Node('classes', 'conv', ('mix',)),
    Node('argmax', 'other', ('classes',)),
    Node('boxes', 'matmul', ('mix',)),
]


@pytest.mark.parametrize(
    ('kinds', 'expected'),
    [
        ((), []),
        (('depthwise',), ['dw']),
        (('excite',), ['squeeze', 'excite']),
        (('ends',), ['stem', 'classes', 'boxes']),
        (('excite', 'depthwise'), ['dw', 'squeeze', 'excite']),
    ],
)
def test_layers_that_stay_in_fp32(kinds, expected):
    assert quantize._select_layers(NODES, kinds) == expected


class Net(nn.Module):
    """A small segmentation network with every kind of layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.dw = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.mix, self.head = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x):
        x = self.dw(self.stem(x).relu())
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(self.mix(x).relu())


@pytest.fixture(scope='module')
def graph(pixel_classes):
    torch.manual_seed(0)
    return pixel_classes(Net())


@pytest.mark.parametrize('method', ['minmax', 'mixed', 'portable'])
def test_onnx_int8_agrees_with_the_model(graph, batches, agreement, tmp_path, method):
    import onnx
    import onnxruntime

    path = tmp_path / formats.write(graph, tmp_path, 'onnx', formats.FileOptions((64, 64)))
    before = path.stat().st_size
    in_fp32 = quantize.quantize(path, 'onnx', batches, method)
    proto = onnx.load(path)
    assert sum(node.op_type == 'QuantizeLinear' for node in proto.graph.node) > 2
    assert path.stat().st_size != before
    assert len(in_fp32) == (0 if method == 'minmax' else 4)  # stem, squeeze, excite, head
    is_int8 = onnx.TensorProto.INT8
    weights = [onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.data_type == is_int8]
    assert max(int(abs(weight.astype(int)).max()) for weight in weights if weight.ndim > 1) == (
        64 if method == 'portable' else 127
    )
    dequantized = {name for node in proto.graph.node if node.op_type == 'DequantizeLinear' for name in node.output}
    for node in proto.graph.node:
        if node.name in in_fp32:
            assert not dequantized.intersection(node.input[1:2])  # its weights are floats
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    names = {value.name for value in session.get_inputs()}

    def run(images, img_hw):
        inputs = {'images': images, 'img_hw': img_hw}
        return session.run(None, {name: inputs[name] for name in names})[0]

    assert agreement(graph, run) > 0.9


class BoxGraph(Graph):
    """A graph that returns one box per image, at about 2000 pixels."""

    task = 'detection'

    def forward(self, images, img_hw):
        offsets = self.model(images).mean((2, 3))[:, None]
        boxes = offsets * 10 + torch.tensor([2000.0, 2000.0, 2100.0, 2100.0])
        scores = torch.ones_like(boxes[..., 0])
        return boxes, scores, torch.zeros_like(scores).int(), scores.sum(1).int()


def test_boxes_in_pixels_are_not_quantised(batches, tmp_path):
    """Check boxes to one pixel; with 8 bits the resolution would be 8 pixels."""
    import onnxruntime

    torch.manual_seed(0)
    graph = BoxGraph(Net().eval()).eval()
    path = tmp_path / formats.write(graph, tmp_path, 'onnx', formats.FileOptions((64, 64)))
    quantize.quantize(path, 'onnx', batches, 'minmax')
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for images, img_hw in batches:
        inputs = {value.name: {'images': images, 'img_hw': img_hw}[value.name] for value in session.get_inputs()}
        (boxes,) = session.run(['boxes'], inputs)
        with torch.no_grad():
            expected = graph(torch.from_numpy(images), torch.from_numpy(img_hw))[0].numpy()
        assert boxes == pytest.approx(expected, abs=1)


@pytest.mark.deploy
@pytest.mark.parametrize('method', ['corrected', 'mixed'])
def test_openvino_int8_agrees_with_the_model(graph, batches, agreement, tmp_path, method):
    pytest.importorskip('nncf')
    import openvino

    path = tmp_path / formats.write(graph, tmp_path, 'openvino', formats.FileOptions((64, 64)))
    in_fp32 = quantize.quantize(path, 'openvino', batches, method)
    assert len(in_fp32) == (4 if method == 'mixed' else 0)
    model = openvino.Core().read_model(path)
    assert any(operation.get_type_name() == 'FakeQuantize' for operation in model.get_ops())
    with keep_signal_stack():
        compiled = openvino.Core().compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    assert agreement(graph, lambda images, img_hw: compiled([images, img_hw][: len(model.inputs)])[0]) > 0.9


def test_calibration_batches_are_required(tmp_path):
    with pytest.raises(InputError, match='--calibration'):
        quantize.quantize(tmp_path / 'model.onnx', 'onnx', [])
