"""A hook that writes a run to the screen: header, progress, a line per validation, results, and the next commands."""

import logging
import os
import sys
import time
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tqdm import tqdm

from repvit_dense.compat import quiet
from repvit_dense.engine import console
from repvit_dense.screen import say

# Without a terminal, a line of progress appears after so many seconds if the share is reached, at the latest after the
# second number of seconds.
SECONDS, SHARE, LATEST = 30, 0.05, 600


@HOOKS.register_module()
class DenseProgressHook(Hook):
    """A hook that shows a bar if stderr is a terminal, else a line of progress now and then.

    Header, validations and the next commands are log records too, so the log file has them. Without a quiet command
    (`--verbose`, or mmengine's own command), all other log messages appear above the bar, except the long line per
    logging interval; if there is no terminal, that line stands for the progress.
    """

    priority = 'VERY_LOW'  # in a config after the CheckpointHook, which decides whether a checkpoint is the best

    def __init__(self):
        self._bars = {}
        self._best = None
        self._metrics = {}

    def before_run(self, runner) -> None:
        """Show the header; redirect log messages above the bar."""
        self._bars, self._metrics = {}, {}
        self._best = runner.message_hub.runtime_info.get('best_ckpt')
        self._trains = console.is_training(runner)
        terminal = hasattr(sys.stderr, 'isatty') and sys.stderr.isatty() and os.environ.get('TERM') != 'dumb'
        self._bar_class = tqdm if terminal else Lines if quiet.is_active() else None
        if not is_main_process():
            self._bar_class = None
        elif terminal and not quiet.is_active():
            for handler in runner.logger.handlers:
                stream = getattr(handler, 'stream', None)
                if stream in (sys.stdout, sys.stderr) and stream.isatty():
                    handler.setStream(_AboveBar())
                    handler.addFilter(_is_not_interval_line)
        _show(runner, console.header(runner))

    def before_train(self, runner) -> None:
        self._open('train', runner.max_iters, runner.iter)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if 'train' in self._bars:
            # Only the sum: its parts, which the log has, would leave no room for the bar.
            loss = {'loss': f'{outputs["loss"].item():.3f}'} if 'loss' in (outputs or {}) else {}
            by_epoch = runner.train_loop.max_epochs > 1  # training by iterations is one epoch
            epoch = {'epoch': runner.epoch + 1} if by_epoch else {}
            self._step('train', {**epoch, **loss})

    def after_train(self, runner) -> None:
        self._close('train')

    def before_val_epoch(self, runner) -> None:
        self._open('val', len(runner.val_dataloader))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._step('val')

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Show the scores of a validation."""
        self._close('val')
        self._metrics = dict(metrics or {})
        best = runner.message_hub.runtime_info.get('best_ckpt')
        if self._trains:
            _show(runner, console.validation_line(runner, self._metrics, best != self._best))
        self._best = best

    def before_test_epoch(self, runner) -> None:
        self._open('test', len(runner.test_dataloader))

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._step('test')

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._close('test')
        self._metrics = dict(metrics or {})

    def after_run(self, runner) -> None:
        """Print the results to stdout, and show the next commands after a training."""
        split = next((hook.split for hook in runner.hooks if type(hook).__name__ == 'DenseAnalysisHook'), '')
        results = console.results(runner, self._metrics, brief=self._trains, split=split)
        if results and is_main_process():
            if self._trains:
                _show(runner, 'Scores of the last validation:')
            print(results, flush=True)
        if self._trains:
            _show(runner, console.next_commands(runner))

    def on_exit(self, runner) -> None:
        """Close all bars, the lowest first."""
        for name in reversed(list(self._bars)):
            self._close(name)

    def _open(self, name, total, initial=0) -> None:
        if self._bar_class is not None:
            # The training bar stays on the screen; the bars of validations appear below it and disappear.
            self._bars[name] = self._bar_class(
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


class Lines:
    """A line of progress now and then, with the methods of a bar."""

    def __init__(self, desc: str, total: int, initial: int = 0, **_: Any):
        self.desc, self.total, self.initial, self.n, self.values = desc, total, initial, initial, ''
        self.start = self.shown_at = time.monotonic()
        self.shown = initial

    def set_postfix(self, values: dict[str, Any], refresh: bool = True) -> None:
        """Set the values at the end of the line."""
        self.values = ''.join(f', {name} {value}' for name, value in values.items())

    def update(self) -> None:
        """Count one step, and write the line if it is time."""
        self.n += 1
        now = time.monotonic()
        due = now - self.shown_at >= SECONDS and self.n - self.shown >= SHARE * self.total
        if (due or now - self.shown_at >= LATEST) and self.n < self.total:
            self.shown, self.shown_at = self.n, now
            rate = (self.n - self.initial) / (now - self.start)
            left = tqdm.format_interval((self.total - self.n) / rate)
            position = f'{self.desc} {self.n / self.total:.0%}, {self.n}/{self.total}'
            say(f'{position}{self.values}, {rate:.2f} it/s, {left} left')

    def close(self) -> None:
        """Do nothing."""


def _show(runner, text: str) -> None:
    runner.logger.info(text, extra={'screen': True})


def _is_not_interval_line(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or record.funcName not in ('after_train_iter', 'after_val_iter')


class _AboveBar:
    """A stream that writes lines above the bars."""

    def write(self, text: str) -> None:
        if text.strip():
            tqdm.write(text.rstrip('\n'), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
