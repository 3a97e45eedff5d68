"""The benchmark's arithmetic on subjects with known cost, and one small run from arguments to table and file."""

import argparse
import copy
import json

import pytest
import torch
from torch import nn

from repvit_dense import benchmark
from repvit_dense.benchmark import Subject, add_arguments, compare, gradient_error, interleave, saved_bytes, twins
from repvit_dense.errors import InputError


def parse(*argv):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(word) for word in argv])


@pytest.fixture
def clock(monkeypatch):
    """A clock that only subjects move: `clock(seconds)`."""
    now = [0.0]
    monkeypatch.setattr(benchmark.time, 'perf_counter', lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def test_subjects_take_turns(clock):
    calls = []
    interleave([Subject('a', lambda: calls.append('a')), Subject('b', lambda: calls.append('b'))], rounds=3)
    assert calls == ['a', 'b'] * (3 + benchmark.WARMUP)


def test_warm_up_is_not_counted(clock):
    costs = iter([9.0] * benchmark.WARMUP + [1.0, 2.0, 4.0])
    assert interleave([Subject('a', lambda: clock(next(costs)))], rounds=3) == {'a': [1.0, 2.0, 4.0]}


def test_the_speed_up_is_the_median_of_ratios_within_a_round(clock):
    slow = iter([0.0] * benchmark.WARMUP + [2.0, 20.0, 30.0])
    fast = iter([0.0] * benchmark.WARMUP + [1.0, 10.0, 5.0])  # 2 times faster, 2 times, 6 times
    baseline, row = compare(
        'x', [Subject('slow', lambda: clock(next(slow))), Subject('fast', lambda: clock(next(fast)))], 3
    )
    assert (baseline['subject'], baseline['speedup']) == ('slow', 1.0)
    assert {key: row[key] for key in ('measurement', 'subject', 'median', 'min', 'max', 'speedup')} == {
        'measurement': 'x',
        'subject': 'fast',
        'median': 5.0,
        'min': 1.0,
        'max': 10.0,
        'speedup': pytest.approx(2.0),
    }


class Counted(nn.Module):
    """Saves its input twice (once as a view) and an intermediate result of the same size; the weight is its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        y = x * self.weight
        return [y.exp() * x.flatten().reshape(x.shape)]


def test_saved_bytes_count_each_storage_once_and_no_parameter():
    x = torch.randn(10, 10)
    network = Counted()
    assert saved_bytes(network, x) == 2 * x.nbytes  # x, exp(y)


def test_saved_bytes_without_gradients_are_none():
    with torch.no_grad():
        assert saved_bytes(Counted(), torch.randn(10, 10)) == 0


@pytest.fixture(scope='module')
def pair():
    torch.manual_seed(0)
    merged, plain = twins('m0_6')
    images = torch.randn(1, 3, 64, 64)
    for network in (merged, plain):
        benchmark.training_step(network, images)
    return merged, plain, images


@pytest.fixture(scope='module')
def exact(pair):
    _, plain, images = pair
    exact = copy.deepcopy(plain).double()
    benchmark.training_step(exact, images.double())
    return exact


def test_twins_give_equal_features(pair):
    merged, plain, images = pair
    torch.testing.assert_close(list(merged(images)), plain(images), rtol=1e-4, atol=1e-4)


def test_both_twins_give_the_gradients_of_float64(pair, exact):
    assert max(gradient_error(network, exact) for network in pair[:2]) < 1e-4


def test_gradients_of_merged_kernels_are_exact_in_float64(pair, exact):
    merged, _, images = pair
    merged = copy.deepcopy(merged).double()
    benchmark.training_step(merged, images.double())
    assert gradient_error(merged, exact) < 1e-10


def test_gradient_error_is_relative_to_the_parameters_own_gradient(pair, exact):
    merged = copy.deepcopy(pair[0])
    for parameter, own in zip(merged.parameters(), pair[0].parameters(), strict=True):
        parameter.grad = own.grad.clone()
    merged.stages[2].blocks[0].se.fc2.bias.grad *= 1.5
    assert gradient_error(merged, exact) == pytest.approx(0.5, rel=1e-3)


def test_merged_kernels_keep_a_third_less_activation_memory(pair):
    merged, plain, _ = pair
    images = torch.randn(1, 3, 512, 512)  # the merged kernels themselves, saved as well, are small against these
    assert saved_bytes(merged, images) < 0.65 * saved_bytes(plain, images)


def test_all_subjects_of_the_inference_measurement_compute_the_same(pair):
    merged, plain, images = pair
    with torch.inference_mode():
        expected, *others = (subject.call() for subject in benchmark.inference_subjects(merged, plain, images))
    for features in others:
        torch.testing.assert_close(list(features), expected, rtol=1e-4, atol=1e-4)


def test_a_run_prints_a_table_and_writes_every_number(tmp_path, capsys):
    file = tmp_path / 'numbers.json'
    threads = torch.get_num_threads()
    assert benchmark.run(parse('--arch', 'm0_6', '--batch', 1, '--size', 64, '--rounds', 2, '--json', file)) == 0
    report = json.loads(file.read_text())
    assert (report['arch'], report['batch'], report['size'], report['threads']) == ('m0_6', 1, 64, threads)
    subjects = [(row['measurement'], row['subject']) for row in report['rows']]
    assert subjects == [
        ('training step', 'plain form'),
        ('training step', 'merged kernels'),
        ('inference', 'plain form'),
        ('inference', 'merged kernels'),
        ('inference', 'deploy form, channels last'),
    ]
    assert all(len(row['seconds']) == 2 and min(row['seconds']) > 0 for row in report['rows'])
    assert all(0 < row['gradient_error'] < 1e-3 for row in report['rows'][:2])
    table = capsys.readouterr().out
    assert 'RepViT-m0_6, 1x3x64x64' in table
    for measurement, subject in subjects:
        assert any(line.startswith(measurement) and subject in line for line in table.splitlines())


def test_threads_are_given_back(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(benchmark, 'measure', lambda *setting: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(benchmark, 'to_text', lambda report: 'table')
    threads = torch.get_num_threads()
    benchmark.run(parse('--threads', threads + 1))
    assert seen == [threads + 1]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize('name', ['--batch', '--size', '--rounds', '--threads'])
@pytest.mark.parametrize('value', [0, -1, 'x'])
def test_numbers_must_be_positive(name, value, capsys):
    with pytest.raises(SystemExit):
        parse(name, value)
    assert name in capsys.readouterr().err


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="unknown variant 'm9_9'; known: m0_6, m0_9"):
        benchmark.run(parse('--arch', 'm9_9'))


def test_a_missing_directory_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, 'measure', lambda *setting: pytest.fail('measured first'))
    with pytest.raises(InputError, match='there is no directory .*missing'):
        benchmark.run(parse('--json', tmp_path / 'missing' / 'numbers.json'))
