"""Name the file of a sample that cannot be loaded, and end the data-loading workers that fail."""

import os
import sys
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset

from repvit_dense.errors import InputError, shorten


class SampleError(InputError):
    """An error about a sample; its message names the file.

    torch puts the traceback of a data-loading worker before the message; `text` leaves it out.
    """

    @property
    def text(self) -> str:
        """Return the message alone."""
        return str(self).rpartition('SampleError: ')[2].strip()


def name_errors(dataloader: DataLoader) -> None:
    """Make every error of a data loader in one of its samples a SampleError."""
    dataset = dataloader.dataset
    for part in _parts(dataset):
        if hasattr(part, 'prepare_data'):
            part.prepare_data = partial(_prepare, part, part.prepare_data)
    dataset.__getitems__ = partial(_load, dataset)  # torch loads batches through this method if it exists


def end_failed_workers(dataloader: DataLoader) -> None:
    """End a data-loading worker that cannot pass on a batch, because shared memory is full.

    It would only print a traceback, and the run would wait for the batch for ever.
    """
    dataloader.worker_init_fn = partial(_start_worker, dataloader.worker_init_fn)


def _start_worker(init, worker: int) -> None:
    from multiprocessing.queues import Queue  # the worker has it already; importing this package must not add it

    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    if init:
        init(worker)


def _end_worker(error: Exception, batch: Any) -> None:
    print(f'A batch cannot be passed on to the training: {error}', file=sys.stderr, flush=True)
    os._exit(1)


def load_sample(dataset: Dataset, index: int) -> Any:
    """Load a sample.

    Raises:
        SampleError: names the file of the sample.
    """
    try:
        return dataset[index]
    except SampleError:
        raise
    except Exception as error:
        raise _explain(dataset, index, error) from error


def _load(dataset: Dataset, indices: list[int]) -> list[Any]:
    return [load_sample(dataset, index) for index in indices]


def _parts(dataset: Dataset) -> list[Dataset]:
    """Return a data set and all that it is made of, such as those of a ConcatDataset."""
    inner = [*getattr(dataset, 'datasets', ()), getattr(dataset, 'dataset', None)]
    return [dataset, *(part for child in inner if child is not None for part in _parts(child))]


def _prepare(dataset: Dataset, prepare, index: int) -> Any:
    """Load a sample through `BaseDataset.prepare_data`, which mmengine calls with another index if a sample is None."""
    try:
        return prepare(index)
    except Exception as error:
        raise _explain(dataset, index, error) from error


def _explain(dataset: Dataset, index: int, error: Exception) -> SampleError:
    place = f'sample {index} of {type(dataset).__name__}'
    try:
        info = dataset.get_data_info(index)
        place = info['img_path']
        if info.get('seg_map_path'):
            place += f' with {info["seg_map_path"]}'
        place += _rejected(dataset, info) if str(error).startswith('Cannot find valid image') else ''
    except Exception:
        pass  # a data set without files
    reason = shorten(' '.join(str(error).split()), 500)
    return SampleError(f'{place}: cannot be loaded ({type(error).__name__}: {reason})')


def _rejected(dataset: Dataset, info: dict) -> str:
    """Return which transform rejects a sample by returning None."""
    for transform in dataset.pipeline.transforms:
        info = transform(info)
        if info is None:
            return f', and every image tried after it, is rejected by {type(transform).__name__}'
    return ''
