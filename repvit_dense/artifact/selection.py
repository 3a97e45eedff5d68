"""Choose among the objects of a prediction: by score, class, overlap and number."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repvit_dense.errors import InputError
from repvit_dense.screen import say


@dataclass(frozen=True)
class Selection:
    """The objects and segments that a result keeps.

    Attributes:
        score: smallest score of an object.
        labels: classes to keep; None for all.
        iou: of two objects of a class whose boxes overlap more, the one with the lower score is left out; None for no
            such limit.
        max_detections: largest number of objects of an image, the best ones; None for no limit.
    """

    score: float = 0.0
    labels: frozenset[int] | None = None
    iou: float | None = None
    max_detections: int | None = None

    def apply(self, fields: dict[str, Any], class_count: int) -> dict[str, Any]:
        """Return the arrays of a `Result` with the chosen objects or segments only."""
        if 'boxes' in fields:
            rows = self.rows(fields)
            return fields if len(rows) == len(fields['boxes']) else {key: part[rows] for key, part in fields.items()}
        if self.labels is None:
            return fields
        if 'seg' in fields:
            unnamed = np.isin(fields['seg'], [*self.labels], invert=True)
            return fields | {'seg': np.where(unnamed, max(255, class_count), fields['seg'])}
        info = [part for part in fields['segment_info'] if part['label'] in self.labels]
        shown = np.isin(fields['segments'], [part['number'] for part in info])
        return fields | {'segments': np.where(shown, fields['segments'], 0), 'segment_info': info}

    def rows(self, fields: dict[str, Any]) -> np.ndarray:
        """Return the indices of the chosen objects; all of them in their order, if nothing is left out."""
        scores, labels = fields['scores'], fields['labels']
        keep = scores >= self.score
        if self.labels is not None:
            keep &= np.isin(labels, [*self.labels])
        rows = np.flatnonzero(keep)
        if self.iou is not None:
            rows = rows[_suppress(fields['boxes'][rows], scores[rows], labels[rows], self.iou)]
        if self.max_detections is not None and len(rows) > self.max_detections:
            best = np.argsort(-scores[rows], kind='stable')[: self.max_detections]
            rows = rows[np.sort(best)]
        return rows


def overlaps(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return intersections `(N, M)` of boxes, and the areas `(N, 1)` and `(1, M)`."""
    corners = np.maximum(boxes[:, None, :2], others[None, :, :2]), np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(corners[1] - corners[0], 0, None).prod(2)
    areas = [np.clip(each[:, 2:] - each[:, :2], 0, None).prod(1) for each in (boxes, others)]
    return shared, areas[0][:, None], areas[1][None]


def _suppress(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou: float) -> np.ndarray:
    """Return the rows that class-wise non-maximum suppression keeps, in their order."""
    waiting, rows = np.argsort(-scores, kind='stable'), []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        rows.append(best)
        shared, area, areas = overlaps(boxes[best][None], boxes[waiting])
        same = (shared > iou * (area + areas - shared))[0] & (labels[waiting] == labels[best])
        waiting = waiting[~same]
    return np.sort(np.array(rows, int))


def find_labels(classes: Iterable[str | int], names: Sequence[str]) -> frozenset[int]:
    """Return the labels of classes that are named, in upper or lower case, or numbered from 0.

    A class whose name is a number wins over the class with that number, which is said.

    Raises:
        InputError: there is no such class; the most similar one is named.
    """
    folded = {name.casefold(): label for label, name in reversed(list(enumerate(names)))}
    labels = set()
    for word in map(str, classes):
        label = names.index(word) if word in names else folded.get(word.casefold())
        number = int(word) if word.isdecimal() and word.isascii() else None
        if number is not None and label is not None and label != number:
            say(f"--classes {word}: the class called '{names[label]}' is meant, not the class with that number")
        if label is None and number is not None:
            if number >= len(names):
                raise InputError(f'--classes {word}: the model has {len(names)} classes, numbered from 0')
            label = number
            say(f"--classes {word}: number of the class '{names[label]}'")
        if label is None:
            similar = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
            hint = f"did you mean '{names[folded[similar[0]]]}'?" if similar else f'it has {_listed(names)}'
            raise InputError(f"--classes: the model has no class '{word}'; {hint}")
        labels.add(label)
    return frozenset(labels)


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names[:20]) + (f' and {len(names) - 20} more' if len(names) > 20 else '')
