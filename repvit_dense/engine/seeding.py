"""Resuming exactly: what is random follows from the seed and the position in the training, and from nothing else.

So no state of any random number generator is stored: where a training goes on at iteration n, it draws what it would
have drawn there. A sample draws the same numbers in whichever process or data-loading worker it is made.
"""

import random
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler


def seed_all(*numbers: int) -> None:
    """Let Python, numpy and torch, on all devices, draw from here on what follows from these numbers alone."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # torch.manual_seed formats a stack trace where it is not
        torch.cuda.manual_seed_all(seed)


class Numbered(int):
    """The index of a sample, and `numbers` from which all that is random in this sample follows."""

    def __new__(cls, index: int, numbers: tuple[int, ...] = ()):
        self = super().__new__(cls, index)
        self.numbers = numbers
        return self


class ResumableBatchSampler(Sampler):
    """The batches of another batch sampler, with numbered indices; the next pass begins at batch `start`.

    A sample's numbers are the seed, the epoch, and its place in the order of the samples of all processes: so many
    processes with batches of n draw what one with a batch of as many times n draws.

    Args:
        sampler: with a `seed`, and with an `epoch` where it ends.
        batch_size: samples in a batch of this process.
        drop_last: leave out a smaller last batch.
        batches: config of the batch sampler; without it each batch takes the next so many indices.
    """

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False, batches: dict | None = None):
        batches = batches or {'type': BatchSampler, 'drop_last': drop_last}
        self.sampler, self.start = sampler, 0
        self._batches = DATA_SAMPLERS.build(batches, default_args={'sampler': sampler, 'batch_size': batch_size})

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Numbered]]:
        start, self.start = self.start, 0
        numbers = self.sampler.seed, getattr(self.sampler, 'epoch', 0)
        place, processes = get_dist_info()
        for i, batch in enumerate(self._batches):
            if i >= start:
                yield [Numbered(index, (*numbers, place + k * processes)) for k, index in enumerate(batch)]
            place += len(batch) * processes


def resumable(dataloader: dict) -> dict:
    """The config of a data loader, with a `ResumableBatchSampler` around its batches."""
    dataloader = dict(dataloader)
    batches = {'batches': dataloader.get('batch_sampler'), 'drop_last': dataloader.pop('drop_last', False)}
    return {**dataloader, 'batch_sampler': {'type': ResumableBatchSampler, **batches}}


def seed_samples(dataloader: DataLoader) -> None:
    """Let every sample follow from its numbers."""
    dataset = dataloader.dataset
    dataset.__getitems__ = partial(_make, dataset)  # torch asks a data set for a whole batch where it has this


def _make(dataset: Dataset, indices: list[Numbered]) -> list:
    samples = []
    for index in indices:
        seed_all(*index.numbers)
        samples.append(dataset[int(index)])
    return samples
