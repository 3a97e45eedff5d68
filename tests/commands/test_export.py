"""`export`: the settings that it passes on, and its exit code."""

from pathlib import Path

import pytest

from repvit_dense import cli
from repvit_dense.commands import export
from repvit_dense.exporting import export as exporting
from repvit_dense.exporting.results import ExportResult


@pytest.fixture
def exported(monkeypatch):
    """Replace the export by one that records its arguments and fails for OpenVINO."""
    calls = []

    def export_all(cfg, checkpoint, settings):
        calls.append((cfg, checkpoint, settings))
        written = [name for name in settings.to if name != 'openvino']
        rows = [ExportResult(name, Path(settings.out, name), 1.0, 2.0, 'equal', None, None, []) for name in written]
        return rows, {name: 'no reason' for name in settings.to if name not in written}

    monkeypatch.setattr(exporting, 'export_all', export_all)
    return calls


def run(*arguments):
    """Return the exit code of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.main('export', [str(argument) for argument in arguments])
    return ended.value.code


@pytest.mark.parametrize('formats, code', [(['onnx'], 0), (['onnx', 'openvino'], 2)])
def test_the_exit_code_tells_of_a_failed_format(exported, work_dir, formats, code):
    assert run(work_dir, '--to', *formats) == code


def test_a_work_dir_brings_config_and_checkpoint(exported, work_dir, capsys):
    assert run(work_dir, '--to', 'onnx', '--size', 64, 96, '--dynamic', 'batch,size', '--out', 'elsewhere') == 0
    ((cfg, checkpoint, settings),) = exported
    assert cfg.model.backbone.arch == 'm0_6'
    assert checkpoint == str(work_dir / 'epoch_1.pth')
    assert (settings.size, settings.dynamic) == ((64, 96), ('batch', 'size'))
    assert str(Path('elsewhere', 'onnx')) in capsys.readouterr().out


def test_a_config_needs_a_checkpoint(refuse_in_a_line):
    message = refuse_in_a_line('export', 'repvit_maskrcnn_shapes', '--to', 'onnx')
    assert 'repvit_maskrcnn_shapes: a config has no weights; name a checkpoint' in message


def test_python_returns_the_folders(exported, work_dir):
    outcome = export.run(export.Options(str(work_dir), to=['onnx', 'openvino'], out='x'))
    assert outcome.folders == {'onnx': Path('x/onnx')}
    assert outcome.failed == {'openvino': 'no reason'}


@pytest.mark.parametrize(
    'option',
    [
        ('--size', 0, 64),
        ('--size', -64, 64),
        ('--size', 10**30, 64),
        ('--size', 'a', 64),
        ('--batch', 0),
        ('--batch', -1),
        ('--max-detections', 0),
        ('--max-detections', -1),
        ('--precision', 'int8', '--calibration', 0),
        ('--precision', 'int8', '--calibration', -1),
        ('--precision', 'int8', '--calibration', 10**9),
        ('--calibration', 5),
        ('--out', ''),
    ],
    ids=str,
)
def test_an_impossible_value_is_refused_at_once(exported, work_dir, option, capsys):
    assert run(work_dir, '--to', 'onnx', *option) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert [each for each in option if str(each).startswith('--')][-1] in message
    assert exported == []
