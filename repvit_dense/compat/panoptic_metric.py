"""mmdet's CocoPanopticMetric with segments counted in memory, for ids of any kind.

mmdet's own count goes through PNG files, needs `iscrowd` and a correct `area` of every segment, and takes the class 0
for void if it is stuff. This one counts pixels and equals it on complete files.
"""

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mmengine.registry import METRICS

from repvit_dense.compat.panoptic_api import VOID, PQStat, rgb2id
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmdet.evaluation import CocoPanopticMetric


@METRICS.register_module(name='DensePanopticMetric')
def dense_panoptic_metric(**settings) -> 'CocoPanopticMetric':
    """Build a CocoPanopticMetric that counts in memory; arguments, names and scores are those of CocoPanopticMetric."""
    return _metric_class()(**settings)


@functools.cache
def _metric_class() -> 'type[CocoPanopticMetric]':
    """Define the class at the first use, because importing this module must not import mmdet."""
    import mmcv
    from mmdet.evaluation import INSTANCE_OFFSET, CocoPanopticMetric
    from mmengine.fileio import get

    class DensePanopticMetric(CocoPanopticMetric):
        counts: PQStat | None = None  # of the last results

        def _compute_batch_pq_stats(self, data_samples):
            if self._coco_api is None:
                super()._compute_batch_pq_stats(data_samples)
                return
            categories = dict(enumerate(self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])))
            for sample in data_samples:
                identity, part = sample['img_id'], sample['pred_panoptic_seg']
                if identity not in self._coco_api.imgs:
                    raise InputError(f'the panoptic metric has no image with id {identity!r}, which the data set has')
                file = Path(self.seg_prefix, self._coco_api.imgs[identity]['segm_file'])
                content = get(file, backend_args=self.backend_args)
                truth = rgb2id(mmcv.imfrombytes(content, flag='color', channel_order='rgb'))
                predicted = part['sem_seg'].cpu().numpy()[0]
                if truth.shape != predicted.shape:
                    raise InputError(f'{file}: height and width {truth.shape}, those of its image {predicted.shape}')
                named = {label: each for label, each in categories.items() if label != part.get('ignore_index')}
                numbers = np.unique(predicted).tolist()
                segments = {n: named[n % INSTANCE_OFFSET] for n in numbers if n % INSTANCE_OFFSET in named}
                stat = sys.modules[CocoPanopticMetric.__module__].PQStat()  # panopticapi's own if that is installed
                listed = self._coco_api.imgToAnns[identity]
                stat.pairs = count_segments(stat, truth, listed, predicted, segments)
                self.results.append(stat)

        def compute_metrics(self, results):
            if self.tmp_dir is not None:
                self.counts = sys.modules[CocoPanopticMetric.__module__].PQStat()
                for stat in results:
                    self.counts += stat
            return super().compute_metrics(results)

    return DensePanopticMetric


def count_segments(
    stat: PQStat, truth: np.ndarray, listed: list[dict], predicted: np.ndarray, segments: dict[int, int]
) -> list[tuple[int | None, int | None]]:
    """Match the segments of an image and count them (arXiv 1801.00868, section 4).

    A listed segment without a pixel is left out, and pixels of a segment that is not listed are void.

    Args:
        stat: the counts by category, which this function adds to.
        truth: `(H, W)` segment ids.
        listed: COCO records of these segments: `id`, `category_id`, and `iscrowd` unless it is 0.
        predicted: `(H, W)` numbers of the predicted segments.
        segments: number -> category id; a number without entry is void.

    Returns:
        category of the ground truth and predicted category of each segment. Both differ if an unmatched segment covers
        a predicted one of another category with an IoU above 0.5; one is None if nothing does.
    """
    from repvit_dense.compat.coco_api import is_crowd  # imports hotcoco

    ids, rows = np.unique(truth, return_inverse=True)
    numbers, columns = np.unique(predicted, return_inverse=True)
    index = rows.ravel() * len(numbers) + columns.ravel()
    pixels = np.bincount(index, minlength=len(ids) * len(numbers)).reshape(len(ids), -1)  # of each pair of segments
    records = {each['id']: each for each in listed}
    real = [records.get(number) if number != VOID else None for number in ids.tolist()]
    void = pixels[[each is None for each in real]].sum(0)
    unmatched = {column: segments[n] for column, n in enumerate(numbers.tolist()) if n in segments}
    pairs: list[tuple[int | None, int | None]] = []
    missed = []
    for row, record in enumerate(real):
        if record is None or is_crowd(record):
            continue
        counts, unions = stat[record['category_id']], pixels[row].sum() + pixels.sum(0) - pixels[row] - void
        column = next((c for c in unmatched if 2 * pixels[row, c] > unions[c]), None)  # no other segment can
        if column is not None and unmatched[column] == record['category_id']:
            counts.tp += 1
            counts.iou += pixels[row, column] / unions[column]
            pairs.append((record['category_id'], unmatched.pop(column)))
        else:
            counts.fn += 1
            missed.append((record['category_id'], column))
    false = set()
    for column, category in unmatched.items():
        crowd = [each is not None and is_crowd(each) and each['category_id'] == category for each in real]
        if 2 * (void[column] + pixels[crowd, column].sum()) <= pixels[:, column].sum():
            stat[category].fp += 1
            false.add(column)
    pairs += [(category, unmatched[column] if column in false else None) for category, column in missed]
    confused = {column for _, column in missed}
    return pairs + [(None, unmatched[column]) for column in sorted(false - confused)]
