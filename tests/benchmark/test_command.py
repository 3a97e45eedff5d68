"""Test the command `benchmark` from its options to the table, the JSON file and the chart."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from repvit_dense import benchmark
from repvit_dense.benchmark import settings
from repvit_dense.benchmark.settings import BenchmarkSettings
from repvit_dense.errors import InputError


def small(*subjects, **options):
    return BenchmarkSettings(subjects=list(subjects), **{'batch': 1, 'size': (64, 64), 'rounds': 2, **options})


def test_a_run_writes_a_table_a_json_file_and_a_chart(tmp_path, capsys):
    file, chart = tmp_path / 'numbers.json', tmp_path / 'times.png'
    options = {'against': 'timm:repvit_m0_9', 'what': ['inference', 'training'], 'json': file, 'plot': chart}
    benchmark.run(small('m0_6', **options))
    report = json.loads(file.read_text())
    assert (report['batch'], report['size'], report['threads']) == (1, [64, 64], torch.get_num_threads())
    rows = {(row['measurement'], row['subject']): row for row in report['rows']}
    assert list(rows) == [
        ('inference', 'timm:repvit_m0_9'),
        ('inference', 'repvit_m0_6'),
        ('inference', 'repvit_m0_6, fused'),
        ('training', 'timm:repvit_m0_9'),
        ('training', 'repvit_m0_6'),
    ]
    assert all(len(row['seconds']) == 2 and min(row['seconds']) > 0 for row in rows.values())
    assert rows['training', 'repvit_m0_6']['peak_bytes'] >= rows['training', 'repvit_m0_6']['saved_bytes'] > 0
    assert rows['training', 'timm:repvit_m0_9']['speedup'] == 1
    table = capsys.readouterr().out
    assert '1x3x64x64, cpu, fp32' in table
    assert all(any(line.startswith(name) for line in table.splitlines()) for _, name in rows)
    assert chart.stat().st_size > 5000
    assert sorted(tmp_path.iterdir()) == [file, chart]


def test_parameters_and_macs_match_published_numbers():
    """RepViT-M0.6: 2,165,652 parameters, fused 2,147,072, and 2.01 GMACs at 512x512 by an independent counter."""
    training_form, fused = benchmark.measure(small('m0_6', size=(512, 512), rounds=1))['rows']
    assert (training_form['params'], fused['params']) == (2_165_652, 2_147_072)
    assert fused['macs'] == pytest.approx(2.01e9, rel=0.01)


def test_the_number_of_threads_is_restored(monkeypatch):
    seen = []
    monkeypatch.setattr(benchmark, '_rows', lambda *_: seen.append(torch.get_num_threads()) or [])
    threads = torch.get_num_threads()
    report = benchmark.measure(small('m0_6', threads=threads + 1))
    assert seen == [report['threads']] == [threads + 1]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize('value', ['0', '-1', 'x', '1_0', '9' * 30, '65537'])
def test_counts_must_be_positive(value):
    with pytest.raises(argparse.ArgumentTypeError):
        settings.positive_int(value)


@pytest.mark.parametrize(
    'options, words',
    [
        ({'batch': 60_000, 'size': (512, 512)}, 'more than 1,000,000,000 pixels'),
        ({'json': Path()}, r'--json \.: is a folder'),
        ({'plot': Path('times.nope')}, r'the name must end in \.png'),
        ({'device': 'nope'}, '--device nope: '),
        ({'device': 'cpu:7'}, '--device cpu:7: nothing is computed there'),
        ({'device': 'meta'}, '--device meta: nothing is computed there'),
    ],
)
def test_options_that_cannot_be_used(options, words):
    with pytest.raises(InputError, match=words):
        benchmark.run(small('m0_6', **options))


@pytest.mark.parametrize('option', ['json', 'plot'])
def test_a_missing_directory_is_refused_before_the_measurement(option, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, 'measure', lambda _: pytest.fail('measured first'))
    with pytest.raises(InputError, match=f'--{option} .*: there is no directory .*missing'):
        benchmark.run(small('m0_6', **{option: tmp_path / 'missing' / 'file'}))


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without GPU')
def test_a_missing_gpu_is_refused():
    with pytest.raises(InputError, match='--device cuda: PyTorch finds no GPU'):
        benchmark.measure(small('m0_6', device='cuda'))
