"""The certificate of an artifact: the fused model against the unfused one, the artifact against PyTorch."""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from repvit_dense.compat.flop_counter import flop_counter
from repvit_dense.errors import InputError
from repvit_dense.exporting.agreement import TOLERANCES, Tolerance, compare_outputs, find_failures

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from repvit_dense.exporting.graphs.base import Graph
    from repvit_dense.exporting.samples import Batch

    Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]

THRESHOLD_FACTOR = 10  # on `Tolerance.raw` for networks with thresholds inside, see `Graph.thresholds`
TIMED_ROUNDS = 3


def certify(
    unfused: 'nn.Module', graph: 'Graph', run: 'Run', precision: str, inputs: 'Sequence[Batch]', verify: bool = True
) -> dict:
    """Compare an artifact with its model, count operations and measure latency.

    Args:
        unfused: the trained model in eval mode, before merging.
        graph: the export graph of the fused model.
        run: the loaded artifact.
        precision: key of `TOLERANCES`.
        inputs: one or more batches; they differ in size if the artifact has dynamic axes.
        verify: refuse an artifact beyond the tolerance.

    Returns:
        The certificate, ready for JSON: `inputs`, `stages`, `outputs`, `agreement`, `parameters`, `macs`,
        `milliseconds`, `tolerance`, `failures`; and `tied` if tied scores explain the failures: the share of its own
        detections that the model repeats, see `ties`.

    Raises:
        InputError: the artifact is beyond the tolerance; the message names every failing output.
    """
    from repvit_dense.exporting import graphs

    tolerance = TOLERANCES[precision]
    if graph.thresholds:
        tolerance = tolerance._replace(raw=THRESHOLD_FACTOR * tolerance.raw)
    before = graphs.build(copy.deepcopy(unfused), graph.plain)
    compared = _compare(graph, run, inputs, tolerance)
    certificate = {
        'inputs': [list(images.shape) for images, _ in inputs],
        'stages': stage_differences(unfused, graph.model, inputs[0][0]),
        **compared,
        **count_operations(before, graph, inputs[0]),
        'milliseconds': measure_latency(before, graph, run, inputs[0]),
        'tolerance': {name: value for name, value in tolerance._asdict().items() if value != float('inf')},
    }
    if verify and compared['failures'] and 'tied' not in compared:
        raise InputError(
            f'the artifact differs from the model: {"; ".join(compared["failures"])}. Not written (--no-verify writes '
            'it)'
        )
    return certificate


def _compare(graph: 'Graph', run: 'Run', batches: 'Sequence[Batch]', tolerance: Tolerance) -> dict:
    """Return `outputs`, `agreement` and `failures` of a comparison, and `tied` if tied scores explain the failures."""
    from repvit_dense.exporting import ties

    others = [run(*batch) for batch in batches]
    mask_threshold = 0.0 if graph.mask_kind == 'image' else 0.5  # of logits, or of probabilities

    def compare(order: 'ties.BreakTies | None') -> 'tuple[list[dict[str, np.ndarray]], dict]':
        references = [ties.run_graph(graph, batch, order) for batch in batches]
        pairs = list(zip(references, others, strict=True))
        outputs, agreement = compare_outputs(graph.task, pairs, tolerance, mask_threshold)
        failures = find_failures(outputs, agreement, tolerance)
        return references, {'outputs': outputs, 'agreement': agreement, 'failures': failures}

    references, first = compare(None)
    if not first['failures']:
        return first
    _, by_index = compare(ties.BreakTies())
    if not by_index['failures']:
        return by_index
    share = ties.repeated_share(graph, batches, references, others, tolerance, mask_threshold)
    return first if share is None else {**first, 'tied': share}


def stage_differences(unfused: 'nn.Module', fused: 'nn.Module', images: 'np.ndarray') -> dict[str, float]:
    """Return the maximum difference between fused and unfused features, relative to the largest unfused value.

    The keys are `backbone 0`, `backbone 1`, ... and `neck 0`, ... if there is a neck.
    """
    import torch

    def features(model: 'nn.Module') -> 'dict[str, Tensor]':
        outs = model.backbone(torch.from_numpy(images))
        named = {f'backbone {i}': out for i, out in enumerate(outs)}
        if getattr(model, 'with_neck', False):
            named |= {f'neck {i}': out for i, out in enumerate(model.neck(outs))}
        return named

    with torch.inference_mode():
        before, after = features(unfused), features(fused)
    return {
        name: float((after[name] - before[name]).abs().max() / before[name].abs().max().clamp(min=1e-12))
        for name in before
    }


def count_operations(before: 'Graph', after: 'Graph', batch: 'Batch') -> dict:
    """Count `parameters`, and `macs` of one batch in billions, `before` and `after` fusing."""
    import torch

    inputs = [torch.from_numpy(part) for part in batch]
    macs, parameters = {}, {}
    for name, graph in (('before', before), ('after', after)):
        with torch.inference_mode(), flop_counter() as counter:
            graph(*inputs)
        macs[name] = round(counter.get_total_flops() / 2e9, 3)  # a multiply-accumulate is two operations
        parameters[name] = sum(p.numel() for p in graph.model.parameters())
    return {'parameters': parameters, 'macs': macs}


def measure_latency(before: 'Graph', after: 'Graph', run: 'Run', batch: 'Batch') -> dict[str, float]:
    """Return median milliseconds per batch of unfused graph, fused graph and artifact, measured in turns."""
    import torch

    inputs = [torch.from_numpy(part) for part in batch]
    subjects = {
        'pytorch_unfused': lambda: before(*inputs),
        'pytorch_fused': lambda: after(*inputs),
        'artifact': lambda: run(*batch),
    }
    times: dict[str, list[float]] = {name: [] for name in subjects}
    with torch.inference_mode():
        for number in range(TIMED_ROUNDS + 1):
            for name, call in subjects.items():
                start = time.perf_counter()
                call()
                if number:  # the first round warms up
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 2) for name, values in times.items()}
