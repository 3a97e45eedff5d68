"""Stop a run cleanly: on a signal with a checkpoint to resume from, on a non-finite loss with a clear word."""

import math
import os
import signal

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint


class TrainingStopped(RuntimeError):
    """Training ended before its time; `exit_code` is what the command returns."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@HOOKS.register_module()
class DenseNonFiniteLossHook(Hook):
    """Stop at the first loss that is NaN or infinite, before anything of it is saved."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        losses = {name: value for name, value in (outputs or {}).items() if 'loss' in name}
        if not losses:
            return
        values = torch.stack([torch.as_tensor(value, dtype=torch.float32).mean() for value in losses.values()])
        values = values.tolist()  # one synchronisation for all of them
        bad = [f'{name} = {value}' for name, value in zip(losses, values, strict=True) if not math.isfinite(value)]
        if bad:
            last = find_latest_checkpoint(runner.work_dir)
            raise TrainingStopped(
                f'iteration {runner.iter + 1}: the loss is not finite ({", ".join(bad)}). '
                f'Last checkpoint before it: {last or "none yet"}. '
                'A lower learning rate, a longer warm-up or gradient clipping (optim_wrapper.clip_grad) usually helps.',
                exit_code=1,
            )


@HOOKS.register_module()
class DenseSaveOnSignalHook(Hook):
    """On SIGINT or SIGTERM finish the iteration, save a checkpoint that `--resume` picks up, and stop.

    A second signal of the same kind stops at once, without a checkpoint. A validation that was not finished, for
    whatever reason, is run when training is resumed. Of several processes it is enough that one gets the signal: all
    stop after the same iteration, a validation is finished first.
    """

    priority = 'LOWEST'

    def __init__(self):
        self._received = None
        self._previous = {}  # handlers by signal

    def before_train(self, runner) -> None:
        self._received = None
        self._pid = os.getpid()
        self._previous = {sig: signal.signal(sig, self._on_signal) for sig in (signal.SIGINT, signal.SIGTERM)}
        if not runner.iter:
            runner.set_last_checkpoint(None)  # not that of a training which was in this folder before
        elif runner.train_loop.validation_due():
            runner.val_loop.run()

    def _on_signal(self, number, frame) -> None:
        if os.getpid() != self._pid:  # a forked process, before torch gives it handlers of its own: its parent decides
            if number == signal.SIGTERM:
                os._exit(0)
            return
        self._received = signal.Signals(number)
        # Not the previous handler: a job started in the background of a script ignores SIGINT.
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        # Workers that the same signal has ended must not break the iteration: torch raises from its SIGCHLD handler.
        if hasattr(signal, 'SIGCHLD'):  # not on Windows
            self._previous.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if get_world_size() > 1:
            number = torch.tensor(int(self._received or 0))
            all_reduce(number, 'max')
            self._received = signal.Signals(number.item()) if number else None
        if self._received:
            self._save_and_stop(runner, iterations=runner.iter + 1)

    def before_val_epoch(self, runner) -> None:
        # Now, for what is saved when it has ended: the best checkpoint, and with it the last one again.
        runner.message_hub.update_info('iter_validated', runner.iter)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self._received and get_world_size() == 1:  # several processes may not have equally many batches to meet at
            runner.message_hub.update_info('iter_validated', 0)
            self._save_and_stop(runner, iterations=runner.iter)

    def after_data_error(self, runner) -> None:
        """Between iterations; a signal to all processes of a job ends the data-loading workers as well."""
        if self._received and get_world_size() == 1:
            self._save_and_stop(runner, iterations=runner.iter)

    def on_exit(self, runner) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler or signal.SIG_DFL)

    def _save_and_stop(self, runner, iterations: int) -> None:
        path = runner.save_resumable(f'interrupted_iter_{iterations}.pth', iterations)
        barrier()  # a launcher ends the other processes when the first has stopped
        raise TrainingStopped(
            f'stopped by {self._received.name} after iteration {iterations}; saved {path}. '
            'The same command with --resume goes on from there.',
            exit_code=128 + self._received,
        )
