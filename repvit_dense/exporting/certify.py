"""The certificate of an artifact: the fused model against the unfused one, the artifact against PyTorch.

Detections are compared by matching, never by index: runtimes may order equal scores differently.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from repvit_dense.exporting.graphs.base import Graph
    from repvit_dense.exporting.samples import Batch

    Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


class Tolerance(NamedTuple):
    """The differences allowed between an artifact and PyTorch.

    Attributes:
        raw: maximum difference of an output, relative to the largest value of that output.
        matched: minimum share of detections with a partner: same class, IoU above `iou`, scores within `score`.
        iou: minimum IoU of partners.
        score: maximum difference between the scores of partners.
        mask_iou: minimum mean IoU of the masks of partners.
        pixels: minimum share of equal pixels of a class map.
    """

    raw: float
    matched: float
    iou: float
    score: float
    mask_iou: float
    pixels: float


# fp16 has 11 significant bits, and int8 changes the network; an evaluation has to measure their loss of accuracy.
TOLERANCES = {
    'fp32': Tolerance(raw=1e-3, matched=0.99, iou=0.99, score=1e-3, mask_iou=0.99, pixels=0.999),
    'fp16': Tolerance(raw=5e-2, matched=0.95, iou=0.95, score=1e-2, mask_iou=0.95, pixels=0.99),
    'int8': Tolerance(raw=float('inf'), matched=0.5, iou=0.7, score=0.2, mask_iou=0.7, pixels=0.9),
}
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
        `milliseconds`, `tolerance`, `failures`.

    Raises:
        InputError: the artifact is beyond the tolerance; the message names every failing output.
    """
    from repvit_dense.exporting import graphs

    tolerance = TOLERANCES[precision]
    if graph.thresholds:
        tolerance = tolerance._replace(raw=THRESHOLD_FACTOR * tolerance.raw)
    before = graphs.build(copy.deepcopy(unfused), graph.plain)
    pairs = [(_run_graph(graph, *batch), run(*batch)) for batch in inputs]
    mask_threshold = 0.0 if graph.mask_kind == 'image' else 0.5  # of logits, or of probabilities
    outputs, agreement = compare_outputs(graph.task, pairs, tolerance, mask_threshold)
    failures = find_failures(outputs, agreement, tolerance)
    certificate = {
        'inputs': [list(images.shape) for images, _ in inputs],
        'stages': stage_differences(unfused, graph.model, inputs[0][0]),
        'outputs': outputs,
        'agreement': agreement,
        **count_operations(before, graph, inputs[0]),
        'milliseconds': measure_latency(before, graph, run, inputs[0]),
        'tolerance': {name: value for name, value in tolerance._asdict().items() if value != float('inf')},
        'failures': failures,
    }
    if verify and failures:
        raise InputError(
            f'the artifact differs from the model: {"; ".join(failures)}. Not written (--no-verify writes it)'
        )
    return certificate


def _run_graph(graph: 'Graph', images: 'np.ndarray', img_hw: 'np.ndarray') -> 'dict[str, np.ndarray]':
    import torch

    with torch.inference_mode():
        outputs = graph(torch.from_numpy(images), torch.from_numpy(img_hw))
    return {name: output.numpy() for name, output in zip(graph.outputs, outputs, strict=True)}


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


def compare_outputs(
    task: str,
    pairs: 'Sequence[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]',
    tolerance: Tolerance,
    mask_threshold: float = 0.5,
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Compare the outputs of PyTorch with those of the artifact.

    Args:
        task: key of `manifest.OUTPUTS`.
        pairs: outputs of PyTorch and of the artifact for each batch.
        tolerance: the matching criteria.
        mask_threshold: mask values above it are inside.

    Returns:
        The maximum difference of partners in each output, `absolute` and `relative` to its largest value; and the
        agreement: `pixels`, or `detections` (their number), `matched` (share), and `mask_iou` (mean).
    """
    if task == 'semantic':
        import numpy as np

        shares = [np.mean(reference['seg'] == other['seg']) for reference, other in pairs]
        return {}, {'pixels': float(np.mean(shares))}
    matches = [
        _match(reference, other, index, tolerance, mask_threshold)
        for reference, other in pairs
        for index in range(len(next(iter(reference.values()))))
    ]
    total = sum(match['total'] for match in matches)
    outputs = {
        name: {
            'absolute': max(match['difference'][name] for match in matches),
            'relative': max(match['difference'][name] for match in matches)
            / max(1e-12, *(match['largest'][name] for match in matches)),
        }
        for name in matches[0]['difference']
    }
    agreement = {'detections': total, 'matched': sum(match['matched'] for match in matches) / total if total else 1.0}
    ious = [iou for match in matches for iou in match['mask_ious']]
    if ious:
        agreement['mask_iou'] = statistics.fmean(ious)
    return outputs, agreement


def _match(reference: dict, other: dict, index: int, tolerance: Tolerance, mask_threshold: float) -> dict:
    """Match the detections of one image: each reference, by falling score, gets the best remaining partner.

    The total is the larger number of detections, so that missing and surplus ones both count.
    """
    import numpy as np

    n, m = int(reference['count'][index]), int(other['count'][index])
    one = {name: value[index][:n] for name, value in reference.items() if name != 'count'}
    two = {name: value[index][:m] for name, value in other.items() if name != 'count'}
    for detections in (one, two):
        if 'masks' in detections:
            detections['inside'] = detections['masks'] > mask_threshold
    iou = _pairwise_iou(one, two)
    fits = (one['labels'][:, None] == two['labels'][None]) & (iou > tolerance.iou)
    fits &= np.abs(one['scores'][:, None] - two['scores'][None]) <= tolerance.score
    partners = []
    for row in range(n):
        best = int(np.argmax(np.where(fits[row], iou[row], -1))) if m else -1
        if m and fits[row, best]:
            fits[:, best] = False
            partners.append((row, best))
    rows, columns = np.array(partners, int).reshape(-1, 2).T
    names = [name for name in one if name not in ('labels', 'inside')]
    return {
        'total': max(n, m),
        'matched': len(partners),
        'difference': {name: float(np.abs(one[name][rows] - two[name][columns]).max(initial=0)) for name in names},
        'largest': {name: float(np.abs(one[name][rows]).max(initial=0)) for name in names},
        'mask_ious': [
            _mask_iou(one['inside'][row], two['inside'][column]) for row, column in partners if 'inside' in one
        ],
    }


def _pairwise_iou(one: dict, two: dict) -> 'np.ndarray':
    """Return IoU `(N, M)` of the boxes, or of the masks if there are no boxes (panoptic)."""
    import numpy as np

    if 'boxes' in one:
        return box_iou(one['boxes'], two['boxes'])
    pairs = [[_mask_iou(a, b) for b in two['inside']] for a in one['inside']]
    return np.array(pairs, float).reshape(len(one['inside']), len(two['inside']))


def box_iou(one: 'np.ndarray', two: 'np.ndarray') -> 'np.ndarray':
    """Return IoU `(N, M)` of boxes `(N, 4)` and `(M, 4)`; it is 1 for two empty boxes at the same position."""
    import numpy as np

    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    inside = np.prod(np.clip(high - low, 0, None), -1)
    area = [np.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (one, two)]
    union = area[0][:, None] + area[1][None] - inside
    same = np.abs(one[:, None] - two[None]).max(-1, initial=0) < 1e-2  # pixels
    return np.where(union > 0, inside / np.where(union > 0, union, 1), same.astype(float))


def _mask_iou(one: 'np.ndarray', two: 'np.ndarray') -> float:
    union = (one | two).sum()
    return float((one & two).sum() / union) if union else 1.0


def find_failures(outputs: dict, agreement: dict, tolerance: Tolerance) -> list[str]:
    """Return one message for each result of `compare_outputs` that is beyond the tolerance."""
    failures = [
        f'{name}: differs by {difference["relative"]:.1e} of its largest value, the limit is {tolerance.raw:.0e}'
        for name, difference in outputs.items()
        if difference['relative'] > tolerance.raw
    ]
    for subject, name in (('detections', 'matched'), ('masks', 'mask_iou'), ('seg', 'pixels')):
        minimum = getattr(tolerance, name)
        if agreement.get(name, 1.0) < minimum:
            failures.append(f'{subject}: {name} {agreement[name]:.4f}, the minimum is {minimum}')
    return failures


def count_operations(before: 'Graph', after: 'Graph', batch: 'Batch') -> dict:
    """Count `parameters`, and `macs` of one batch in billions, `before` and `after` fusing."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    inputs = [torch.from_numpy(part) for part in batch]
    macs, parameters = {}, {}
    for name, graph in (('before', before), ('after', after)):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
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
