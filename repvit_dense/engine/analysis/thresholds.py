"""Precision, recall and F1 of a detector at every score, and the score threshold with the best F1, at IoU 0.5."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repvit_dense.engine.analysis.figures import label, new_figure, save

if TYPE_CHECKING:
    from repvit_dense.compat.coco_api import Evaluation

IOU = 0.5
MOST_LINES = 10  # classes with a colour and a name
GRID = np.linspace(0, 1, 1001)  # scores at which the mean over classes is computed
NAMES = 'F1', 'at score', 'precision', 'recall'


@dataclass
class ClassCurve:
    """The curve of one class that has objects.

    Attributes:
        label: the class.
        objects: number of its objects, without crowds.
        scores: scores of its detections in descending order; those matched with a crowd are left out.
        true: number of correct detections among the first 0, 1, 2, ... of them.
        envelope: COCO's precision at its 101 recalls, whose mean is AP50.
    """

    label: int
    objects: int
    scores: np.ndarray
    true: np.ndarray
    envelope: np.ndarray

    def f1(self, thresholds: np.ndarray) -> np.ndarray:
        """Return F1 of the detections with at least each score."""
        count = np.searchsorted(-self.scores, -thresholds, side='right')
        return 2 * self.true[count] / (count + self.objects)

    def best(self) -> tuple[float, float, float, float]:
        """Return the best F1, the highest threshold that has it, and precision and recall there."""
        if not len(self.scores):
            return 0.0, 1.0, 0.0, 0.0
        top = int(self.f1(self.scores).argmax())
        count = np.searchsorted(-self.scores, -self.scores[top], side='right')
        true = float(self.true[count])
        return float(self.f1(self.scores)[top]), float(self.scores[top]), true / int(count), true / self.objects


def curves(evaluation: 'Evaluation') -> list[ClassCurve]:
    """Return the curves of the classes that have objects; none if the evaluation was not made at IoU 0.5."""
    index = np.flatnonzero(np.isclose(evaluation.params.iouThrs, IOU))
    if not index.size or evaluation.eval.get('precision') is None:
        return []
    envelopes = evaluation.eval['precision'][index[0], :, :, 0, -1].T
    found = evaluation.engine.image_diagnostics(iou_thr=IOU, score_thr=2.0)  # no score is as high: no further lists
    numbers = [evaluation.annotations.categories[each] for each in evaluation.params.catIds]
    status = np.array([found['dt_status'].get(i, '') for i in range(1, len(evaluation.counted) + 1)])
    categories = np.array([each['category_id'] for each in evaluation.counted])
    scores = np.array([each['score'] for each in evaluation.counted], float)
    objects = dict.fromkeys(numbers, 0)
    for number in found['gt_status']:
        objects[evaluation.annotations.anns[number]['category_id']] += 1
    lines = []
    for label_, number in enumerate(numbers):
        if objects[number]:
            chosen = np.flatnonzero((categories == number) & (status != ''))
            chosen = chosen[np.argsort(-scores[chosen], kind='stable')]
            true = np.concatenate([[0], np.cumsum(status[chosen] == 'tp')])
            lines.append(ClassCurve(label_, objects[number], scores[chosen], true, np.maximum(envelopes[label_], 0)))
    return lines


def best_threshold(lines: Sequence[ClassCurve]) -> tuple[float, float]:
    """Return the score threshold with the best mean F1 over the classes, and this F1."""
    mean = np.mean([line.f1(GRID) for line in lines], axis=0)
    top = np.flatnonzero(mean >= mean.max() - 1e-9)
    run = top[: np.flatnonzero(np.diff(top, append=len(GRID) + 2) > 1)[0] + 1]  # the first plateau
    return float(GRID[run[len(run) // 2]]), float(mean.max())


def columns(lines: Sequence[ClassCurve], classes: int) -> dict[str, list[float | None]]:
    """Return for each class the best F1, the score threshold for it, and precision and recall there."""
    values: dict[str, list[float | None]] = {name: [None] * classes for name in NAMES}
    for line in lines:
        for name, value in zip(NAMES, line.best(), strict=True):
            values[name][line.label] = value
    return values


def draw(lines: Sequence[ClassCurve], names: Sequence[str], path: Path, kind: str) -> None:
    """Draw precision against recall, and F1 against the score threshold.

    Args:
        lines: curves of the classes, at least one.
        names: names of all classes.
        path: the file.
        kind: 'box' or 'mask', for the title.
    """
    figure = new_figure((13, 5.5))
    left, right = figure.subplots(1, 2)
    recalls = np.linspace(0, 1, lines[0].envelope.size)
    lines = sorted(lines, key=lambda line: line.envelope.mean())  # the weakest classes first
    for i, line in enumerate(lines):
        style = {'linewidth': 1.2} if i < MOST_LINES else {'linewidth': 0.7, 'color': '0.8', 'zorder': 1}
        name = f'{label(names[line.label], 24)} {line.envelope.mean():.2f}' if i < MOST_LINES else None
        left.plot(recalls, line.envelope, label=name, **style)
        right.plot(GRID, line.f1(GRID), **style)
    threshold, best = best_threshold(lines)
    mean = {'color': 'black', 'linewidth': 2.2}
    left.plot(recalls, np.mean([line.envelope for line in lines], axis=0), label='mean', **mean)
    right.plot(GRID, np.mean([line.f1(GRID) for line in lines], axis=0), **mean)
    right.axvline(threshold, color='black', linestyle=':')
    right.set(title=f'best mean F1 {best:.2f} at --score {threshold:.3f}', xlabel='score threshold', ylabel='F1')
    left.set(title=f'{kind} IoU {IOU}', xlabel='recall', ylabel='precision')
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    title = 'AP50' if len(lines) <= MOST_LINES else f'AP50, the {MOST_LINES} lowest'
    left.legend(title=title, fontsize='small', loc='lower left')
    save(figure, path)
