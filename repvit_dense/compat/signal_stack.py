"""Protect the memory on which a thread handles signals from OpenVINO."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of sigaltstack(2) on Linux."""

    _fields_ = [('memory', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t)]


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Restore the signal stack of this thread at the end, whatever is loaded inside.

    OpenVINO's CPU plugin replaces the stack when it is loaded (its class `SigAltStackSetup`). If two plugins are
    unloaded in the order in which they were loaded, the second one restores the stack of the first, whose memory is
    freed by then. The next signal that Python handles, such as Ctrl-C or the end of a child, kills the process.
    """
    if sys.platform != 'linux':  # the plugin replaces the stack on Linux only
        yield
        return
    library, before = ctypes.CDLL(None), _Stack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)
