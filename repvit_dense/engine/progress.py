"""A progress bar with remaining time and loss in a terminal; plain log lines everywhere else."""

import logging
import sys

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tqdm import tqdm


@HOOKS.register_module()
class DenseProgressHook(Hook):
    """A hook that draws a bar for training, validation and testing if stderr is a terminal.

    Log messages are written above the bar. The long line per logging interval is written to the log file only.
    """

    priority = 'BELOW_NORMAL'  # after the runtime information is updated

    def __init__(self):
        self._bars = {}

    def before_run(self, runner) -> None:
        """Redirect log messages above the bar."""
        self._enabled = is_main_process() and sys.stderr.isatty()
        if not self._enabled:
            return
        for handler in runner.logger.handlers:
            stream = getattr(handler, 'stream', None)
            if stream in (sys.stdout, sys.stderr) and stream.isatty():
                handler.setStream(_AboveBar())
                handler.addFilter(_is_not_interval_line)

    def before_train(self, runner) -> None:
        self._open('train', runner.max_iters, runner.iter)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if 'train' in self._bars:
            # Only the sum: its parts, which the log has, would leave no room for the bar.
            loss = {'loss': f'{outputs["loss"].item():.3f}'} if 'loss' in (outputs or {}) else {}
            epoch = (
                {'epoch': runner.epoch + 1} if runner.train_loop.max_epochs > 1 else {}
            )  # training by iterations is one epoch
            self._step('train', {**epoch, **loss})

    def after_train(self, runner) -> None:
        self._close('train')

    def before_val_epoch(self, runner) -> None:
        self._open('val', len(runner.val_dataloader))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._step('val')

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._close('val')

    def before_test_epoch(self, runner) -> None:
        self._open('test', len(runner.test_dataloader))

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._step('test')

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._close('test')

    def on_exit(self, runner) -> None:
        """Close all bars."""
        for name in list(self._bars):
            self._close(name)

    def _open(self, name, total, initial=0) -> None:
        if self._enabled:
            # The training bar stays on the screen; the bars of validations appear below it and disappear.
            self._bars[name] = tqdm(
                desc=name, total=total, initial=initial, leave=name != 'val', dynamic_ncols=True, unit='it'
            )

    def _step(self, name, values=None) -> None:
        if name in self._bars:
            if values:
                self._bars[name].set_postfix(values, refresh=False)
            self._bars[name].update()

    def _close(self, name) -> None:
        if name in self._bars:
            self._bars.pop(name).close()


def _is_not_interval_line(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or record.funcName not in ('after_train_iter', 'after_val_iter')


class _AboveBar:
    """A stream that writes lines above the bars."""

    def write(self, text: str) -> None:
        if text.strip():
            tqdm.write(text.rstrip('\n'), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
