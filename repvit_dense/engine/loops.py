"""Loops that mmengine lacks."""

from itertools import islice

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop


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
