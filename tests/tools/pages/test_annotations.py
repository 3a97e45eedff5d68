"""Test the generated annotation file and the measurement of its check and index."""

import json

import pytest

from tools.pages import annotations


def test_a_generated_file_passes_the_check(tmp_path):
    from repvit_dense.data import checks

    path = tmp_path / 'truth.json'
    annotations.generate(path, 160)
    content = json.loads(path.read_text())
    assert (len(content['annotations']), len(content['images']), len(content['categories'])) == (160, 20, 80)
    names = [category['name'] for category in content['categories']]
    report = checks.instances(path, tmp_path / 'images', names, masks=True)
    assert report.findings == []


@pytest.mark.slow
def test_time_and_memory_are_reported(tmp_path, capsys):
    file = tmp_path / 'report.json'
    assert annotations.run(annotations.Options(objects=400, json=file)) == 0
    report = json.loads(file.read_text())
    assert report['file'] * 2**30 > 400 * 100  # bytes
    assert report['check']['seconds'] > 0 and report['index']['cpu_seconds'] > 0
    assert report['worker']['private'] < 0.2  # GiB: no worker has its own copy of torch and mmdet
    text = capsys.readouterr().out
    assert text.startswith('400 objects') and 'each data-loading worker' in text
