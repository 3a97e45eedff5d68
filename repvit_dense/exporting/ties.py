"""Tell a wrong artifact from a model whose scores are tied.

A barely trained detector gives thousands of candidates nearly the same score, and rounding decides which of them it
returns. Then its artifact returns other detections although every number in it is right. Here the model is run with its
ties broken differently, which shows how many of its own detections it repeats.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from repvit_dense.exporting.agreement import Tolerance, compare_outputs, count_repeated, find_failures

if TYPE_CHECKING:
    from repvit_dense.exporting.graphs.base import Graph
    from repvit_dense.exporting.samples import Batch

    Outputs = dict[str, np.ndarray]  # of one batch

RUNS = 4  # with ties broken at random
NOISE = 0.01  # standard deviation, relative to `Tolerance.raw`
FEWEST = 10  # repeated detections that must be expected before an artifact is called wrong for having too few


class BreakTies(TorchFunctionMode):
    """A context in which `topk` prefers the lower index among equal values, as the runtimes do.

    Args:
        noise: standard deviation of noise that decides instead, relative to each value; also for `argmax`.
        seed: of the noise.
    """

    def __init__(self, noise: float = 0.0, seed: int = 0):
        super().__init__()
        self.noise, self.random = noise, torch.Generator().manual_seed(seed)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.topk and len(args) == 2 and not kwargs:
            values, count = args
            order = self._disturb(values).sort(dim=-1, descending=True, stable=True).indices[..., :count]
            return values.gather(-1, order), order
        if func is Tensor.argmax:
            args = (self._disturb(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))

    def _disturb(self, values: Tensor) -> Tensor:
        if not self.noise:
            return values
        return values * (1 + self.noise * torch.randn(values.shape, generator=self.random, dtype=values.dtype))


def run_graph(graph: 'Graph', batch: 'Batch', ties: BreakTies | None = None) -> 'Outputs':
    """Return the outputs of the model in PyTorch by name; `ties` decides between equal scores."""
    with torch.inference_mode(), ties or nullcontext():
        outputs = graph(*map(torch.from_numpy, batch))
    return {name: output.numpy() for name, output in zip(graph.outputs, outputs, strict=True)}


def repeated_share(
    graph: 'Graph',
    batches: 'Sequence[Batch]',
    references: 'Sequence[Outputs]',
    others: 'Sequence[Outputs]',
    tolerance: Tolerance,
    mask_threshold: float,
) -> float | None:
    """Return the share of its detections that the model repeats if rounding decides; None if that explains nothing.

    That is so if the model repeats its detections within the tolerance, or if the artifact returns other scores, or
    fewer of the model's detections than half of those that the model itself repeats.

    Args:
        graph: the export graph of the model.
        batches: the compared batches.
        references: outputs of the model for each batch.
        others: outputs of the artifact for each batch.
        tolerance: the tolerance that the artifact is beyond.
        mask_threshold: mask values above it are inside.
    """
    noise = NOISE * min(tolerance.raw, 1)
    runs = [[run_graph(graph, batch, BreakTies(noise, seed)) for batch in batches] for seed in range(RUNS)]
    pairs = [list(zip(references, run, strict=True)) for run in runs]
    comparisons = [compare_outputs(graph.task, each, tolerance, mask_threshold) for each in pairs]
    if not any(find_failures(*comparison, tolerance) for comparison in comparisons):
        return None

    def count(outputs: 'Sequence[Outputs]', pool: 'list[Sequence[Outputs]]') -> tuple[int, int]:
        counts = [
            count_repeated(graph.task, one, [part[i] for part in pool], tolerance, mask_threshold)
            for i, one in enumerate(outputs)
        ]
        return sum(found for found, _ in counts), sum(total for _, total in counts)

    repeated = [count(run, [references, *runs[:i], *runs[i + 1 :]]) for i, run in enumerate(runs)]
    share = float(np.mean([found / max(total, 1) for found, total in repeated]))
    found, total = count(others, [references, *runs])
    is_wrong = share * total >= FEWEST and found < share * total / 2
    allowed = max(tolerance.score, 2 * max(_score_difference(references, run) for run in runs))
    return None if is_wrong or _score_difference(references, others) > allowed else share


def _score_difference(one: 'Sequence[Outputs]', two: 'Sequence[Outputs]') -> float:
    """Return the largest difference between the scores of equal rank; 0 for class maps."""
    pairs = [(a['scores'], b['scores']) for a, b in zip(one, two, strict=True) if 'scores' in a]
    return max((float(np.abs(np.sort(a) - np.sort(b)).max(initial=0)) for a, b in pairs), default=0.0)
