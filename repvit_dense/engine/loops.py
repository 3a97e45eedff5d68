"""Loops that mmengine lacks."""

from itertools import islice

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """Train by epochs, resuming in the middle of one: the batches already trained on are passed over."""

    def run_epoch(self) -> None:
        done = self._iter - self._epoch * len(self.dataloader)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, data_batch in self._batches(done):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _batches(self, done: int):
        batches = islice(enumerate(self.dataloader), done, None)
        while True:
            try:
                batch = next(batches, None)
            except RuntimeError:  # a worker is gone; a signal sent to all processes of the job does that
                self.runner.call_hook('after_data_error')
                raise
            if batch is None:
                return
            yield batch


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """Train by iterations; a signal that also ends the data-loading workers still leaves a checkpoint.

    mmengine's loop itself passes over the samples already trained on, cheaply with an `InfiniteSampler`.
    """

    def run(self):
        self.dataloader_iterator = _Watched(self.dataloader_iterator, self.runner)
        return super().run()

    def validates_after(self, iterations: int) -> bool:
        """Whether a validation follows when so many iterations are done."""
        due = iterations % self.val_interval == 0 or iterations == self.max_iters
        return self.runner.val_loop is not None and iterations >= self.val_begin and due


class _Watched:
    """The batches of an iterator; an error while one is loaded is announced to the hooks first."""

    def __init__(self, batches, runner):
        self._batches, self._runner = batches, runner
        self.skip_iter = batches.skip_iter

    def __next__(self):
        try:
            return next(self._batches)
        except RuntimeError:
            self._runner.call_hook('after_data_error')
            raise
