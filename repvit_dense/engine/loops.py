"""Loops that mmengine lacks: they go on where a training was interrupted, within an epoch too, and draw as it did."""

from mmengine.dist import get_rank
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from repvit_dense.engine.seeding import resumable, seed_all, seed_samples


class _Resumable:
    """What both loops have in common. Batches already trained on are passed over by their indices, without loading."""

    def __init__(self, runner, dataloader: dict, *args, **kwargs):
        super().__init__(runner, resumable(dataloader), *args, **kwargs)
        seed_samples(self.dataloader)

    def run_iter(self, *args) -> None:
        seed_all(self.runner.seed, self._iter, get_rank())
        super().run_iter(*args)

    def validation_due(self) -> bool:
        """Whether a validation belongs to this point between two iterations and has not been finished yet."""
        if self.runner.val_loop is None or self.runner.message_hub.runtime_info.get('iter_validated') == self._iter:
            return False
        self._decide_current_val_interval()
        done, last = self._progress()
        return done >= max(self.val_begin, 1) and (done % self.val_interval == 0 or done == last)


@LOOPS.register_module()
class DenseEpochLoop(_Resumable, EpochBasedTrainLoop):
    """Train by epochs, resuming in the middle of one."""

    def run_epoch(self) -> None:
        done = self._iter - self._epoch * len(self.dataloader)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, data_batch in self._batches(done):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _batches(self, done: int):
        self.dataloader.batch_sampler.start = done
        batches = enumerate(self.dataloader, done)
        while True:
            try:
                batch = next(batches, None)
            except RuntimeError:  # a worker is gone; a signal sent to all processes of the job does that
                self.runner.call_hook('after_data_error')
                raise
            if batch is None:
                return
            yield batch

    def _progress(self) -> tuple[int, int]:
        """Whole epochs done, 0 within one; and how many there are."""
        return self._epoch * (self._iter == self._epoch * len(self.dataloader)), self._max_epochs


@LOOPS.register_module()
class DenseIterLoop(_Resumable, IterBasedTrainLoop):
    """Train by iterations; a signal that also ends the data-loading workers still leaves a checkpoint."""

    def run(self):
        self.dataloader_iterator = _Watched(self.dataloader_iterator, self.runner)
        return super().run()

    def _progress(self) -> tuple[int, int]:
        return self._iter, self._max_iters


class _Watched:
    """The batches of mmengine's endless iterator; an error while one is loaded is announced to the hooks first."""

    def __init__(self, batches, runner):
        self._batches, self._runner = batches, runner

    def skip_iter(self, done: int) -> None:
        """Called before the first batch is loaded."""
        batch_sampler = self._runner.train_dataloader.batch_sampler
        if not hasattr(batch_sampler.sampler, 'skip'):  # not endless: begun anew, each time in another order
            self._batches._epoch, done = divmod(done, len(batch_sampler))
            batch_sampler.sampler.set_epoch(self._batches._epoch)
        batch_sampler.start = done

    def __next__(self):
        try:
            return next(self._batches)
        except RuntimeError:
            self._runner.call_hook('after_data_error')
            raise
