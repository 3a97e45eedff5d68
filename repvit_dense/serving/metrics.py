"""Count requests, batches and times, in the text format of Prometheus."""

import threading
from collections import Counter
from pathlib import Path

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds of a batch
PREFIX = 'repvit_dense'


class Metrics:
    """Numbers since the start of the server; several threads may add to them.

    Attributes:
        waiting: requests that are being received, wait or are being predicted.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._requests: Counter[int] = Counter()  # by status
        self._batches: Counter[float] = Counter()  # by the bound of their time
        self._images, self._seconds = 0, 0.0
        self._lock = threading.Lock()

    def count(self, status: int) -> None:
        """Count an answer."""
        with self._lock:
            self._requests[status] += 1

    def observe(self, images: int, seconds: float) -> None:
        """Count a batch."""
        with self._lock:
            self._batches[next((bound for bound in BOUNDS if seconds <= bound), float('inf'))] += 1
            self._images += images
            self._seconds += seconds

    def render(self) -> str:
        """Return all numbers as text."""
        with self._lock:
            total, buckets = 0, []
            for bound in (*BOUNDS, float('inf')):
                total += self._batches[bound]
                buckets.append((f'batch_seconds_bucket{{le="{"+Inf" if bound == float("inf") else bound}"}}', total))
            families: list[tuple[str, str, str, list[tuple[str, float]]]] = [
                ('requests_total', 'counter', 'Answers by status.', [
                    (f'requests_total{{code="{status}"}}', count) for status, count in sorted(self._requests.items())
                ]),
                ('waiting_requests', 'gauge', 'Requests that are received, wait or are predicted.', [
                    ('waiting_requests', self.waiting)
                ]),
                ('images_total', 'counter', 'Images given to the model.', [('images_total', self._images)]),
                ('batch_seconds', 'histogram', 'Seconds per batch: decode, predict, encode.', [
                    *buckets, ('batch_seconds_sum', self._seconds), ('batch_seconds_count', total)
                ]),
                ('resident_memory_bytes', 'gauge', 'Memory of the process.', [
                    ('resident_memory_bytes', resident_memory())
                ]),
            ]  # fmt: skip
        lines = []
        for name, kind, text, values in families:
            lines += [f'# HELP {PREFIX}_{name} {text}', f'# TYPE {PREFIX}_{name} {kind}']
            lines += [
                f'{PREFIX}_{key} {value:g}' if value < 1e6 else f'{PREFIX}_{key} {value:.0f}' for key, value in values
            ]
        return '\n'.join(lines) + '\n'


def resident_memory() -> int:
    """Return the memory of this process in bytes; 0 where Linux's /proc is missing."""
    import os

    try:
        return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    except OSError:
        return 0
