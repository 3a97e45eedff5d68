"""Stand in for `panopticapi`, of which mmdet's panoptic parts import five names.

That package is published as a repository only, not on a package index. `patched` makes the names available for a run
where the package is not installed. mmdet itself matches and counts segments.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

PACKAGE = 'panopticapi'
VOID = 0  # id of pixels that belong to no segment
OFFSET = 256**3  # above every segment id

# The modules of mmdet that import the names, and the values they use instead if panopticapi is not installed.
WITHOUT_PACKAGE = {
    'mmdet.evaluation.functional.panoptic_utils': {'PQStat': None, 'rgb2id': None, 'VOID': VOID, 'OFFSET': OFFSET},
    'mmdet.evaluation.metrics.coco_panoptic_metric': dict.fromkeys((PACKAGE, 'PQStat', 'rgb2id', 'id2rgb', 'VOID')),
    'mmdet.apis.det_inferencer': dict.fromkeys(('id2rgb', 'VOID')),
}


def rgb2id(color: np.ndarray) -> np.ndarray:
    """Return the segment ids of a panoptic PNG: `(H, W, 3)` in RGB order -> `(H, W)` int32, R + 256 G + 256^2 B."""
    red, green, blue = np.moveaxis(np.asarray(color, dtype=np.int32), -1, 0)
    return red + 256 * green + 256**2 * blue


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """Invert `rgb2id`: `(H, W)` integers from 0 to 256^3 - 1 -> `(H, W, 3)` uint8 in RGB order."""
    ids = np.asarray(ids)
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


@dataclass
class Counts:
    """The counts of one category.

    Attributes:
        tp: matched segments.
        iou: sum of the IoU of the matched segments.
        fp: predicted segments without a match.
        fn: ground-truth segments without a match.
    """

    tp: int = 0
    iou: float = 0.0
    fp: int = 0
    fn: int = 0

    def quality(self) -> dict[str, float]:
        """Return panoptic, segmentation and recognition quality, 0 to 1 (arXiv 1801.00868, section 4.2)."""
        weight = self.tp + (self.fp + self.fn) / 2
        values = {'pq': self.iou / weight, 'rq': self.tp / weight} if weight else {'pq': 0.0, 'rq': 0.0}
        return {**values, 'sq': self.iou / self.tp if self.tp else 0.0}


class PQStat:
    """The counts of all categories, by category id."""

    def __init__(self):
        self._counts = defaultdict(Counts)

    def __getitem__(self, category: int) -> Counts:
        return self._counts[category]

    def __iadd__(self, other: 'PQStat') -> 'PQStat':
        for category, more in other._counts.items():
            counts = self._counts[category]
            counts.tp += more.tp
            counts.iou += more.iou
            counts.fp += more.fp
            counts.fn += more.fn
        return self

    def pq_average(self, categories: dict[int, dict], isthing: bool | None) -> tuple[dict, dict[int, dict]]:
        """Return the mean quality over the categories that occur in ground truth or prediction.

        Args:
            categories: id -> COCO record of the category; only `isthing` is read.
            isthing: True for things only, False for stuff only, None for all.

        Returns:
            the means `pq`, `sq`, `rq` and the number `n` of categories in them; the same three by category.
        """
        selected = [i for i, category in categories.items() if isthing in (None, bool(category['isthing']))]
        each = {i: self._counts[i].quality() for i in selected}
        present = [each[i] for i in selected if self._counts[i] != Counts()]
        mean = {key: sum(values[key] for values in present) / max(len(present), 1) for key in ('pq', 'sq', 'rq')}
        return {**mean, 'n': len(present)}, each


def install() -> bool:
    """Make `panopticapi` importable for the rest of this process; return False if it is importable already."""
    if PACKAGE in sys.modules or find_spec(PACKAGE):
        return False
    names: dict[str, dict[str, Any]] = {'': {}, '.utils': {'rgb2id': rgb2id, 'id2rgb': id2rgb}}
    names['.evaluation'] = {'VOID': VOID, 'OFFSET': OFFSET, 'PQStat': PQStat, **names['.utils']}
    for suffix, content in names.items():
        module = ModuleType(PACKAGE + suffix, doc=f'Stands in for panopticapi, see {__name__}.')
        module.__spec__ = ModuleSpec(module.__name__, None, origin=__name__, is_package=not suffix)
        module.__dict__.update(content)
        sys.modules[module.__name__] = module
        if suffix:
            setattr(sys.modules[PACKAGE], suffix[1:], module)
        else:
            module.__path__ = []
    return True


@contextmanager
def patched() -> Iterator[None]:
    """Make `panopticapi` importable inside the context, also for the modules of mmdet that looked for it before.

    At the end these modules are as mmdet leaves them without the package, including those imported inside. Objects
    built inside, such as a LoadPanopticAnnotations, keep working. An installed panopticapi is used as it is.
    """
    before = {name: _names_in(name) for name in WITHOUT_PACKAGE if name in sys.modules}
    if not install():
        yield
        return
    names = {**vars(sys.modules[f'{PACKAGE}.evaluation']), PACKAGE: sys.modules[PACKAGE]}
    for module, values in before.items():
        vars(sys.modules[module]).update({name: names[name] for name in values})
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition('.')[0] == PACKAGE]:
            del sys.modules[name]
        for name, values in WITHOUT_PACKAGE.items():
            if name in sys.modules:
                vars(sys.modules[name]).update(before.get(name, values))


def _names_in(module: str) -> dict:
    """Return the values of a module of mmdet for the names of panopticapi."""
    return {name: value for name, value in vars(sys.modules[module]).items() if name in WITHOUT_PACKAGE[module]}
