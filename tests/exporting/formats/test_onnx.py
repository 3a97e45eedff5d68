"""ONNX files, run by ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from repvit_dense.errors import InputError
from repvit_dense.exporting.formats import onnx as onnx_format


def run(path, inputs):
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: part.numpy() for name, part in zip(names, inputs, strict=True)})


@pytest.mark.parametrize('kind', ['semantic', 'detection'])
@pytest.mark.parametrize('dynamic', [(), ('batch',), ('size',), ('batch', 'size')])
def test_onnx_runtime_agrees_with_torch(graph, write, batch, close, kind, dynamic):
    model = graph(kind)
    path = write(model, 'onnx', dynamic=dynamic)
    shapes = [(1, 64, 96)] + [(3, 64, 96)] * ('batch' in dynamic) + [(1, 160, 128)] * ('size' in dynamic)
    for shape in shapes:
        inputs = batch(*shape)
        close(model, inputs, run(path, inputs))


def test_names_shapes_and_opset(graph, write):
    proto = onnx.load(write(graph('detection'), 'onnx', batch=2, dynamic=('size',)))
    shapes = {
        value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim] for value in proto.graph.input
    }
    assert shapes == {'images': [2, 3, None, None], 'img_hw': [2, 2]}
    assert [value.name for value in proto.graph.output] == ['boxes', 'scores', 'labels', 'count']
    assert [entry.version for entry in proto.opset_import if entry.domain == ''] == [20]


def test_the_weights_are_in_the_same_file(graph, write):
    path = write(graph('semantic'), 'onnx')
    assert [file.name for file in path.parent.iterdir()] == ['model.onnx']


@pytest.mark.parametrize(
    ('requested', 'axis'), [({'dynamic': ('batch',)}, 0), ({'batch': 1}, 0), ({'dynamic': ('size',)}, 2)]
)
def test_an_axis_against_the_requestedis_refused(graph, requested, axis):
    proto = onnx_format.convert(graph('semantic'), (64, 96), batch=2)
    with pytest.raises(InputError, match=f'axis {axis} of images'):
        onnx_format.require_shapes(proto, (64, 96), **{'batch': 2, 'dynamic': (), **requested})


# --- half precision ---


@pytest.mark.parametrize('kind', ['semantic', 'detection'])
def test_half_precision_is_close(graph, write, batch, kind):
    model, inputs = graph(kind), batch()
    with torch.no_grad():
        expected = dict(zip(model.outputs, model(*inputs), strict=True))
    outputs = dict(zip(model.outputs, run(write(model, 'onnx', precision='fp16'), inputs), strict=True))
    if kind == 'semantic':
        assert (outputs['seg'] == expected['seg'].numpy()).mean() > 0.98
    else:
        assert outputs['boxes'].dtype == np.float32
        np.testing.assert_allclose(outputs['scores'], expected['scores'], atol=2e-3)


def test_half_precision_has_weights_in_fp16_and_inputs_and_outputs_in_fp32(graph, write):
    proto = onnx.load(write(graph('detection'), 'onnx', precision='fp16', dynamic=('batch',)))
    kinds = {tensor.data_type for tensor in proto.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}
    ends = (*proto.graph.input, *proto.graph.output)
    assert onnx.TensorProto.FLOAT16 not in {value.type.tensor_type.elem_type for value in ends}


def test_half_precision_keeps_coordinates_in_fp32(write):
    """Check a coordinate of 1999.5 pixels, which fp16 would round to 2000."""
    from repvit_dense.exporting.graphs.base import Graph

    class Wide(Graph):
        task = 'detection'

        def forward(self, images, img_hw):
            zero = self.model(images).mean((1, 2, 3)).reshape(-1, 1, 1) * 0
            boxes = img_hw.flip(1).repeat(1, 2)[:, None] * 0.99975 + zero
            return boxes, zero[..., 0], zero[..., 0].int(), zero[:, 0, 0].int()

    path = write(Wide(nn.Conv2d(3, 4, 1)).eval(), 'onnx', precision='fp16')
    boxes = run(path, (torch.ones(1, 3, 64, 96), torch.tensor([[2000.0, 2000.0]])))[0]
    np.testing.assert_allclose(boxes, 1999.5, atol=1e-2)


def test_operators_that_compute_coordinates_are_not_in_a_layer():
    """Check deformable attention, whose indices exceed the range of half precision."""

    def node(module):
        notes = {
            'pkg.torch.onnx.name_scopes': "['', 'queries.attention', 'add']",
            'pkg.torch.onnx.class_hierarchy': f"['a.Mask2Former', '{module}', 'aten.add.Tensor']",
        }
        node = onnx.helper.make_node('Add', ['a', 'b'], ['c'])
        for key, value in notes.items():
            node.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
        return node

    assert onnx_format.in_layer(node('torch.nn.modules.linear.Linear'))
    assert not onnx_format.in_layer(node('repvit_dense.exporting.graphs.attention.DeformableAttention'))
