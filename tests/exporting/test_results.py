"""The summary of an artifact and the printed table."""

from pathlib import Path

from repvit_dense.exporting.results import make_result, print_table

CERTIFICATE = {
    'agreement': {'detections': 200, 'matched': 0.995},
    'milliseconds': {'pytorch_unfused': 30.0, 'pytorch_fused': 20.0, 'artifact': 10.0},
    'failures': [],
}


def test_a_result_summarises_folder_and_certificate(tmp_path):
    (tmp_path / 'model.onnx').write_bytes(bytes(2_500_000))
    result = make_result('onnx', tmp_path, 1.5, CERTIFICATE)
    assert (result.target, result.seconds, result.megabytes) == ('onnx', 1.5, 2.5)
    assert (result.parity, result.milliseconds, result.speedup) == ('99.5% of 200 detections', 10, 3)
    pixels = make_result('onnx', tmp_path, 1, {**CERTIFICATE, 'agreement': {'pixels': 0.9999}})
    assert pixels.parity == '99.990% of pixels'
    nothing = make_result('onnx', tmp_path, 1, {**CERTIFICATE, 'agreement': {'detections': 0, 'matched': 1.0}})
    assert nothing.parity == 'no detections to compare'


def test_an_artifact_that_was_not_run_has_no_latency(tmp_path):
    result = make_result('coreml', tmp_path, 1, {'stages': {}})
    assert (result.parity, result.milliseconds, result.speedup, result.failures) == ('not run here', None, None, [])


def test_the_table_has_aligned_columns(tmp_path, capsys):
    results = [make_result('onnx', tmp_path, 1.5, CERTIFICATE), make_result('coreml', tmp_path, 100, {'stages': {}})]
    print_table([result._replace(folder=Path('out')) for result in results])
    assert capsys.readouterr().out.splitlines() == [
        'artifact  MB   seconds  agrees with PyTorch      ms (faster than PyTorch)',
        'out       0.0  1.5      99.5% of 200 detections  10.0 (3.0x)',
        'out       0.0  100.0    not run here             -',
    ]


def test_no_table_without_artifacts(capsys):
    print_table([])
    assert capsys.readouterr().out == ''
