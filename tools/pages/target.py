"""One target and the comparison of two timed calls."""

from typing import NamedTuple

from repvit_dense.benchmark import timing
from repvit_dense.benchmark.timing import TimedCall
from repvit_dense.benchmark.workload import Workload

ARCH = 'm1_1'  # RepViT variant of all targets


class PerformanceTarget(NamedTuple):
    """A measured value and its limit.

    Attributes:
        name: the measurement.
        baseline: the subject it is compared with; empty for an absolute value.
        limit: value to reach, in `unit`; None for a value without target.
        measured: value on this machine, in `unit`.
        unit: appended to both numbers; 'x' for a ratio.
        at_least: whether `limit` is a lower bound; otherwise an upper bound.
    """

    name: str
    baseline: str
    limit: float | None
    measured: float
    unit: str = 'x'
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """Return whether the measured value satisfies the limit; None without limit."""
        if self.limit is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def speedup(baseline: TimedCall, call: TimedCall, rounds: int) -> float:
    """Return the median ratio of the time of `baseline` to the time of `call`."""
    calls = [baseline._replace(name='baseline'), call._replace(name='call')]
    return timing.compare('', calls, rounds)[1]['speedup']


def format_input(workload: Workload) -> str:
    """Return the batch size and the input size as BxHxW."""
    height, width = workload.size
    return f'{workload.batch}x{height}x{width}'
