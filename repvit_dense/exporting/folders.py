"""The folders of artifacts: refuse places that cannot be written, keep foreign files, replace a folder as a whole."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from repvit_dense.artifact import manifest
from repvit_dense.artifact.targets import TARGETS
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, is_folder, read_bytes

# The set holds the files that an export writes, and those that file managers leave behind.
OWN_FILES = {manifest.NAME, 'model.bin', '.DS_Store', 'Thumbs.db', *(row.model for row in TARGETS.values())}
FULL = 2**20  # bytes; with less free space a failure to write is put down to a full disk


def check_place(out: Path) -> None:
    """Refuse an output folder that cannot be created or written; nothing is left in it.

    Raises:
        InputError: names the path and the reason.
    """
    try:
        existing = next(
            path for path in (out.absolute(), *out.absolute().parents) if path.exists() or path.is_symlink()
        )
        if not is_folder(existing):
            raise InputError(
                f'{existing}: is not a folder, so nothing can be written to {out}; name another: --out DIR'
            )
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise InputError(f'{out}: cannot be written ({reason}); name another folder: --out DIR') from error


def check_folder(folder: Path) -> Path:
    """Return the folder if an export may create or replace it.

    Raises:
        InputError: it is something else than an artifact, or contains other files too.
    """
    if not (folder.exists() or folder.is_symlink()):
        return folder
    if not is_folder(folder) or _description(folder) is None:
        raise InputError(f'{folder}: exists and is not an artifact; name another folder: --out DIR')
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in OWN_FILES)
    if foreign:
        names = ', '.join([*foreign[:3], *(['...'] if foreign[3:] else [])])
        raise InputError(
            f'{folder}: would be replaced, but contains {names}, which no export wrote; move that, or name another '
            'folder: --out DIR'
        )
    return folder


def tied_folder(folder: Path) -> Path:
    """Return the folder for an artifact that could not be compared: a compared one is not replaced by it."""
    description = _description(folder)
    is_compared = description is not None and 'tied' not in (description.get('certificate') or {})
    return folder.with_name(f'{folder.name}-tied') if is_compared else folder


def _description(folder: Path) -> dict | None:
    """Return the content of `manifest.json`, as far as it is one of an artifact, of any version."""
    path = folder / manifest.NAME
    try:
        content = json.loads(read_bytes(path)) if is_file(path) else None
    except (InputError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and {'task', 'target'} <= content.keys() else None


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, which is removed at the end unless it was moved.

    Raises:
        InputError: something could not be written.
    """
    partial, is_new = folder.with_name(f'.{folder.name}.partial'), not folder.parent.exists()
    try:
        remove(partial)  # left by a killed process
        partial.mkdir(parents=True)
        yield partial
    except Exception as error:
        full = [path for path in (folder.parent, Path(tempfile.gettempdir())) if _is_full(path)]
        if not full and not isinstance(error, OSError):
            raise
        reason = f'the disk of {full[0]} is full' if full else getattr(error, 'strerror', None) or error
        raise InputError(f'{folder}: cannot be written ({reason})') from error
    finally:
        remove(partial)
        if is_new:
            with suppress(OSError):
                folder.parent.rmdir()  # if it is empty


def _is_full(path: Path) -> bool:
    return is_folder(path) and shutil.disk_usage(path).free < FULL


def move(partial: Path, folder: Path) -> None:
    """Replace `folder` by `partial`."""
    old = folder.with_name(f'.{folder.name}.old')
    remove(old)
    if folder.exists() or folder.is_symlink():
        folder.rename(old)
    partial.rename(folder)
    remove(old)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if there is one."""
    if path.is_symlink() or is_file(path):
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
