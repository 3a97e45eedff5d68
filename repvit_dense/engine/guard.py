"""Stop a run cleanly: on a signal with a checkpoint to resume from, on a non-finite loss with an explanation."""

import math
import os
import signal

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint


class TrainingStopped(RuntimeError):
    """The early end of a training; `exit_code` is the exit code of the command."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@HOOKS.register_module()
class DenseNonFiniteLossHook(Hook):
    """A hook that stops at the first loss that is NaN or infinite, before a checkpoint contains its effect."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Raise TrainingStopped if a loss of this iteration is not finite."""
        losses = {name: value for name, value in (outputs or {}).items() if 'loss' in name}
        if not losses:
            return
        values = torch.stack([torch.as_tensor(value, dtype=torch.float32).mean() for value in losses.values()])
        values = values.tolist()  # one synchronisation with the GPU for all losses
        bad = [f'{name} = {value}' for name, value in zip(losses, values, strict=True) if not math.isfinite(value)]
        if bad:
            last = find_latest_checkpoint(runner.work_dir)
            raise TrainingStopped(
                f'iteration {runner.iter + 1}: the loss is not finite ({", ".join(bad)}). '
                f'Last checkpoint before it: {last or "none yet"}. '
                'Lower the learning rate, lengthen the warm-up, or clip gradients (optim_wrapper.clip_grad).',
                exit_code=1,
            )


@HOOKS.register_module()
class DenseSaveOnSignalHook(Hook):
    """A hook that handles SIGINT and SIGTERM: finish the iteration, save a checkpoint for `--resume`, and stop.

    A second signal of the same kind stops at once, without a checkpoint. An unfinished validation is run again when
    training is resumed. If one of several processes receives the signal, all of them stop after the same iteration;
    they finish a validation first.
    """

    priority = 'LOWEST'

    def __init__(self):
        self._received = None
        self._previous = {}  # handlers by signal

    def before_train(self, runner) -> None:
        """Install the handlers; run the validation that a stopped training still lacks."""
        self._received = None
        self._pid = os.getpid()
        self._previous = {sig: signal.signal(sig, self._on_signal) for sig in (signal.SIGINT, signal.SIGTERM)}
        if not runner.iter:
            runner.set_checkpoints_aside()
        elif runner.train_loop.validation_due():
            runner.val_loop.run()

    def _on_signal(self, number, frame) -> None:
        if os.getpid() != self._pid:  # a forked worker without handlers of its own yet: its parent decides
            if number == signal.SIGTERM:
                os._exit(0)
            return
        self._received = signal.Signals(number)
        # The default handler, not the previous one: background jobs of a script ignore SIGINT.
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        # If the same signal ends a worker, torch would raise an error from its SIGCHLD handler, in this iteration or as
        # late as at the exit of the process. The handler is not restored; torch also polls its workers.
        if hasattr(signal, 'SIGCHLD'):  # not on Windows
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Save and stop if any process received a signal."""
        if get_world_size() > 1:
            number = torch.tensor(int(self._received or 0))
            all_reduce(number, 'max')
            self._received = signal.Signals(number.item()) if number else None
        if self._received:
            self._save_and_stop(runner, iterations=runner.iter + 1)

    def before_val_epoch(self, runner) -> None:
        """Record the validation as done before it starts, because the best checkpoint is saved when it ends."""
        runner.message_hub.update_info('iter_validated', runner.iter)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Save and stop; of several processes, each may have another number of batches, so they finish first."""
        if self._received and get_world_size() == 1:
            runner.message_hub.update_info('iter_validated', 0)
            self._save_and_stop(runner, iterations=runner.iter)

    def after_data_error(self, runner) -> None:
        """Save and stop between iterations: a signal to all processes of a job ends data-loading workers as well."""
        if self._received and get_world_size() == 1:
            self._save_and_stop(runner, iterations=runner.iter)

    def on_exit(self, runner) -> None:
        """Restore the previous handlers."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler or signal.SIG_DFL)

    def _save_and_stop(self, runner, iterations: int) -> None:
        path = runner.save_resumable(f'interrupted_iter_{iterations}.pth', iterations)
        barrier()  # a launcher ends the other processes as soon as the first has stopped
        raise TrainingStopped(
            f'stopped by {self._received.name} after iteration {iterations}; saved {path}. '
            'Add --resume to the command to continue from there.',
            exit_code=128 + self._received,
        )
