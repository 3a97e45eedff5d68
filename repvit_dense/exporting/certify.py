"""What an artifact is worth, in numbers: fused against unfused, artifact against PyTorch, before it leaves.

Detections are compared by matching, never by index: two runtimes may order equal scores differently.
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

    Batch = tuple[np.ndarray, np.ndarray]  # images (B, 3, H, W) and img_hw (B, 2), both float32
    Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


class Tolerance(NamedTuple):
    """How far an artifact may be from PyTorch.

    Attributes:
        raw: largest difference of an output, relative to that output's largest value.
        matched: least share of detections that have a partner: same class, IoU above `iou`, score within `score`.
        iou, score: what makes a partner.
        mask_iou: least mean IoU of the masks of partners.
        pixels: least share of pixels of a class map that agree.
    """

    raw: float
    matched: float
    iou: float
    score: float
    mask_iou: float
    pixels: float


# Half precision keeps 11 bits, and int8 changes the network: what these lose is for an evaluation to say.
TOLERANCES = {
    'fp32': Tolerance(raw=1e-3, matched=0.99, iou=0.99, score=1e-3, mask_iou=0.99, pixels=0.999),
    'fp16': Tolerance(raw=5e-2, matched=0.95, iou=0.95, score=1e-2, mask_iou=0.95, pixels=0.99),
    'int8': Tolerance(raw=float('inf'), matched=0.5, iou=0.7, score=0.2, mask_iou=0.7, pixels=0.9),
}
FLIPPED = 10  # times the difference of raw outputs is allowed where the network itself decides by a threshold
TIMED_ROUNDS = 3


def certify(
    unfused: 'nn.Module', graph: 'Graph', run: 'Run', precision: str, inputs: 'Sequence[Batch]', verify: bool = True
) -> dict:
    """Compare, count and time.

    Args:
        unfused: the trained model in eval mode, before anything was merged.
        graph: the export graph on the fused model.
        run: the loaded artifact.
        precision: key of `TOLERANCES`.
        inputs: at least one batch; where the artifact is dynamic, batches of other sizes too.
        verify: refuse what is beyond the tolerance.

    Returns:
        the certificate, ready for JSON: `stages`, `outputs`, `agreement`, `parameters`, `macs`, `milliseconds`,
        `tolerance`, `failures`.

    Raises:
        InputError: the artifact is beyond the tolerance; every offending output is named.
    """
    from repvit_dense.exporting import graphs

    tolerance = TOLERANCES[precision]
    if graph.thresholds:
        tolerance = tolerance._replace(raw=FLIPPED * tolerance.raw)
    before = graphs.build(copy.deepcopy(unfused), graph.plain)
    pairs = [(_reference(graph, *batch), run(*batch)) for batch in inputs]
    edge = 0.0 if graph.mask_kind == 'image' else 0.5  # logits, or probabilities
    outputs, agreement = compare(graph.task, pairs, tolerance, edge)
    failures = _failures(outputs, agreement, tolerance)
    certificate = {
        'inputs': [list(images.shape) for images, _ in inputs],
        'stages': stages(unfused, graph.model, inputs[0][0]),
        'outputs': outputs,
        'agreement': agreement,
        **counts(before, graph, inputs[0]),
        'milliseconds': latency(before, graph, run, inputs[0]),
        'tolerance': {name: value for name, value in tolerance._asdict().items() if value != float('inf')},
        'failures': failures,
    }
    if verify and failures:
        raise InputError(f'the artifact is not the model: {"; ".join(failures)}. Not written (--no-verify writes it)')
    return certificate


def _reference(graph: 'Graph', images: 'np.ndarray', img_hw: 'np.ndarray') -> 'dict[str, np.ndarray]':
    import torch

    with torch.inference_mode():
        found = graph(torch.from_numpy(images), torch.from_numpy(img_hw))
    return {name: output.numpy() for name, output in zip(graph.outputs, found, strict=True)}


def stages(unfused: 'nn.Module', fused: 'nn.Module', images: 'np.ndarray') -> dict[str, float]:
    """Largest difference of fused and unfused features, relative to the largest value; backbone stages, then neck."""
    import torch

    def features(model: 'nn.Module') -> 'dict[str, Tensor]':
        outs = model.backbone(torch.from_numpy(images))
        found = {f'backbone {i}': out for i, out in enumerate(outs)}
        if getattr(model, 'with_neck', False):
            found |= {f'neck {i}': out for i, out in enumerate(model.neck(outs))}
        return found

    with torch.inference_mode():
        before, after = features(unfused), features(fused)
    return {
        name: float((after[name] - before[name]).abs().max() / before[name].abs().max().clamp(min=1e-12))
        for name in before
    }


def compare(
    task: str,
    pairs: 'Sequence[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]',
    tolerance: Tolerance,
    edge: float = 0.5,
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Outputs of PyTorch and of the artifact, each pair from one batch; a mask's values above `edge` are inside.

    Returns:
        per output the largest difference, `absolute` and `relative` to the largest value, over what has a partner; and
        the agreement: `pixels`, or `detections` (how many PyTorch has), `matched`, `mask_iou`.
    """
    if task == 'semantic':
        import numpy as np

        return {}, {'pixels': float(np.mean([np.mean(ours['seg'] == theirs['seg']) for ours, theirs in pairs]))}
    found = [
        _match(ours, theirs, index, tolerance, edge)
        for ours, theirs in pairs
        for index in range(len(next(iter(ours.values()))))
    ]
    total = sum(match['total'] for match in found)
    outputs = {
        name: {
            'absolute': max(match['difference'][name] for match in found),
            'relative': max(match['difference'][name] for match in found)
            / max(1e-12, *(match['largest'][name] for match in found)),
        }
        for name in found[0]['difference']
    }
    agreement = {'detections': total, 'matched': sum(match['matched'] for match in found) / total if total else 1.0}
    ious = [iou for match in found for iou in match['mask_ious']]
    if ious:
        agreement['mask_iou'] = statistics.fmean(ious)
    return outputs, agreement


def _match(ours: dict, theirs: dict, index: int, tolerance: Tolerance, edge: float) -> dict:
    """One image: each detection of PyTorch, by falling score, takes the best partner that is left.

    What is missing on one side counts against the larger side.
    """
    import numpy as np

    n, m = int(ours['count'][index]), int(theirs['count'][index])
    one = {name: value[index][:n] for name, value in ours.items() if name != 'count'}
    two = {name: value[index][:m] for name, value in theirs.items() if name != 'count'}
    for found in (one, two):
        if 'masks' in found:
            found['inside'] = found['masks'] > edge
    likeness = _likeness(one, two)
    fits = (one['labels'][:, None] == two['labels'][None]) & (likeness > tolerance.iou)
    fits &= np.abs(one['scores'][:, None] - two['scores'][None]) <= tolerance.score
    partners = []
    for row in range(n):
        best = int(np.argmax(np.where(fits[row], likeness[row], -1))) if m else -1
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


def _likeness(one: dict, two: dict) -> 'np.ndarray':
    """`(N, M)`: IoU of the boxes; of the masks where there are no boxes (panoptic)."""
    import numpy as np

    if 'boxes' in one:
        return box_iou(one['boxes'], two['boxes'])
    pairs = [[_mask_iou(a, b) for b in two['inside']] for a in one['inside']]
    return np.array(pairs, float).reshape(len(one['inside']), len(two['inside']))


def box_iou(one: 'np.ndarray', two: 'np.ndarray') -> 'np.ndarray':
    """IoU `(N, M)` of boxes `(N, 4)` and `(M, 4)`; an empty box is like one in the same place."""
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


def _failures(outputs: dict, agreement: dict, tolerance: Tolerance) -> list[str]:
    found = [
        f'{name}: differs by {difference["relative"]:.1e} of its largest value, {tolerance.raw:.0e} is allowed'
        for name, difference in outputs.items()
        if difference['relative'] > tolerance.raw
    ]
    for name, least in (('matched', tolerance.matched), ('mask_iou', tolerance.mask_iou), ('pixels', tolerance.pixels)):
        if agreement.get(name, 1.0) < least:
            what = {'matched': 'detections', 'mask_iou': 'masks', 'pixels': 'seg'}[name]
            found.append(f'{what}: {name} {agreement[name]:.4f}, at least {least} is asked')
    return found


def counts(before: 'Graph', after: 'Graph', batch: 'Batch') -> dict:
    """Parameters, and multiply-accumulates of one batch in billions, of the unfused and of the fused graph."""
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


def latency(before: 'Graph', after: 'Graph', run: 'Run', batch: 'Batch') -> dict[str, float]:
    """Median milliseconds of one batch: the unfused and the fused graph in PyTorch and the artifact, in turns."""
    import torch

    inputs = [torch.from_numpy(part) for part in batch]
    subjects = {
        'pytorch_unfused': lambda: before(*inputs),
        'pytorch_fused': lambda: after(*inputs),
        'artifact': lambda: run(*batch),
    }
    times = {name: [] for name in subjects}
    with torch.inference_mode():
        for number in range(TIMED_ROUNDS + 1):
            for name, call in subjects.items():
                start = time.perf_counter()
                call()
                if number:  # the first round warms up
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 2) for name, values in times.items()}
