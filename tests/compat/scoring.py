"""Helpers for the tests of COCO scores."""


def names(truth):
    """Return the class names of an annotation file."""
    return [category['name'] for category in truth['categories']]


def scores(metrics, classes, results):
    """Return the result of each metric."""
    for metric in metrics:
        metric.dataset_meta = {'classes': classes}
    return [metric.compute_metrics(list(results)) for metric in metrics]
