"""Find the checkpoint of a work dir to evaluate or to resume from; imports neither PyTorch nor OpenMMLab."""

import re
import sys
from pathlib import Path
from zipfile import ZipFile

from repvit_dense.errors import InputError

# Checkpoints with the state of a training, from which `--resume` can continue.
RESUMABLE = re.compile(r'((interrupted|recent)_)?(epoch|iter)_\d+\.pth')


def find_checkpoint(path: str) -> str:
    """Return the best checkpoint of a work dir, else its last one; return the name of a file or URL unchanged.

    Raises:
        InputError: a folder without checkpoints.
    """
    folder = Path(path)
    if not folder.is_dir():
        return path
    checkpoint = best_checkpoint(folder) or last_checkpoint(folder)
    if checkpoint is None:
        raise InputError(
            f'{folder}: no checkpoint in this folder; name a checkpoint file, or the work dir of a training'
        )
    return checkpoint


def best_checkpoint(work_dir: str | Path) -> str | None:
    """Return the newest `best_*.pth` of a work dir, None if there is none."""
    paths = sorted(Path(work_dir).glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    return str(paths[-1]) if paths else None


def last_checkpoint(work_dir: str | Path) -> str | None:
    """Return the checkpoint to resume from, None if the work dir has no `last_checkpoint` yet.

    It is the checkpoint that the file `last_checkpoint` names. If that one is damaged or missing, it is the newest
    undamaged `epoch_*.pth`, `iter_*.pth`, `interrupted_*.pth` or `recent_*.pth`; a note goes to stderr.

    Raises:
        InputError: no undamaged checkpoint is left.
    """
    work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    if not pointer.is_file():
        return None
    named = Path(pointer.read_text().strip())
    others = [path for path in work_dir.iterdir() if RESUMABLE.fullmatch(path.name)]
    others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    # The work dir may have been moved or copied, so its own file of that name precedes the recorded path.
    candidates = dict.fromkeys(path for path in (work_dir / named.name, named, *others) if path.is_file())
    for path in candidates:
        if is_undamaged(path):
            return str(path)
        print(f'{path}: damaged, trying the checkpoint before it', file=sys.stderr)
    state = (
        'which is damaged, and so is every other' if candidates else 'which is not there, and no other checkpoint is'
    )
    raise InputError(f'{pointer} names {named}, {state}. Name a checkpoint: --resume CHECKPOINT')


def is_undamaged(path: Path) -> bool:
    """Return whether every entry of a checkpoint (a zip file) matches its checksum, which torch does not verify."""
    try:
        with ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # zipfile may raise anything on arbitrary bytes
        return False
