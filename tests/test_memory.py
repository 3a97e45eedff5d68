"""The garbage collector is off and freed memory is kept inside the context managers, and not outside."""

import gc
import subprocess
import sys

import pytest

from repvit_dense.memory import no_collector

# Print the page faults of ten arrays of 64 MiB, allocated in turn: before, inside, after.
PAGES = """
import resource
import numpy as np
from repvit_dense.memory import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.empty(1 << 26, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
print(pages())
with keep_freed_memory():
    pages()
    print(pages())
pages()
print(pages())
"""

# Print the resident MiB of the process: before, inside after ten arrays of 16 MiB are freed, and after.
HELD = """
import numpy as np
from repvit_dense.memory import keep_freed_memory

def held():
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith('VmRSS')) >> 10

print(held())
with keep_freed_memory():
    arrays = [np.ones(1 << 24, np.uint8) for _ in range(10)]
    last = bytes(1000)  # an object above them prevents shrinking the heap
    arrays.clear()
    print(held())
print(held())
"""
linux = pytest.mark.skipif(sys.platform != 'linux', reason='mallopt is a function of glibc')


def numbers(code):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return map(int, done.stdout.split())


@pytest.mark.parametrize('enabled', [True, False])
def test_the_collector_is_restored_after_an_error_too(enabled):
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
def test_freed_memory_is_reused_inside_only():
    before, inside, after = numbers(PAGES)
    assert inside < before / 100
    assert after > before / 2


@linux
def test_freed_memory_is_returned_at_the_end():
    before, inside, after = numbers(HELD)
    assert inside - before > 150
    assert after - before < 20
