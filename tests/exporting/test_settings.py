"""Settings of an export: defaults, conversions and errors."""

import subprocess
import sys
from pathlib import Path

import pytest

from repvit_dense.errors import InputError
from repvit_dense.exporting.settings import ExportSettings

HEAVY = ('torch', 'numpy', 'cv2', 'onnx', 'openvino', 'mmengine')


def test_importing_the_settings_loads_nothing_heavy():
    code = (
        'import sys; from repvit_dense.exporting import formats, settings;'
        f'print([name for name in {HEAVY} if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


def test_defaults():
    settings = ExportSettings(to=['onnx', 'openvino'])
    assert settings.out == Path('exported')
    assert (settings.size, settings.batch, settings.dynamic) == (None, 1, ())
    assert (settings.precision, settings.max_detections, settings.calibration) == ('fp32', None, None)
    assert settings.no_verify is False


def test_a_single_format_may_be_a_string():
    assert ExportSettings(to='onnx').to == ['onnx']
    assert ExportSettings(to=['torch', 'onnx', 'torch']).to == ['torch', 'onnx']


def test_a_format_is_required():
    with pytest.raises(InputError, match='--to: name one or more of onnx, '):
        ExportSettings()


@pytest.mark.parametrize(
    ('dynamic', 'expected'),
    [
        ('batch', ('batch',)),
        ('batch,size', ('batch', 'size')),
        (('size', 'batch'), ('size', 'batch')),
        (['size', 'size'], ('size',)),
        ('', ()),
    ],
)
def test_dynamic_is_a_string_or_a_sequence(dynamic, expected):
    assert ExportSettings(to='onnx', dynamic=dynamic).dynamic == expected


@pytest.mark.parametrize('dynamic', ['batch,depth', ('depth',)])
def test_an_unknown_dynamic_axis_is_refused(dynamic):
    with pytest.raises(InputError, match="--dynamic: unknown axis 'depth'; known: batch, size"):
        ExportSettings(to='onnx', dynamic=dynamic)


def test_calibration_without_int8_is_refused():
    assert ExportSettings(to='onnx', precision='int8', calibration=3).calibration == 3
    with pytest.raises(InputError, match='--calibration 3: only --precision int8 is calibrated'):
        ExportSettings(to='onnx', calibration=3)
