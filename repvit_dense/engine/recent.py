"""Frequent checkpoints for resuming, in addition to those of the recipe."""

import time
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from repvit_dense.engine.resumable import save_resumable


@HOOKS.register_module()
class DenseRecentCheckpointHook(Hook):
    """A hook that saves `recent_iter_N.pth` for `--resume`; the last two are kept until training ends.

    Give either `iterations` or `minutes`.

    Args:
        iterations: iterations between two checkpoints.
        minutes: minimum time between two checkpoints.
    """

    priority = 'LOWEST'  # after all other hooks of the iteration

    def __init__(self, iterations: int | None = None, minutes: int | None = None):
        self.iterations, self.minutes = iterations, minutes

    def before_train(self, runner) -> None:
        """Start the clock."""
        self._saved_at = time.monotonic()

    @master_only
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Save a checkpoint if one is due and no gradients are being accumulated."""
        if self._due(runner.iter + 1) and runner.optim_wrapper.should_update():
            save_resumable(runner, f'recent_iter_{runner.iter + 1}.pth', runner.iter + 1)
            self._saved_at = time.monotonic()
            _remove(runner, keep=2)  # only after the new one is complete

    @master_only
    def after_train(self, runner) -> None:
        """Remove the checkpoints, which `epoch_N.pth` or `iter_N.pth` replace."""
        _remove(runner, keep=0)

    def _due(self, iterations: int) -> bool:
        if self.iterations:
            return iterations % self.iterations == 0
        return self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes


def _remove(runner, keep: int) -> None:
    files = sorted(Path(runner.work_dir).glob('recent_iter_*.pth'), key=lambda path: path.stat().st_mtime_ns)
    for path in files[: len(files) - keep]:
        path.unlink(missing_ok=True)
