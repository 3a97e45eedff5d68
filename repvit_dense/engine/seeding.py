"""Random numbers that follow from the seed and the position in the training alone, for exact resuming.

No state of a random number generator is stored. A training resumed at iteration n draws the numbers that the
uninterrupted training draws there. A sample draws the same numbers in any process and data-loading worker.
"""

import random
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from repvit_dense.engine.samples import load_sample


def seed_all(*numbers: int) -> None:
    """Seed the generators of Python, numpy and torch, on all devices, with a hash of these numbers."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # if it is not, torch.manual_seed formats a stack trace
        torch.cuda.manual_seed_all(seed)


class SeededIndex(int):
    """The index of a sample, with `numbers` that seed all randomness in this sample."""

    numbers: tuple[int, ...]

    def __new__(cls, index: int, numbers: tuple[int, ...] = ()):
        self = super().__new__(cls, index)
        self.numbers = numbers
        return self


class ResumableBatchSampler(Sampler):
    """The batches of another batch sampler, with a SeededIndex per sample; the next pass starts at batch `start`.

    The numbers of a sample are the seed, the epoch, and the position of the sample among those of all processes:
    k processes with batch size n draw the same samples as one process with batch size k*n.

    Args:
        sampler: sampler with a `seed`, and with an `epoch` if it is finite.
        batch_size: batch size of this process.
        drop_last: drop a smaller last batch.
        batches: config of the batch sampler; default: consecutive indices.
    """

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False, batches: dict | None = None):
        batches = batches or {'type': BatchSampler, 'drop_last': drop_last}
        self.sampler, self.start = sampler, 0
        self._batches = DATA_SAMPLERS.build(batches, default_args={'sampler': sampler, 'batch_size': batch_size})

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        start, self.start = self.start, 0
        numbers = self.sampler.seed, getattr(self.sampler, 'epoch', 0)
        position, processes = get_dist_info()
        for i, batch in enumerate(self._batches):
            if i >= start:
                yield [SeededIndex(index, (*numbers, position + k * processes)) for k, index in enumerate(batch)]
            position += len(batch) * processes


def resumable(dataloader: dict) -> dict:
    """Return the config of a data loader with a ResumableBatchSampler around its batch sampler."""
    dataloader = dict(dataloader)
    batches = {'batches': dataloader.get('batch_sampler'), 'drop_last': dataloader.pop('drop_last', False)}
    return {**dataloader, 'batch_sampler': {'type': ResumableBatchSampler, **batches}}


def seed_samples(dataloader: DataLoader) -> None:
    """Seed the generators before each sample of a data loader, with the numbers of its SeededIndex."""
    dataset = dataloader.dataset
    dataset.__getitems__ = partial(_load, dataset)  # torch loads batches through this method if it exists


def _load(dataset: Dataset, indices: list[SeededIndex]) -> list:
    samples = []
    for index in indices:
        seed_all(*index.numbers)
        samples.append(load_sample(dataset, int(index)))
    return samples
