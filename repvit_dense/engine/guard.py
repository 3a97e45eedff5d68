"""Stop a run cleanly: on a signal with a checkpoint to resume from, on a non-finite loss with a clear word."""

import os
import signal
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint


class TrainingStopped(RuntimeError):
    """Training ended before its time; `exit_code` is what the command returns."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop at the first loss that is NaN or infinite, before anything of it is saved."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        losses = {name: value for name, value in (outputs or {}).items() if 'loss' in name}
        if not losses:
            return
        values = torch.stack([torch.as_tensor(value, dtype=torch.float32).mean() for value in losses.values()])
        finite = torch.isfinite(values).tolist()  # one synchronisation for all of them
        if all(finite):
            return
        bad = [f'{name} = {float(v)}' for (name, v), ok in zip(losses.items(), finite, strict=True) if not ok]
        last = find_latest_checkpoint(runner.work_dir)
        raise TrainingStopped(
            f'iteration {runner.iter + 1}: the loss is not finite ({", ".join(bad)}). '
            f'Last good checkpoint: {last or "none yet"}. '
            'A lower learning rate, a longer warm-up or gradient clipping (optim_wrapper.clip_grad) usually helps.',
            exit_code=1,
        )


@HOOKS.register_module()
class SaveOnSignalHook(Hook):
    """On SIGINT or SIGTERM finish the iteration, save a checkpoint that `--resume` picks up, and stop.

    A second signal of the same kind stops at once, without a checkpoint.
    """

    priority = 'LOWEST'

    def before_train(self, runner) -> None:
        self._received = None
        self._pid = os.getpid()
        self._previous = {sig: signal.signal(sig, self._on_signal) for sig in (signal.SIGINT, signal.SIGTERM)}

    def _on_signal(self, number, frame) -> None:
        if os.getpid() != self._pid:  # a forked data-loading worker: its parent decides when to stop, and ends it
            if number == signal.SIGTERM:
                os._exit(0)
            return
        self._received = signal.Signals(number)
        signal.signal(number, self._previous[number])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self._received:
            self._save_and_stop(runner, iterations=runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if getattr(self, '_received', None):
            self._save_and_stop(runner, iterations=runner.iter)

    def after_train(self, runner) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _save_and_stop(self, runner, iterations: int) -> None:
        name = f'interrupted_iter_{iterations}.pth'
        runner.save_checkpoint(runner.work_dir, name, meta={'epoch': runner.epoch, 'iter': iterations})
        path = Path(runner.work_dir, name)
        if is_main_process():
            Path(runner.work_dir, 'last_checkpoint').write_text(str(path))
        self.after_train(runner)
        raise TrainingStopped(
            f'stopped by {self._received.name} after iteration {iterations}; saved {path}. '
            'The same command with --resume goes on from there.',
            exit_code=128 + self._received,
        )
