"""`panopticapi` for mmdet's panoptic parts, which import four names of it.

That package is published as a repository only, no index has it. Where it is not installed, :func:`install` puts two
modules of these names in its place. Matching segments and counting them is mmdet's own code.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import numpy as np

VOID = 0  # id of pixels that no segment owns
OFFSET = 256**3  # above every segment id


def rgb2id(color: np.ndarray) -> np.ndarray:
    """Segment ids of a panoptic PNG: `(H, W, 3)` in RGB order -> `(H, W)` int32, R + 256 G + 256^2 B."""
    red, green, blue = np.moveaxis(np.asarray(color, dtype=np.int32), -1, 0)
    return red + 256 * green + 256**2 * blue


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """The inverse of `rgb2id`: `(H, W)` integers from 0 to 256^3 - 1 -> `(H, W, 3)` uint8 in RGB order."""
    ids = np.asarray(ids)
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


@dataclass
class Counts:
    """Of one category: matched segments, the sum of their IoU, predictions and truths without a match."""

    tp: int = 0
    iou: float = 0.0
    fp: int = 0
    fn: int = 0

    def quality(self) -> dict[str, float]:
        """Panoptic, segmentation and recognition quality, 0 to 1 (arXiv 1801.00868, section 4.2)."""
        weight = self.tp + (self.fp + self.fn) / 2
        values = {'pq': self.iou / weight, 'rq': self.tp / weight} if weight else {'pq': 0.0, 'rq': 0.0}
        return {**values, 'sq': self.iou / self.tp if self.tp else 0.0}


class PQStat:
    """Counts by category id."""

    def __init__(self):
        self._of = defaultdict(Counts)

    def __getitem__(self, category: int) -> Counts:
        return self._of[category]

    def __iadd__(self, other: 'PQStat') -> 'PQStat':
        for category, more in other._of.items():
            mine = self._of[category]
            mine.tp, mine.iou, mine.fp, mine.fn = (
                mine.tp + more.tp,
                mine.iou + more.iou,
                mine.fp + more.fp,
                mine.fn + more.fn,
            )
        return self

    def pq_average(self, categories: dict[int, dict], isthing: bool | None) -> tuple[dict, dict[int, dict]]:
        """Mean over the categories that occur, in truth or prediction.

        Args:
            categories: id -> its COCO record, of which `isthing` is read.
            isthing: True for things only, False for stuff only, None for all.

        Returns:
            the means `pq`, `sq`, `rq` and the number `n` of categories they are taken over; the same three by category.
        """
        asked = [i for i, category in categories.items() if isthing in (None, bool(category['isthing']))]
        each = {i: self._of[i].quality() for i in asked}
        present = [each[i] for i in asked if self._of[i] != Counts()]
        mean = {key: sum(values[key] for values in present) / max(len(present), 1) for key in ('pq', 'sq', 'rq')}
        return {**mean, 'n': len(present)}, each


def install() -> None:
    """Make `panopticapi.utils` and `panopticapi.evaluation` importable; does nothing where the package is there."""
    if 'panopticapi' in sys.modules or find_spec('panopticapi'):
        return
    names = {'': {}, '.utils': {'rgb2id': rgb2id, 'id2rgb': id2rgb}}
    names['.evaluation'] = {'VOID': VOID, 'OFFSET': OFFSET, 'PQStat': PQStat, **names['.utils']}
    package = None
    for suffix, content in names.items():
        module = ModuleType(f'panopticapi{suffix}', doc='Stands in for panopticapi, see repvit_dense.engine.')
        module.__spec__ = ModuleSpec(module.__name__, None, origin=__name__, is_package=not suffix)
        module.__dict__.update(content)
        sys.modules[module.__name__] = module
        if suffix:
            setattr(package, suffix[1:], module)
        else:
            package, module.__path__ = module, []
