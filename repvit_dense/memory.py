"""Context managers that suspend Python's garbage collector and stop glibc from returning freed memory to the OS."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt(3).
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
# Values that glibc's dynamic thresholds reach in a process that has freed large blocks: a count, then bytes.
USUAL = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}


@contextmanager
def no_collector() -> Iterator[None]:
    """Suspend the garbage collector, which otherwise searches millions of new objects for cycles again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory in the process for its next allocation, and return it to the system at the end.

    A network on a CPU allocates the same activations again and again. The system hands out new memory page by page and
    fills it with zeros first, which can take longer than the computation on it. The process needs up to a third more
    memory, because the freed memory may be fragmented. Without glibc nothing changes.
    """
    library = ctypes.CDLL(None) if sys.platform == 'linux' else None
    if library is None or not hasattr(library, 'mallopt'):
        yield
        return
    mallopt = library.mallopt
    mallopt(MMAP_MAX, 0)  # allocate nothing with mmap, which would be unmapped when it is freed
    mallopt(TRIM_THRESHOLD, -1)  # never shrink the heap
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            mallopt(parameter, value)
        library.malloc_trim(0)
