"""Subjects timed in turns.

Machines are shared and clocks move: only what was measured in alternation compares, so every round times every subject
once, and a speed-up is the median of the rounds' ratios.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

WARMUP = 2  # rounds that are not timed
PAUSE = 0.05  # seconds before each call: the threads of what ran before it go on spinning for a while


class Subject(NamedTuple):
    """What is timed: `call()` may return seconds by the name of a part; `about` is more to report, not timed."""

    name: str
    call: Callable[[], dict[str, float] | None]
    about: dict = {}  # noqa: RUF012  never changed


class Stopwatch:
    """Seconds of the parts of one call, on a CPU or between events of a GPU's stream."""

    def __init__(self, device: 'torch.device'):
        self._cuda = device.type == 'cuda'
        self._spans: list[tuple[str, object, object]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = self._now()
        yield
        self._spans.append((name, began, self._now()))

    def timed(self, name: str, function: Callable) -> Callable:
        """The function, whose calls count for the part."""

        def call(*args, **kwargs):
            with self.part(name):
                return function(*args, **kwargs)

        return call

    def read(self) -> dict[str, float]:
        """Seconds of each part since the last reading; waits for the GPU."""
        if self._cuda:
            import torch

            torch.cuda.synchronize()
        totals = {}
        for name, began, ended in self._spans:
            seconds = began.elapsed_time(ended) / 1000 if self._cuda else ended - began
            totals[name] = totals.get(name, 0.0) + seconds
        self._spans.clear()
        return totals

    def _now(self):
        if not self._cuda:
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def waiting(name: str, call: Callable[[], object], device: str) -> Subject:
    """A subject whose calls last until a GPU has done what they asked of it."""
    import torch

    watch = Stopwatch(torch.device(device))

    def timed():
        with watch.part('all'):
            call()
        watch.read()

    return Subject(name, timed)


def name_of(device: str) -> str:
    """'cpu', or a GPU's own name."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith('cuda') else device


def compare(measurement: str, subjects: Sequence[Subject], rounds: int, warmup: int = WARMUP) -> list[dict]:
    """Time the subjects in alternation.

    Returns:
        a row per subject: `measurement`, `subject`, `seconds` of each round, `median`, `min` and `max` of these;
        `speedup`, the median over the rounds of how many times faster than the first subject; `parts`, the median
        seconds of each part.
    """
    seconds, parts = interleave(subjects, rounds, warmup)
    baseline = seconds[subjects[0].name]
    return [
        {
            'measurement': measurement,
            'subject': name,
            'seconds': own,
            'median': statistics.median(own),
            'min': min(own),
            'max': max(own),
            'speedup': statistics.median(base / this for base, this in zip(baseline, own, strict=True)),
            'parts': {part: statistics.median(values) for part, values in parts[name].items()},
        }
        for name, own in seconds.items()
    ]


def interleave(
    subjects: Sequence[Subject], rounds: int, warmup: int = WARMUP
) -> tuple[dict[str, list[float]], dict[str, dict]]:
    """Seconds of every call, and of its parts; each round calls every subject once, after `warmup` rounds."""
    seconds = {name: [] for name, *_ in subjects}
    parts = {name: {} for name, *_ in subjects}
    for number in range(warmup + rounds):
        for name, call, _ in subjects:
            time.sleep(PAUSE)
            start = time.perf_counter()
            found = call() or {}
            whole = time.perf_counter() - start
            if number < warmup:
                continue
            seconds[name].append(whole)
            for part, value in found.items():
                parts[name].setdefault(part, []).append(value)
    return seconds, parts
