"""`repvit-dense benchmark`: measure speed and memory side by side."""

from repvit_dense import benchmark
from repvit_dense.benchmark.settings import BenchmarkSettings as Options


def run(options: Options) -> None:
    """Measure speed and memory side by side.

    Raises:
        InputError: an option cannot be used; nothing was measured.
    """
    benchmark.run(options)
