"""Inside, the collector is off and freed memory is used again; outside, both are as they were before."""

import gc
import subprocess
import sys

import pytest

from repvit_dense.memory import no_collector

# Prints how many pages the system gave for ten arrays of 64 MiB, one after another: outside, inside, outside again.
PAGES = """
import resource
import numpy as np
from repvit_dense.memory import kept_when_freed

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.empty(1 << 26, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
print(pages())
with kept_when_freed():
    pages()
    print(pages())
pages()
print(pages())
"""

# Prints the MiB that the process holds: before, inside when ten arrays of 16 MiB have been freed, and outside.
HELD = """
import numpy as np
from repvit_dense.memory import kept_when_freed

def held():
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith('VmRSS')) >> 10

print(held())
with kept_when_freed():
    arrays = [np.ones(1 << 24, np.uint8) for _ in range(10)]
    last = bytes(1000)  # what lies above them keeps the heap from being shortened
    arrays.clear()
    print(held())
print(held())
"""
linux = pytest.mark.skipif(sys.platform != 'linux', reason="the parameters are those of Linux's C library")


def numbers(code):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return map(int, done.stdout.split())


@pytest.mark.parametrize('enabled', [True, False])
def test_the_collector_is_as_it_was_before_after_an_error_too(enabled):
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError), no_collector():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


@linux
def test_freed_memory_is_used_again_inside_alone():
    before, inside, after = numbers(PAGES)
    assert inside < before / 100
    assert after > before / 2


@linux
def test_freed_memory_goes_back_at_the_end():
    before, inside, after = numbers(HELD)
    assert inside - before > 150
    assert after - before < 20
