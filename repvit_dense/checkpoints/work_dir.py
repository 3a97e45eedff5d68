"""Find the checkpoint of a work dir to evaluate or to resume from; imports neither PyTorch nor OpenMMLab."""

import os
import re
from pathlib import Path

from repvit_dense.checkpoints.archive import Archive
from repvit_dense.errors import InputError, shorten
from repvit_dense.files import is_file, is_folder, open_regular
from repvit_dense.screen import say

SAFETENSORS = 'model.safetensors'  # the best weights of a finished training, also the name on the hub
LONGEST_POINTER = 4096  # bytes of the path in `last_checkpoint`

# Checkpoints with the state of a training, from which `--resume` can continue.
RESUMABLE = re.compile(r'((interrupted|recent)_)?(epoch|iter)_\d+\.pth')


def find_checkpoint(path: str) -> str:
    """Return the best checkpoint of a work dir, else its last one; return the name of a file or URL unchanged.

    Raises:
        InputError: a folder without checkpoints.
    """
    folder = Path(path)
    if not is_folder(folder):
        return path
    checkpoint = best_checkpoint(folder) or last_checkpoint(folder)
    if checkpoint is None:
        raise InputError(
            f'{folder}: no checkpoint in this folder; name a checkpoint file, or the work dir of a training'
        )
    return checkpoint


def best_checkpoint(work_dir: str | Path) -> str | None:
    """Return the newest `best_*.pth` of a work dir, None if there is none; a note on stderr names the others."""
    paths = _checkpoints(work_dir, re.compile(r'best_.*\.pth', re.DOTALL))
    if len(paths) > 1:
        others = ', '.join(path.name for path in paths[1:4])
        say(f'{paths[0]}: taken as the newest best checkpoint, there is {others} too')
    return str(paths[0]) if paths else None


def last_checkpoint(work_dir: str | Path) -> str | None:
    """Return the checkpoint to resume from, None if the work dir has no `last_checkpoint` yet.

    It is the checkpoint that the file `last_checkpoint` names. If that one is damaged or missing, it is the newest
    undamaged `epoch_*.pth`, `iter_*.pth`, `interrupted_*.pth` or `recent_*.pth`; a note goes to stderr.

    Raises:
        InputError: no undamaged checkpoint is left, or `last_checkpoint` is no file.
    """
    work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    if not os.path.lexists(pointer):
        return None
    with open_regular(pointer) as file:
        named = Path(file.read(LONGEST_POINTER).decode(errors='replace').strip())
    # The work dir may have been moved or copied, so its own file of that name precedes the recorded path.
    recorded = [path for path in (work_dir / named.name, named) if is_file(path)]
    candidates = dict.fromkeys([*recorded, *_checkpoints(work_dir, RESUMABLE)])
    if not recorded:
        say(f'{pointer} names {shorten(named) or "nothing"}, which is not there')
    for path in candidates:
        if is_undamaged(path):
            return str(path)
        say(f'{path}: damaged, trying the checkpoint before it')
    state = (
        'which is damaged, and so is every other' if candidates else 'which is not there, and no other checkpoint is'
    )
    raise InputError(f'{pointer} names {named}, {state}. Name a checkpoint: --resume CHECKPOINT')


def _checkpoints(work_dir: str | Path, name: re.Pattern) -> list[Path]:
    """Return the files of a folder whose names match, the newest first; links that lead nowhere are left out."""
    try:
        paths = sorted(path for path in Path(work_dir).iterdir() if name.fullmatch(path.name))
        return sorted(filter(is_file, paths), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    except OSError as error:
        raise InputError(f'{work_dir}: cannot be read ({error.strerror}); name a checkpoint file') from error


def is_undamaged(path: Path) -> bool:
    """Return whether every record of a checkpoint (a zip file) matches its checksum, which torch does not verify.

    One without checksums, see `Archive.has_checksums`, counts as undamaged if it is complete.
    """
    try:
        with open_regular(path) as file:
            Archive(file).check_rest()
            return True
    except Exception:  # zipfile may raise anything on arbitrary bytes
        return False
