"""The memory that a thread handles signals on, kept from OpenVINO's hands."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of sigaltstack(2) on Linux."""

    _fields_ = [('memory', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t)]


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Whatever is loaded inside, this thread's signal stack is afterwards the one that it was before.

    OpenVINO's CPU plugin replaces it when it is loaded (its class `SigAltStackSetup`). When two plugins are unloaded in
    the order in which they were loaded, the second puts the first one's back, which is freed by then: the next signal
    that Python handles, a Ctrl-C or the end of a child, ends the process without a word.
    """
    if sys.platform != 'linux':  # where the plugin leaves it alone
        yield
        return
    library, before = ctypes.CDLL(None), _Stack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)
