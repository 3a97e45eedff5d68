"""Confusions and errors per image of pixels and segments, counted while the images are tested."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_dist_info

from repvit_dense.engine.analysis.confusion import Confusion
from repvit_dense.engine.analysis.worst import LIMIT, Bad, Worst, describe_objects
from repvit_dense.engine.results import arrays, ground_truth

if TYPE_CHECKING:
    from mmengine.structures import BaseDataElement


class Regions:
    """Counts of one test.

    Args:
        names: class names.
        size: number of images; a distributed test repeats some at its end, which are left out.
    """

    rule = ''  # the things that are counted
    order = ''  # the reason why an image is bad

    def __init__(self, names: Sequence[str], size: int):
        self.names, self.size = names, size
        self.worst, self.ignored = Worst(), 255
        self.counts = np.zeros((len(names) + 1, len(names) + 1), np.int64)
        self._position, self._step = get_dist_info()

    def is_repeated(self) -> bool:
        """Count an image; return whether it was counted already by another process."""
        position, self._position = self._position, self._position + self._step
        return position >= self.size

    def gather(self) -> list[Bad]:
        """Add the counts of all processes; return the worst images of all. Every process has to call this."""
        parts = all_gather_object((self.counts, self.worst.images()))
        self.counts = np.sum([counts for counts, _ in parts], 0)
        return sorted((image for _, images in parts for image in images), reverse=True)[:LIMIT]

    def confusion(self) -> Confusion:
        """Return the confusion matrix."""
        return Confusion(self.counts, self.names, self.rule)


class Pixels(Regions):
    """Pixels of semantic labels; an image is the worse the larger the share of its labelled pixels that is wrong."""

    rule, order = 'pixels', 'largest share of wrong pixels'

    def add(self, sample: 'BaseDataElement') -> None:
        """Count the pixels of a data sample of mmseg."""
        if self.is_repeated():
            return
        predicted = next(iter(sample.pred_sem_seg.values())).flatten().long()
        truth = next(iter(sample.gt_sem_seg.values())).flatten().to(predicted)
        classes = len(self.names)
        labelled = (truth < classes) & (truth >= 0) & (truth != self.ignored)
        pairs = torch.bincount(truth[labelled] * classes + predicted[labelled], minlength=classes**2)
        counts = pairs.reshape(classes, classes).cpu().numpy()
        self.counts[:classes, :classes] += counts
        share = 1 - np.trace(counts) / max(counts.sum(), 1) if counts.any() else 0.0
        self.worst.offer(share, sample.img_path, self._describe(share, counts), lambda: _sides(sample, classes))

    def _describe(self, share: float, counts: np.ndarray) -> str:
        for true, predicted, *_ in Confusion(counts, self.names, '').pairs()[:1]:
            return f'{share:.1%} of the pixels wrong, most of them {true} taken for {predicted}'
        return ''

    def confusion(self) -> Confusion:
        """Return the confusion matrix; every pixel has a class."""
        return Confusion(self.counts[:-1, :-1], self.names, self.rule)


class Segments(Regions):
    """Panoptic segments; an image is the worse the more of them are missed, false or of another class."""

    rule, order = 'segments at IoU 0.5', 'most segments missed, false or of another class'

    def add(self, sample: 'BaseDataElement', pairs: Sequence[tuple[int | None, int | None]]) -> None:
        """Count the segments of a data sample of mmdet, from the pairs of labels of `count_segments`."""
        if self.is_repeated():
            return
        errors: Counter[str] = Counter()
        for true, predicted in pairs:
            self.counts[-1 if true is None else true, -1 if predicted is None else predicted] += 1
            kind = 'missed' if predicted is None else 'false' if true is None else 'confused'
            errors[kind] += true != predicted
        self.worst.offer(
            errors.total(), sample.img_path, describe_objects(**errors), lambda: _sides(sample, len(self.names))
        )


def _sides(sample: 'BaseDataElement', classes: int) -> tuple[dict, dict]:
    sample = sample.cpu()
    return ground_truth(sample, classes), arrays(sample, classes)
