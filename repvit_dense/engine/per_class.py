"""Scores per class, from the metrics of the last validation or test, which return the same scores as without them."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mmengine.evaluator import Evaluator

    from repvit_dense.compat.coco_api import Evaluation

KINDS = {'bbox': 'box', 'segm': 'mask'}


def rows(runner) -> list[dict[str, Any]]:
    """Return one dictionary per class, in the order of the labels, from the last test or validation of this process.

    Its keys are `class`, and those of the metrics: `objects`, `box AP`, `mask AP50` and so on from 0 to 1 (COCO);
    `share` of the pixels, `IoU`, `Acc` and so on in percent (mmseg); `segments`, `PQ`, `SQ` and `RQ` in percent
    (panoptic). A class without objects has None. The list is empty if no metric with classes has run.
    """
    for loop in (runner._test_loop, runner._val_loop):
        found = getattr(getattr(loop, 'evaluator', None), 'class_rows', None)
        if found:
            return found
    return []


def observe(evaluator: 'Evaluator') -> 'Evaluator':
    """Make an evaluator store `rows` as `class_rows` whenever it evaluates; return it.

    The matched detections behind them are released then, unless its `keep_evaluations` is set.
    """
    evaluator.class_rows, evaluator.keep_evaluations = [], False
    areas = {
        id(metric): _record_areas(metric) for metric in evaluator.metrics if hasattr(metric, 'intersect_and_union')
    }
    evaluate = evaluator.evaluate

    def evaluate_and_keep(size: int) -> dict:
        scores = evaluate(size)
        parts = [_columns(metric, areas.get(id(metric))) for metric in evaluator.metrics]
        meta = evaluator.dataset_meta or {}
        names, things = (list(meta.get(key) or ()) for key in ('classes', 'thing_classes'))
        evaluator.class_rows = _join(names, len(things), [part for part in parts if part])
        for metric in evaluator.metrics:
            if not evaluator.keep_evaluations and hasattr(metric, 'evaluations'):
                metric.evaluations.clear()
        return scores

    evaluator.evaluate = evaluate_and_keep
    return evaluator


def _join(names: list[str], things: int, parts: list[dict[str, list]]) -> list[dict[str, Any]]:
    """Return a row per class from columns for all classes, or for the things, which come first."""
    columns = {
        name: values + [None] * (len(names) - len(values))
        for part in parts
        for name, values in part.items()
        if len(values) in (len(names), things)
    }
    return [
        {'class': name, **{column: values[i] for column, values in columns.items()}}
        for i, name in enumerate(names)
        if columns
    ]


def _columns(metric, areas: dict[str, list] | None) -> dict[str, list]:
    """Return the columns of a metric, one value per label."""
    if areas is not None:
        return areas
    if getattr(metric, 'evaluations', None):
        return dict(_coco_columns(metric.evaluations))
    if getattr(metric, 'counts', None) is not None:
        return _panoptic_columns(metric)
    return {}


# --- COCO ---


def _coco_columns(evaluations: 'dict[str, Evaluation]') -> Iterator[tuple[str, list]]:
    from repvit_dense.compat.coco_api import LIMIT  # imports hotcoco

    first = next(iter(evaluations.values()))
    yield 'objects', object_counts(first)
    for kind, evaluation in evaluations.items():
        precision = evaluation.eval.get('precision')
        if precision is None or not evaluation.params.useCats:
            continue
        limits = list(evaluation.params.maxDets)
        limit = limits.index(LIMIT) if LIMIT in limits else -1  # that of mAP
        labels = range(precision.shape[2])
        yield f'{KINDS[kind]} AP', [_mean(precision[:, :, label, 0, limit]) for label in labels]
        for threshold in (0.5, 0.75):
            near = np.flatnonzero(np.isclose(evaluation.params.iouThrs, threshold))
            for index in near[:1]:
                yield (
                    f'{KINDS[kind]} AP{round(100 * threshold)}',
                    [_mean(precision[index, :, k, 0, -1]) for k in labels],
                )


def object_counts(evaluation: 'Evaluation') -> list[int]:
    """Return the number of objects of each label in the evaluated images, without crowds."""
    numbers = [evaluation.annotations.categories[each] for each in evaluation.params.catIds]
    images = {evaluation.annotations.images[each] for each in evaluation.params.imgIds}
    counts = dict.fromkeys(numbers, 0)
    for each in evaluation.annotations.anns.values():
        if each['category_id'] in counts and each['image_id'] in images:
            counts[each['category_id']] += not each['iscrowd']
    return [counts[number] for number in numbers]


def _mean(precision: np.ndarray) -> float | None:
    """Return the mean of the precisions that are defined; a class without objects has none."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None


# --- mmseg ---


def _record_areas(metric) -> dict[str, list]:
    """Return a dictionary that an IoUMetric fills at each evaluation, with the scores it computes per class."""
    columns: dict[str, list] = {}
    convert: Callable = metric.total_area_to_metrics

    def record(intersect, union, predicted, labelled, *args, **settings):
        scores = convert(intersect, union, predicted, labelled, *args, **settings)
        shares = 100 * labelled / max(float(labelled.sum()), 1)
        columns.clear()
        columns['share'] = [round(float(share), 2) for share in shares]
        for name, values in scores.items():
            if np.ndim(values):
                columns[name] = [_percent(value) for value in values.tolist()]
        return scores

    metric.total_area_to_metrics = record
    return columns


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else 100 * value


# --- panoptic ---


def _panoptic_columns(metric) -> dict[str, list]:
    categories = metric._coco_api.get_cat_ids(cat_names=metric.dataset_meta['classes']) if metric._coco_api else None
    categories = list(metric.categories) if categories is None else categories
    labels = [metric.counts[category] for category in categories]
    _, quality = metric.counts.pq_average(metric.categories, isthing=None)
    present = [counts.tp + counts.fp + counts.fn > 0 for counts in labels]
    columns: dict[str, list] = {'segments': [counts.tp + counts.fn for counts in labels]}
    for name in ('PQ', 'SQ', 'RQ'):
        values = [quality[category][name.lower()] for category in categories]
        columns[name] = [_percent(value) if there else None for value, there in zip(values, present, strict=True)]
    return columns
