"""Load semantic masks whose values are not the class numbers."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mmengine.registry import TRANSFORMS

if TYPE_CHECKING:
    import numpy as np


@TRANSFORMS.register_module()
class DenseLoadAnnotations:
    """mmseg's LoadAnnotations, followed by a replacement of values.

    Args:
        label_map: pairs of a value in the file and its label; 255 is ignored in training and in scores.
        arguments: of LoadAnnotations.
    """

    def __init__(self, label_map: Iterable[tuple[int, int]], **arguments: Any):
        from mmseg.datasets.transforms import LoadAnnotations

        self.label_map = tuple((value, label) for value, label in label_map)
        self.load = LoadAnnotations(**arguments)

    def __call__(self, results: dict) -> dict:
        results = self.load(results)
        results['gt_seg_map'] = apply(self.label_map, results['gt_seg_map'], results['reduce_zero_label'])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(label_map={self.label_map}, load={self.load})'


def apply(label_map: Iterable[tuple[int, int]], labels: 'np.ndarray', reduced: bool) -> 'np.ndarray':
    """Return labels `(H, W)` uint8 with the values replaced.

    Args:
        label_map: pairs of a value in the file and its label.
        labels: the values, or if `reduced`, the values minus 1, where 0 became 255.
        reduced: see `labels`.
    """
    import numpy as np

    table = np.arange(256, dtype=np.uint8)
    for value, label in label_map:
        if value >= reduced:  # 0 was replaced by the reduction
            table[value - reduced] = label
    return table[labels]
