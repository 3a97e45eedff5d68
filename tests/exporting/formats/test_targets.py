"""Refusal of unsupported options, and failures of converters."""

import pytest

from repvit_dense.errors import InputError
from repvit_dense.exporting import formats


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('tflite',), 'known: onnx, openvino, coreml, executorch, torch'),
        (('executorch', 'fp16'), 'executorch supports fp32'),
        (('coreml', 'int8'), 'coreml supports fp32, fp16'),
        (('torch', 'fp16'), 'torch supports fp32'),
        (('coreml', 'fp32', ('size',)), 'coreml supports fixed shapes only'),
        (('executorch', 'fp32', ('batch', 'size')), '--dynamic batch,size: executorch supports fixed shapes only'),
        (('coreml', 'fp32', (), 2), '--batch 2: coreml supports 1'),
        (('torch', 'fp32', (), 0), '--batch 0: torch supports 1 or more'),
    ],
)
def test_a_refusal_lists_the_supported_values(arguments, message):
    with pytest.raises(InputError) as error:
        formats.check(*arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ('target', 'precision', 'module', 'extra'),
    [
        ('onnx', 'fp32', 'onnxscript', 'onnx'),
        ('openvino', 'fp16', 'openvino', 'openvino'),
        ('openvino', 'int8', 'nncf', 'openvino-int8'),
        ('coreml', 'fp32', 'coremltools', 'coreml'),
        ('executorch', 'fp32', 'executorch', 'executorch'),
    ],
)
def test_a_missing_package_is_named_with_the_install_command(monkeypatch, target, precision, module, extra):
    find = formats.importlib.util.find_spec
    monkeypatch.setattr(formats.importlib.util, 'find_spec', lambda name: None if name == module else find('json'))
    with pytest.raises(InputError) as error:
        formats.check(target, precision)
    assert f'{module} is not installed' in str(error.value)
    assert f'pip install "repvit_dense[{extra}]"' in str(error.value)


def test_the_torch_format_needs_no_other_package(monkeypatch):
    monkeypatch.setattr(formats.importlib.util, 'find_spec', lambda name: None)
    assert formats.check('torch', 'fp32', ('batch', 'size')).model == 'model.pt2'


def test_a_converter_failure_becomes_a_message_of_one_line(graph, write, monkeypatch):
    from repvit_dense.exporting.formats import torch_export

    def fail(*args):
        raise KeyError('first line\nsecond line')

    monkeypatch.setattr(torch_export, 'capture', fail)
    with pytest.raises(InputError) as error:
        write(graph('semantic'), 'torch')
    assert 'torch: cannot convert this model: KeyError' in str(error.value)
    assert '\n' not in str(error.value)


def test_converters_print_nothing(graph, write, capfd):
    write(graph('semantic'), 'onnx')
    assert capfd.readouterr() == ('', '')
