"""Training loops that resume at the exact iteration, within an epoch too, with the same random numbers."""

from itertools import islice

from mmengine.dist import get_rank
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from repvit_dense.config.building import check_last_batch
from repvit_dense.engine.seeding import resumable, seed_all, seed_samples


class _Resumable:
    """The common part of both loops. Batches that were trained on are skipped by their indices, without loading.

    `in_iteration` is True from the start of an iteration until all hooks after it have run: weights, optimizer and
    number of iterations do not fit each other then.
    """

    in_iteration = False

    def __init__(self, runner, dataloader: dict, *args, **kwargs):
        super().__init__(runner, resumable(dataloader), *args, **kwargs)
        seed_samples(self.dataloader)

    def run_iter(self, *args) -> None:
        """Run one iteration with random numbers that follow from the seed, the iteration and the rank."""
        self.in_iteration = True
        seed_all(self.runner.seed, self._iter, get_rank())
        super().run_iter(*args)
        self.in_iteration = False

    def validation_due(self) -> bool:
        """Return whether a validation is due between the previous iteration and the next, and is not finished."""
        if self.runner.val_loop is None or self.runner.message_hub.runtime_info.get('iter_validated') == self._iter:
            return False
        self._decide_current_val_interval()
        done, last = self._progress()
        return done >= max(self.val_begin, 1) and (done % self.val_interval == 0 or done == last)


@LOOPS.register_module()
class DenseEpochLoop(_Resumable, EpochBasedTrainLoop):
    """A training loop by epochs that can resume within an epoch.

    Args:
        max_iters: end after this number of iterations, within the last epoch; `max_epochs` follows from it.
        args, kwargs: as of `EpochBasedTrainLoop`.
    """

    def __init__(self, runner, dataloader: dict, *args, max_iters: int | None = None, **kwargs):
        super().__init__(runner, dataloader, *args, **kwargs)
        if max_iters:
            self._max_iters, self._max_epochs = max_iters, -(-max_iters // len(self.dataloader))
        check_last_batch(runner.cfg, len(self.dataloader.dataset))

    def run_epoch(self) -> None:
        """Run the rest of the epoch, or of the training."""
        done = self._iter - self._epoch * len(self.dataloader)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self.dataloader.batch_sampler.start = done
        for idx, data_batch in islice(enumerate(self.dataloader, done), self._max_iters - self._iter):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _progress(self) -> tuple[int, int]:
        """Return the number of finished epochs, 0 within an epoch, and the number of all epochs."""
        end = min(self._epoch * len(self.dataloader), self._max_iters)
        return self._epoch * (self._iter == end), self._max_epochs


@LOOPS.register_module()
class DenseIterLoop(_Resumable, IterBasedTrainLoop):
    """A training loop by iterations that skips the batches of the training it resumes without loading them."""

    def run(self):
        """Train."""
        self.dataloader_iterator = _Skipping(self.dataloader_iterator, self.dataloader.batch_sampler)
        return super().run()

    def _progress(self) -> tuple[int, int]:
        """Return the number of finished iterations and of all iterations."""
        return self._iter, self._max_iters


class _Skipping:
    """mmengine's endless iterator over batches, which skips batches by their indices."""

    def __init__(self, batches, batch_sampler):
        self._batches, self._batch_sampler = batches, batch_sampler

    def skip_iter(self, done: int) -> None:
        """Skip batches; mmengine calls this before the first batch is loaded."""
        if not hasattr(self._batch_sampler.sampler, 'skip'):  # a finite sampler, restarted with another order
            self._batches._epoch, done = divmod(done, len(self._batch_sampler))
            self._batch_sampler.sampler.set_epoch(self._batches._epoch)
        self._batch_sampler.start = done

    def __next__(self):
        return next(self._batches)
