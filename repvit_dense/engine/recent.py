"""Checkpoints as often as one is ready to lose work, besides those of the recipe."""

import time
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class DenseRecentCheckpointHook(Hook):
    """Save `recent_iter_N.pth` for `--resume` in the midst of an epoch; the last two are kept until training ends.

    Args:
        iterations: save every so many.
        minutes: save when so many have passed since the last time; one of the two.
    """

    priority = 'LOWEST'  # when all else of the iteration is done

    def __init__(self, iterations: int | None = None, minutes: int | None = None):
        self.iterations, self.minutes = iterations, minutes

    def before_train(self, runner) -> None:
        self._saved_at = time.monotonic()

    @master_only
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self._due(runner.iter + 1) and runner.optim_wrapper.should_update():  # no gradients are being accumulated
            runner.save_resumable(f'recent_iter_{runner.iter + 1}.pth', runner.iter + 1)
            self._saved_at = time.monotonic()
            _remove(runner, keep=2)  # after a new one is there

    @master_only
    def after_train(self, runner) -> None:
        _remove(runner, keep=0)

    def _due(self, iterations: int) -> bool:
        if self.iterations:
            return iterations % self.iterations == 0
        return time.monotonic() - self._saved_at >= 60 * self.minutes


def _remove(runner, keep: int) -> None:
    files = sorted(Path(runner.work_dir).glob('recent_iter_*.pth'), key=lambda path: path.stat().st_mtime_ns)
    for path in files[: len(files) - keep]:
        path.unlink()
