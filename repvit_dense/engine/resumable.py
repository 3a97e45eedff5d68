"""The files in a work dir that `--resume` continues from, for any Runner of mmengine."""

from pathlib import Path

from mmengine.dist import master_only

from repvit_dense.checkpoints.work_dir import SAFETENSORS, last_checkpoint
from repvit_dense.errors import InputError
from repvit_dense.files import replacing


def save_resumable(runner, filename: str, iterations: int) -> Path:
    """Save a checkpoint that `--resume` continues from, within an epoch too; return its path.

    Args:
        runner: the runner of a training.
        filename: name of the file in the work dir.
        iterations: number of iterations that are finished.
    """
    runner.save_checkpoint(runner.work_dir, filename, meta={'epoch': runner.epoch, 'iter': iterations})
    path = Path(runner.work_dir, filename)
    set_last_checkpoint(runner, path)
    return path


@master_only
def set_last_checkpoint(runner, path: str | Path) -> None:
    """Record the checkpoint that `--resume` continues from."""
    with replacing(Path(runner.work_dir, 'last_checkpoint'), reuse=True) as partial:
        partial.write_text(str(path))


@master_only
def set_checkpoints_aside(runner) -> None:
    """Let nobody take the checkpoints of a previous training in this work dir for those of the new one.

    `last_checkpoint` and `model.safetensors` are removed, and `best_NAME.pth` becomes `previous_best_NAME.pth`.
    """
    for name in ('last_checkpoint', SAFETENSORS):
        Path(runner.work_dir, name).unlink(missing_ok=True)
    for path in Path(runner.work_dir).glob('best_*.pth'):
        runner.logger.info(f'{path}: from a previous training, renamed to previous_{path.name}')
        path.replace(path.with_name(f'previous_{path.name}'))


def describe_last(runner) -> str:
    """Return a sentence for a message: the last undamaged checkpoint of the run and how to continue from it."""
    try:
        last = last_checkpoint(runner.work_dir)
    except (InputError, OSError):
        last = None
    if last is None:
        return 'No checkpoint was saved before.'
    return f'Last checkpoint: {last}; add --resume to the command to continue from there.'
