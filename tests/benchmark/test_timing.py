"""Test the arithmetic of timing on calls with known cost."""

import pytest

from repvit_dense.benchmark import timing
from repvit_dense.benchmark.timing import Stopwatch, TimedCall, compare, interleave


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one that only `clock(seconds)` advances."""
    now = [0.0]
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def test_calls_alternate(clock):
    names = []
    interleave([TimedCall('a', lambda: names.append('a')), TimedCall('b', lambda: names.append('b'))], rounds=3)
    assert names == ['a', 'b'] * (3 + timing.WARMUP)


def test_warmup_rounds_are_not_counted(clock):
    costs = iter([9.0] * timing.WARMUP + [1.0, 2.0, 4.0])
    assert interleave([TimedCall('a', lambda: clock(next(costs)))], rounds=3)[0] == {'a': [1.0, 2.0, 4.0]}


def test_the_speedup_is_the_median_of_the_ratios_within_a_round(clock):
    slow = iter([0.0] * timing.WARMUP + [2.0, 20.0, 30.0])
    fast = iter([0.0] * timing.WARMUP + [1.0, 10.0, 5.0])  # ratios 2, 2 and 6
    calls = [TimedCall('slow', lambda: clock(next(slow))), TimedCall('fast', lambda: clock(next(fast)))]
    baseline, row = compare('x', calls, 3)
    assert (baseline['subject'], baseline['speedup']) == ('slow', 1.0)
    assert {key: row[key] for key in ('measurement', 'subject', 'median', 'min', 'max', 'speedup')} == {
        'measurement': 'x',
        'subject': 'fast',
        'median': 5.0,
        'min': 1.0,
        'max': 10.0,
        'speedup': pytest.approx(2.0),
    }


def test_the_time_of_a_part_is_its_median(clock):
    parts = iter([{'head': 9.0}] * timing.WARMUP + [{'head': 1.0}, {'head': 5.0}, {'head': 2.0}])
    (row,) = compare('x', [TimedCall('a', lambda: clock(1.0) or next(parts))], 3)
    assert row['parts'] == {'head': 2.0}


def test_a_stopwatch_adds_up_the_calls_of_a_part(clock):
    import torch

    watch = Stopwatch(torch.device('cpu'))
    work = watch.timed('neck', clock)
    work(1.5), work(2.0)
    with watch.part('head'):
        clock(4.0)
    assert watch.read() == {'neck': 3.5, 'head': 4.0}
    assert watch.read() == {}
