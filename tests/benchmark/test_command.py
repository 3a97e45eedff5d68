"""`benchmark` as a command: from arguments to a table, a file and a picture; and what it refuses."""

import argparse
import json

import pytest
import torch

from repvit_dense import benchmark
from repvit_dense.errors import InputError


def parse(*argv):
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    return parser.parse_args([str(word) for word in argv])


SMALL = ('--batch', 1, '--size', 64, 64, '--rounds', 2)


def test_a_run_prints_a_table_and_writes_every_number_and_a_picture(tmp_path, capsys):
    file, picture = tmp_path / 'numbers.json', tmp_path / 'times.png'
    subjects = ['m0_6', '--against', 'timm:repvit_m0_9', '--what', 'inference', 'training']
    assert benchmark.run(parse(*subjects, *SMALL, '--json', file, '--plot', picture)) == 0
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
    assert picture.stat().st_size > 5000
    assert sorted(tmp_path.iterdir()) == [file, picture]


def test_parameters_and_multiplications_are_those_of_the_table(capsys):
    """RepViT-M0.6: 2,165,652 parameters, fused 2,147,072, 2.01 GMACs at 512x512, counted by another tool."""
    (base, fused) = benchmark.measure(parse('m0_6', '--batch', 1, '--size', 512, 512, '--rounds', 1))['rows']
    assert (base['params'], fused['params']) == (2_165_652, 2_147_072)
    assert fused['macs'] == pytest.approx(2.01e9, rel=0.01)


def test_threads_are_given_back(monkeypatch):
    seen = []
    monkeypatch.setattr(benchmark, '_run', lambda args: seen.append(torch.get_num_threads()) or 0)
    threads = torch.get_num_threads()
    benchmark.run(parse('m0_6', '--threads', threads + 1))
    assert seen == [threads + 1]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize('name', ['--batch', '--rounds', '--threads'])
@pytest.mark.parametrize('value', [0, -1, 'x'])
def test_numbers_must_be_positive(name, value, capsys):
    with pytest.raises(SystemExit):
        parse('m0_6', name, value)
    assert name in capsys.readouterr().err


@pytest.mark.parametrize('option', ['--json', '--plot', '--growth', '--model-zoo', '--export-table'])
def test_a_missing_directory_is_refused_before_anything_is_measured(option, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, '_run', lambda args: pytest.fail('measured first'))
    with pytest.raises(InputError, match=f'{option}: there is no directory .*missing'):
        benchmark.run(parse('m0_6', option, tmp_path / 'missing' / 'file'))


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(InputError, match='--device cuda: torch finds no GPU here'):
        benchmark.run(parse('m0_6', '--device', 'cuda'))
