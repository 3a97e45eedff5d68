"""The parts of pycocotools that mmdet's CocoMetric uses, on hotcoco: reading annotations, matching, accumulating.

hotcoco is compiled code on all CPU cores. Its precision and recall equal those of pycocotools, with one exception: an
object with annotation id 0 can be matched. pycocotools reads the id 0 as "no match".
"""

import warnings

import hotcoco
from pycocotools.cocoeval import COCOeval

# Parameters that the metric sets before it evaluates; both libraries use the same names.
PARAMETERS = ('imgIds', 'catIds', 'iouThrs', 'maxDets', 'useCats')


class Annotations(hotcoco.COCO):
    """A COCO file, with the methods that CocoMetric calls."""

    def get_cat_ids(self, cat_names=()) -> list[int]:  # type: ignore[override]
        """Return the ids of these categories in the order of the file, which numbers the labels; hotcoco sorts them."""
        return [number for number, category in self.cats.items() if category['name'] in cat_names]

    def loadRes(self, results: list[dict]) -> hotcoco.COCO:  # type: ignore[override]  # noqa: N802
        """Return the detections as a COCO object; raise IndexError without any, like pycocotools.

        CocoMetric catches that error and returns no scores.
        """
        if not results:
            raise IndexError('no detections')
        return super().loadRes(results)


class Evaluation(COCOeval):
    """A COCOeval that matches with hotcoco. The summary is pycocotools' own: its mAP uses at most 100 detections."""

    def evaluate(self) -> None:
        """Match detections with objects."""
        self.engine = hotcoco.COCOeval(self.cocoGt, self.cocoDt, self.params.iouType)
        for name in PARAMETERS:
            setattr(self.engine.params, name, getattr(self.params, name))
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*max_dets differ')  # mmdet chooses other numbers on purpose
            self.engine.evaluate()

    def accumulate(self) -> None:
        """Compute precision and recall."""
        self.engine.accumulate()
        self.eval = self.engine.eval


def read(file: str):
    """Return the annotations of a COCO file; those of pycocotools if an id is text, which hotcoco refuses."""
    from mmdet.datasets.api_wrappers import COCO

    try:
        return Annotations(file)
    except ValueError:
        return COCO(file)


def evaluation(truth, detections, kind: str) -> COCOeval:
    """Return the evaluation for annotations from `read`; `kind` is 'bbox' or 'segm'."""
    return (Evaluation if isinstance(truth, Annotations) else COCOeval)(truth, detections, kind)
