"""Time several functions in alternation.

On a shared machine clock rates and load change over time, so only alternating measurements are comparable: every round
calls every function once, and a speed-up is the median of the ratios within the rounds.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

WARMUP = 2  # rounds that are not timed
PAUSE = 0.05  # seconds before each call, because worker threads of the previous call keep spinning for a while


class TimedCall(NamedTuple):
    """A function to time.

    Attributes:
        name: label in the report.
        call: the function; may return a dict of seconds by part.
        counts: parameters and multiply-accumulates to report beside the time, see `subjects.count_params_and_macs`.
    """

    name: str
    call: Callable[[], dict[str, float] | None]
    counts: dict[str, float] = {}  # noqa: RUF012  never changed


class Stopwatch:
    """Seconds spent in the parts of one call, by the CPU clock or by CUDA events."""

    def __init__(self, device: 'torch.device'):
        self._cuda = device.type == 'cuda'
        self._spans: list[tuple[str, Any, Any]] = []  # part, start, end: seconds, or CUDA events

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside the context as part `name`."""
        start = self._now()
        yield
        self._spans.append((name, start, self._now()))

    def timed(self, name: str, function: Callable) -> Callable:
        """Return the function, with its calls counted as part `name`."""

        def call(*args, **kwargs):
            with self.part(name):
                return function(*args, **kwargs)

        return call

    def read(self) -> dict[str, float]:
        """Return the seconds of each part since the last reading, after waiting for the GPU."""
        if self._cuda:
            import torch

            torch.cuda.synchronize()
        totals: dict[str, float] = {}
        for name, start, end in self._spans:
            seconds = start.elapsed_time(end) / 1000 if self._cuda else end - start
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


def synchronized(name: str, call: Callable[[], object], device: str) -> TimedCall:
    """Return a TimedCall that also waits for the GPU to finish the work `call` started."""
    import torch

    watch = Stopwatch(torch.device(device))

    def timed():
        with watch.part('all'):
            call()
        watch.read()

    return TimedCall(name, timed)


def compare(measurement: str, calls: Sequence[TimedCall], rounds: int, warmup: int = WARMUP) -> list[dict]:
    """Time the calls in alternation.

    Returns:
        One row per call: `measurement`; `subject`, the name; `seconds` of each round, their `median`, `min` and `max`;
        `speedup` over the first call, the median of the ratios within the rounds; `parts`, the median seconds of each
        part.
    """
    seconds, parts = interleave(calls, rounds, warmup)
    baseline = seconds[calls[0].name]
    return [
        {
            'measurement': measurement,
            'subject': name,
            'seconds': times,
            'median': statistics.median(times),
            'min': min(times),
            'max': max(times),
            'speedup': statistics.median(base / this for base, this in zip(baseline, times, strict=True)),
            'parts': {part: statistics.median(values) for part, values in parts[name].items()},
        }
        for name, times in seconds.items()
    ]


def interleave(
    calls: Sequence[TimedCall], rounds: int, warmup: int = WARMUP
) -> tuple[dict[str, list[float]], dict[str, dict[str, list[float]]]]:
    """Call every function once per round, after `warmup` rounds that are not timed.

    Returns:
        The seconds of each round by name, and the seconds of each part by name and part.
    """
    seconds: dict[str, list[float]] = {call.name: [] for call in calls}
    parts: dict[str, dict[str, list[float]]] = {call.name: {} for call in calls}
    for number in range(warmup + rounds):
        for name, call, _ in calls:
            time.sleep(PAUSE)
            start = time.perf_counter()
            part_seconds = call() or {}
            elapsed = time.perf_counter() - start
            if number < warmup:
                continue
            seconds[name].append(elapsed)
            for part, value in part_seconds.items():
                parts[name].setdefault(part, []).append(value)
    return seconds, parts
