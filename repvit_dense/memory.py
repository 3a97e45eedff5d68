"""What manages memory, Python's garbage collector and the C library, out of the way where it would only cost time."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt(3).
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
# A number of blocks, then bytes: where glibc's own thresholds end up in a process that has freed something large
USUAL = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}


@contextmanager
def no_collector() -> Iterator[None]:
    """Among millions of new objects Python looks for cycles again and again; where there are none it is put off."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def kept_when_freed() -> Iterator[None]:
    """Inside, freed memory stays with the process for what it needs next, instead of going back to the system.

    A network on a CPU allocates the same activations again and again. Whatever comes from the system anew is given page
    by page and filled with zeros first, which can take longer than what is computed in it. Costs up to a third more
    memory, since what is kept may be in pieces; at the end it goes back. Where the C library is not glibc, nothing
    changes.
    """
    library = ctypes.CDLL(None) if sys.platform == 'linux' else None
    mallopt = getattr(library, 'mallopt', None)
    if mallopt is None:
        yield
        return
    mallopt(MMAP_MAX, 0)  # nothing that is unmapped when it is freed
    mallopt(TRIM_THRESHOLD, -1)  # never shorten the heap
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            mallopt(parameter, value)
        library.malloc_trim(0)
