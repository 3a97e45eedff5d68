"""Explain errors that end a training for a reason outside the program: data, memory, disk."""

import errno
import re
from pathlib import Path

from repvit_dense.engine.samples import SampleError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
DENIED = (errno.EACCES, errno.EPERM, errno.EIO)
DEAD_WORKER = re.compile(r'DataLoader worker .*(exited|killed)')


def is_full(error: Exception) -> bool:
    """Return whether an error says that nothing can be written: the disk is full, read-only or broken."""
    return isinstance(error, OSError) and error.errno in FULL + DENIED


def explain(error: Exception, runner, worker_error: str | None = None) -> str | None:
    """Return the reason of an error for a message, None if it is not known or the error has a message.

    Args:
        error: an error that ended the run.
        runner: the runner.
        worker_error: torch's description of the first data-loading worker that died.
    """
    if isinstance(error, SampleError):
        return error.text
    if worker_error or (isinstance(error, RuntimeError) and DEAD_WORKER.match(str(error))):
        death = ' '.join((worker_error or str(error)).split()).partition('. ')[0].rstrip('.')
        return (
            f'{death}. A worker ends like this if memory or shared memory (/dev/shm) is exhausted; use fewer: '
            '--workers 1'
        )
    if isinstance(error, OSError) and error.strerror and (error.filename or is_full(error)):
        return _explain_file(error, Path(runner.work_dir))
    return None


def _explain_file(error: OSError, work_dir: Path) -> str:
    path = error.filename or f'a file in {work_dir}'
    if not work_dir.is_dir():
        return f'{path}: {error.strerror}; the work dir was removed during the training'
    if error.errno in FULL or (error.errno in DENIED and str(work_dir) in str(path)):
        return f'{path}: cannot be written ({error.strerror})'
    return f'{path}: {error.strerror}'
