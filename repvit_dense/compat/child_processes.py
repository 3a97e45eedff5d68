"""Prepare the worker processes of a run: the parts that mmdet lacks, the rescaling of thin images, a quiet screen.

A spawned worker starts with a bare interpreter and unpickles its arguments first. Unpickling a data set imports mmdet,
and with it `mmcv._ext`, before any code of this package would run. multiprocessing copies `_config` of a process to its
children and pickles it ahead of the arguments: unpickling the entry made here prepares the worker in time. A forked
worker inherits everything and never unpickles the entry.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import process

from repvit_dense.compat import quiet

KEY = 'repvit_dense'


class Preparation:
    """An object whose unpickling calls `prepare`; the copy stays for the worker's own children."""

    def __reduce__(self):
        return prepare, (quiet.is_active(),)


def prepare(hide_notices: bool) -> Preparation:
    """Make the changes of a worker for the rest of this process."""
    from repvit_dense.compat import mmcv_ops, panoptic_api, rescaling

    if hide_notices:
        quiet.start()

    mmcv_ops.install()
    panoptic_api.install()
    with suppress(ImportError):  # an incomplete mmcv, which its user will report
        rescaling.install()
    return Preparation()


@contextmanager
def patched() -> Iterator[None]:
    """Prepare every process that is spawned inside the context, and the processes that those spawn."""
    config = vars(process.current_process())['_config']
    if KEY in config:
        yield
        return
    config[KEY] = Preparation()
    try:
        yield
    finally:
        config.pop(KEY, None)
