"""mmdet's CocoMetric on hotcoco: the same numbers, many times faster."""

import functools
from typing import TYPE_CHECKING
from unittest.mock import patch

from mmengine.registry import METRICS

if TYPE_CHECKING:
    from mmdet.evaluation import CocoMetric


@METRICS.register_module(name='DenseCocoMetric')
def dense_coco_metric(**settings) -> 'CocoMetric':
    """Build a CocoMetric that evaluates with hotcoco; arguments, names and scores are those of CocoMetric."""
    return _metric_class()(**settings)


@functools.cache
def _metric_class() -> 'type[CocoMetric]':
    """Define the class at the first use, because importing this module must not import mmdet."""
    from mmdet.evaluation import CocoMetric
    from mmengine.fileio import dump, load

    from repvit_dense.compat.coco_api import Annotations, Evaluation

    # The metric looks these names up in its module; a subclass cannot override them.
    replace = functools.partial(patch.multiple, CocoMetric.__module__)

    class DenseCocoMetric(CocoMetric):
        def __init__(self, **settings):
            with replace(COCO=Annotations):
                super().__init__(**settings)
            self.evaluations = {}  # of the last results, by kind: 'bbox', 'segm'

        def compute_metrics(self, results):
            self.evaluations.clear()

            def evaluation(truth, results, kind):
                self.evaluations[kind] = Evaluation(truth, results, kind)
                return self.evaluations[kind]

            # The metric writes its detections to files and reads them back at once; keep them in memory instead.
            detections = {}  # by file name

            def store(content, file):
                if isinstance(content, list) and self.outfile_prefix is None:
                    detections[file] = content
                else:
                    dump(content, file)

            def fetch(file):
                return detections[file] if file in detections else load(file)

            with replace(COCO=Annotations, COCOeval=evaluation, COCOevalMP=evaluation, dump=store, load=fetch):
                return super().compute_metrics(results)

    return DenseCocoMetric
