"""Compare the outputs of an artifact with those of PyTorch.

Detections are compared by matching, never by index: runtimes may order equal scores differently.
"""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


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


def compare_outputs(
    task: str,
    pairs: 'Sequence[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]',
    tolerance: Tolerance,
    mask_threshold: float = 0.5,
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Compare the outputs of PyTorch with those of the artifact.

    Args:
        task: key of `rules.OUTPUTS`.
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
    """Match the detections of one image so that most of them have a partner, at the largest overlap.

    The total is the larger number of detections, so that missing and surplus ones both count.
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    one, two = (_detections(outputs, index, mask_threshold) for outputs in (reference, other))
    overlaps = np.where(find_fits(one, two, tolerance), _pairwise_iou(one, two), 0)
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    rows, columns = (part[overlaps[rows, columns] > 0] for part in (rows, columns))
    names = [name for name in one if name not in ('labels', 'inside')]
    return {
        'total': max(overlaps.shape),
        'matched': len(rows),
        'difference': {name: float(np.abs(one[name][rows] - two[name][columns]).max(initial=0)) for name in names},
        'largest': {name: float(np.abs(one[name][rows]).max(initial=0)) for name in names},
        'mask_ious': [
            _mask_iou(one['inside'][row], two['inside'][column])
            for row, column in zip(rows, columns, strict=True)
            if 'inside' in one
        ],
    }


def _detections(outputs: 'dict[str, np.ndarray]', index: int, mask_threshold: float) -> dict:
    """Return the detections of one image without padding, and `inside`, their masks as booleans."""
    count = int(outputs['count'][index])
    detections = {name: value[index][:count] for name, value in outputs.items() if name != 'count'}
    if 'masks' in detections:
        detections['inside'] = detections['masks'] > mask_threshold
    return detections


def find_fits(one: dict, two: dict, tolerance: Tolerance) -> 'np.ndarray':
    """Return `(N, M)`: whether two detections have the same class, a sufficient overlap and close scores."""
    import numpy as np

    fits = (one['labels'][:, None] == two['labels'][None]) & (_pairwise_iou(one, two) > tolerance.iou)
    return fits & (np.abs(one['scores'][:, None] - two['scores'][None]) <= tolerance.score)


def count_repeated(
    task: str,
    outputs: 'dict[str, np.ndarray]',
    references: 'Sequence[dict[str, np.ndarray]]',
    tolerance: Tolerance,
    mask_threshold: float,
) -> tuple[int, int]:
    """Count detections, or pixels of a class map, that occur in any of the references; return count and total.

    Args:
        task: key of `rules.OUTPUTS`.
        outputs: outputs for one batch.
        references: other outputs for the same batch.
        tolerance: the matching criteria.
        mask_threshold: mask values above it are inside.
    """
    import numpy as np

    if task == 'semantic':
        repeated = np.any([outputs['seg'] == reference['seg'] for reference in references], 0)
        return int(repeated.sum()), repeated.size
    found = total = 0
    for index in range(len(outputs['count'])):
        one = _detections(outputs, index, mask_threshold)
        others = [_detections(reference, index, mask_threshold) for reference in references]
        found += int(np.any([find_fits(one, other, tolerance).any(1) for other in others], 0).sum())
        total += len(one['scores'])
    return found, total


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

    from repvit_dense.artifact.selection import overlaps

    inside, area, areas = overlaps(one, two)
    union = area + areas - inside
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
