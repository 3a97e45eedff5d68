"""What mmdet's CocoMetric takes from pycocotools, on hotcoco: reading annotations, matching, accumulating.

hotcoco does it in compiled code on all CPU cores. Precision and recall equal those of pycocotools, with one exception:
an object whose annotation id is 0 counts as found where it is found; pycocotools takes that id for 'no match'.
"""

import warnings

import hotcoco
from pycocotools.cocoeval import COCOeval

# What the metric sets before it evaluates; both libraries call these alike.
PARAMETERS = ('imgIds', 'catIds', 'iouThrs', 'maxDets', 'useCats')


class Annotations(hotcoco.COCO):
    """A COCO file, with the methods that CocoMetric calls."""

    def get_cat_ids(self, cat_names=()) -> list[int]:
        """Ids of these categories in the order of the file, as labels are numbered; hotcoco's own are sorted."""
        return [number for number, category in self.cats.items() if category['name'] in cat_names]

    def loadRes(self, results: list[dict]) -> hotcoco.COCO:  # noqa: N802
        if not results:
            raise IndexError('no detections')  # as pycocotools does: the metric then gives no scores
        return super().loadRes(results)


class Evaluation(COCOeval):
    """The summary is pycocotools' own: its mAP counts 100 detections, whatever `maxDets` ends with."""

    def evaluate(self) -> None:
        self.engine = hotcoco.COCOeval(self.cocoGt, self.cocoDt, self.params.iouType)
        for name in PARAMETERS:
            setattr(self.engine.params, name, getattr(self.params, name))
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*max_dets differ')  # mmdet's numbers, on purpose
            self.engine.evaluate()

    def accumulate(self) -> None:
        self.engine.accumulate()
        self.eval = self.engine.eval


def read(file: str):
    """Annotations of a COCO file; of one whose ids are text, those of pycocotools, which alone takes them."""
    from mmdet.datasets.api_wrappers import COCO

    try:
        return Annotations(file)
    except ValueError:
        return COCO(file)


def evaluation(truth, found, kind: str) -> COCOeval:
    """The evaluation of `kind` 'bbox' or 'segm' that goes with what `read` gave."""
    return (Evaluation if isinstance(truth, Annotations) else COCOeval)(truth, found, kind)
