"""OpenVINO files, run by its runtime."""

import openvino
import pytest
import torch

from repvit_dense.compat.signal_stack import keep_signal_stack


def run(path, inputs, names):
    with keep_signal_stack():
        compiled = openvino.Core().compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    outputs = compiled({'images': inputs[0].numpy(), 'img_hw': inputs[1].numpy()})
    return [outputs[name] for name in names]


@pytest.mark.parametrize('kind', ['semantic', 'detection'])
@pytest.mark.parametrize('dynamic', [(), ('batch', 'size')])
def test_openvino_agrees_with_torch(graph, write, batch, close, kind, dynamic):
    model = graph(kind)
    path = write(model, 'openvino', dynamic=dynamic)
    for shape in [(1, 64, 96), (2, 160, 128)] if dynamic else [(1, 64, 96)]:
        inputs = batch(*shape)
        close(model, inputs, run(path, inputs, model.outputs))


def test_every_output_has_one_name(graph, write):
    model = openvino.Core().read_model(write(graph('detection'), 'openvino'))
    assert [port.names for port in model.outputs] == [{'boxes'}, {'scores'}, {'labels'}, {'count'}]


def test_an_unused_input_is_kept(graph, write):
    model = openvino.Core().read_model(write(graph('semantic'), 'openvino'))
    assert [port.any_name for port in model.inputs] == ['images', 'img_hw']


def test_half_precision_halves_the_weights(graph, write):
    model = graph('detection')
    sizes = [
        write(model, 'openvino', precision=precision).with_suffix('.bin').stat().st_size
        for precision in ('fp32', 'fp16')
    ]
    assert sizes[1] < 0.6 * sizes[0]


def test_half_precision_is_close(graph, write, batch):
    model, inputs = graph('detection'), batch()
    with torch.no_grad():
        expected = model(*inputs)[1]
    scores = run(write(model, 'openvino', precision='fp16'), inputs, model.outputs)[1]
    torch.testing.assert_close(torch.from_numpy(scores), expected, atol=2e-3, rtol=0)
