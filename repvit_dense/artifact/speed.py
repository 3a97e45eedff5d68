"""Measure where the time of a prediction goes."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = ('pre-processing', 'inference', 'post-processing', 'drawing')


class Clock:
    """A stop watch per part of the work.

    Attributes:
        seconds: time by part; parts are not nested.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start  # type: ignore[assignment]

    def describe(self, count: int, seconds: float) -> str:
        """Return the time per image of every part, and images per second.

        Args:
            count: number of images.
            seconds: duration of the whole run.
        """
        parts = ', '.join(f'{part} {1000 * self.seconds[part] / count:.1f} ms' for part in PARTS)
        return f'Speed per image: {parts}; {count / seconds:.3g} images/s'
