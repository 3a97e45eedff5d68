"""What is refused before any work, and what `write` makes of a converter's failure."""

import subprocess
import sys

import pytest

from repvit_dense.errors import InputError
from repvit_dense.exporting import formats


def test_the_table_is_light():
    code = (
        'import sys; from repvit_dense.exporting import formats, export;'
        'print([name for name in ("torch", "numpy", "onnx", "openvino", "mmengine") if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (('tflite',), 'known: onnx, openvino, coreml, executorch, torch'),
        (('executorch', 'fp16'), 'executorch takes fp32'),
        (('coreml', 'int8'), 'coreml takes fp32, fp16'),
        (('torch', 'fp16'), 'torch takes fp32'),
        (('coreml', 'fp32', ('size',)), 'coreml takes fixed shapes only'),
        (('executorch', 'fp32', ('batch', 'size')), '--dynamic batch,size: executorch takes fixed shapes only'),
        (('coreml', 'fp32', (), 2), '--batch 2: coreml takes 1'),
        (('torch', 'fp32', (), 0), '--batch 0: torch takes 1 or more'),
    ],
)
def test_refusal_names_what_the_format_takes(arguments, named):
    with pytest.raises(InputError) as error:
        formats.check(*arguments)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ('target', 'precision', 'module', 'extra'),
    [
        ('onnx', 'fp32', 'onnxscript', 'onnx'),
        ('openvino', 'fp16', 'openvino', 'openvino'),
        ('openvino', 'int8', 'nncf', 'openvino'),
        ('coreml', 'fp32', 'coremltools', 'coreml'),
        ('executorch', 'fp32', 'executorch', 'executorch'),
    ],
)
def test_a_missing_runtime_gives_the_install_command(monkeypatch, target, precision, module, extra):
    find = formats.importlib.util.find_spec
    monkeypatch.setattr(formats.importlib.util, 'find_spec', lambda name: None if name == module else find('json'))
    with pytest.raises(InputError) as error:
        formats.check(target, precision)
    assert f'{module} is not installed' in str(error.value)
    assert f'pip install "repvit_dense[{extra}]"' in str(error.value)


def test_torch_needs_nothing_else(monkeypatch):
    monkeypatch.setattr(formats.importlib.util, 'find_spec', lambda name: None)
    assert formats.check('torch', 'fp32', ('batch', 'size')).model == 'model.pt2'


@pytest.mark.parametrize(('size', 'next_size'), [((100, 96), '128 96'), ((64, 0), '64 32'), ((-32, 65), '32 96')])
def test_a_size_that_is_no_multiple_names_the_next(size, next_size):
    with pytest.raises(InputError) as error:
        formats.check_size(size, 32)
    assert str(error.value).endswith(f'the next are {next_size}')


def test_a_failing_converter_is_one_clear_line(graph, write, monkeypatch):
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
