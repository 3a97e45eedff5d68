"""Stop a run cleanly: on a signal or an error with a checkpoint to resume from, on a non-finite loss with a reason."""

import math
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint
from torch.utils.data._utils import signal_handling

from repvit_dense.engine.failures import explain, is_full
from repvit_dense.engine.resumable import describe_last, save_resumable, set_checkpoints_aside
from repvit_dense.errors import InputError

# Seconds in which a second signal counts as the first: `timeout` sends one to the process and one to its group.
ECHO = 0.3


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
    """A hook that handles SIGINT, SIGTERM and SIGHUP: finish the iteration, save a checkpoint for `--resume`, and stop.

    A second signal of the same kind, later than `ECHO`, stops at once, without a checkpoint. An unfinished
    validation is run again when training is resumed. If one of several processes receives the signal, all of them stop
    after the same iteration; they finish a validation first.

    With a `DenseRunner` it also saves a checkpoint if an error ends the training between two iterations, and stops with
    one message if the reason lies in the data, the memory or the disk.
    """

    priority = 'LOWEST'

    def __init__(self):
        self._received = None
        self._times = {}  # when each signal came first
        self._validating = self._failed = False
        self._worker_error = None  # torch's description of the first data-loading worker that died
        self._previous = {}  # handlers by signal
        self._previous_child = None

    def before_train(self, runner) -> None:
        """Install the handlers; run the validation that a stopped training still lacks."""
        self._received, self._times, self._worker_error = None, {}, None
        self._validating = self._failed = False
        self._pid = os.getpid()
        if threading.current_thread() is threading.main_thread():  # Python installs no handlers in any other
            self._install()
        if not runner.iter:
            set_checkpoints_aside(runner)
        elif getattr(runner.train_loop, 'validation_due', bool)():  # mmengine's own loops do not know
            runner.val_loop.run()

    def _install(self) -> None:
        names = ('SIGINT', 'SIGTERM', 'SIGHUP')
        stops = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has no SIGHUP
        if hasattr(signal, 'SIGHUP') and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            stops.remove(signal.SIGHUP)  # nohup: outlive the terminal
        self._previous = {number: signal.signal(number, self._on_signal) for number in stops}
        if hasattr(signal, 'SIGCHLD'):
            # torch's handler raises an error if a worker dies, anywhere in an iteration. It is installed once; after
            # that this one can replace it. The data loaders also poll their workers, every 5 seconds.
            signal_handling._set_SIGCHLD_handler()
            self._previous_child = signal.signal(signal.SIGCHLD, self._on_child)

    def _on_signal(self, number, frame) -> None:
        if os.getpid() != self._pid:  # a forked worker without handlers of its own yet: its parent decides
            if number == signal.SIGTERM:
                os._exit(0)
            return
        self._received = signal.Signals(number)
        now = time.monotonic()
        if now - self._times.setdefault(number, now) > ECHO:
            if number == signal.SIGINT:
                signal.default_int_handler(number, frame)
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._pid, number)

    def _on_child(self, number, frame) -> None:
        if os.getpid() == self._pid:
            try:
                signal_handling._error_if_any_worker_fails()
            except RuntimeError as error:
                self._worker_error = self._worker_error or str(error)

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
        self._validating = True

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Save and stop; of several processes, each may have another number of batches, so they finish first."""
        if self._received and self._validating and get_world_size() == 1:
            self._leave_validation(runner)
            self._save_and_stop(runner, iterations=runner.iter)

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Record the end of the validation."""
        self._validating = False

    def _leave_validation(self, runner) -> None:
        """Give the model its own weights back in place of the averaged ones; the validation is repeated later."""
        runner.message_hub.update_info('iter_validated', 0)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)
        self._validating = False

    def on_error(self, runner, error: Exception) -> None:
        """Save a checkpoint if the training is between two iterations; raise TrainingStopped if the reason is known."""
        iterations = getattr(runner._train_loop, 'iter', None)  # None outside a training
        if isinstance(error, TrainingStopped) or iterations is None:
            return
        self._failed = True
        if multiprocessing.active_children() and not self._received:
            time.sleep(ECHO)  # a dead worker breaks its connection first; a signal to all may reach it first
        saved = None
        if iterations and not is_full(error) and self._between_iterations(runner):
            if self._validating:
                self._leave_validation(runner)
            try:
                saved = save_resumable(runner, f'interrupted_iter_{iterations}.pth', iterations)
                runner.logger.info(f'The training ended after iteration {iterations}; saved {saved}')
            except OSError as second:
                error = second
        if self._received and not is_full(error):
            raise self._stop(runner, iterations, saved) from error
        reason = explain(error, runner, self._worker_error)
        if reason and not iterations:
            raise InputError(reason) from error
        if reason:
            raise TrainingStopped(f'{reason}. {describe_last(runner)}', exit_code=2) from error

    def _between_iterations(self, runner) -> bool:
        if getattr(runner._train_loop, 'in_iteration', True):
            return False
        averaged = any(isinstance(hook, EMAHook) for hook in runner.hooks)
        # Nothing tells whether the hooks after a validation have exchanged the weights already.
        return not (self._validating and averaged) or runner.point in ('before_val_iter', 'after_val_iter')

    def after_run(self, runner) -> None:
        """Restore the previous handlers."""
        self.on_exit(runner)

    def on_exit(self, runner) -> None:
        """Restore the previous handlers; a `DenseRunner` calls this after an error too."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler or signal.SIG_DFL)
        # torch's handler would complain about workers that have died, or die with the objects of a failed run.
        died = self._received or self._worker_error or (self._failed and multiprocessing.active_children())
        if self._previous_child and not died:
            signal.signal(signal.SIGCHLD, self._previous_child)
        self._previous_child = None

    def _save_and_stop(self, runner, iterations: int) -> None:
        path = save_resumable(runner, f'interrupted_iter_{iterations}.pth', iterations)
        barrier()  # a launcher ends the other processes as soon as the first has stopped
        self.on_exit(runner)  # mmengine's own Runner does not call it after an error
        raise self._stop(runner, iterations, path)

    def _stop(self, runner, iterations: int, saved: Path | None) -> TrainingStopped:
        end = f'. {describe_last(runner)}'
        if saved:
            again = '' if hasattr(runner.train_loop, 'in_iteration') else ', at the start of the epoch'
            end = f'; saved {saved}. Add --resume to the command to continue from there{again}.'
        return TrainingStopped(
            f'stopped by {self._received.name} after iteration {iterations}{end}', exit_code=128 + self._received
        )
