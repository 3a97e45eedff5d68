"""Confusions and errors per image of a detector, from the detections that DenseCocoMetric has matched."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from repvit_dense.engine.analysis.confusion import Confusion
from repvit_dense.engine.analysis.thresholds import IOU
from repvit_dense.engine.analysis.worst import Worst, describe_objects

if TYPE_CHECKING:
    import hotcoco

    from repvit_dense.compat.coco_api import Evaluation


class Matches:
    """The detections of at least a score, matched with the objects at IoU 0.5, the most certain first.

    Args:
        evaluation: evaluated detections.
        score: the threshold.
    """

    def __init__(self, evaluation: 'Evaluation', score: float):
        self.evaluation, self.score, self.annotations = evaluation, score, evaluation.annotations
        self.detections = [each for each in evaluation.counted if each['score'] >= score]
        self.numbers = [self.annotations.categories[each] for each in evaluation.params.catIds]  # by label
        self.engine = self._match(self.detections)

    def _match(self, detections: list[dict]) -> 'hotcoco.COCOeval':
        import hotcoco

        params, kind = self.evaluation.params, self.evaluation.params.iouType
        truth = self.annotations.truth(kind).engine
        engine = hotcoco.COCOeval(truth, truth.load_res(detections), kind)
        engine.params.catIds = self.numbers
        engine.params.imgIds = [self.annotations.images[each] for each in params.imgIds]
        engine.params.iouThrs = [IOU]
        engine.params.maxDets = list(params.maxDets)
        engine.evaluate()
        return engine

    def confusion(self, names: Sequence[str], kind: str) -> Confusion:
        """Return the confusion matrix: objects of any class are matched, each with one detection.

        Detections of a crowd are neither right nor wrong, and left out.
        """
        status = self.engine.image_diagnostics(iou_thr=IOU, score_thr=2.0)['dt_status']
        counted = [each for number, each in enumerate(self.detections, 1) if number in status]
        engine = self.engine if len(counted) == len(self.detections) else self._match(counted)
        found = engine.confusion_matrix(iou_thr=IOU)
        order = [found['cat_ids'].index(number) for number in self.numbers] + [len(found['cat_ids'])]
        counts = found['matrix'].astype(np.int64)[np.ix_(order, order)]
        return Confusion(counts, names, f'objects at {kind} IoU {IOU}, --score {self.score:.3f}')

    def rank(self, worst: Worst, files: dict[Any, str]) -> None:
        """Offer every image, the worse the more objects are missed or false.

        Args:
            worst: takes the images.
            files: image id of the data set -> file.
        """
        ids = {number: identity for identity, number in self.annotations.images.items()}
        detections: dict[int, list[dict]] = {}
        for each in self.detections:
            detections.setdefault(each['image_id'], []).append(each)
        for number, image in sorted(self.engine.image_diagnostics(iou_thr=IOU, score_thr=0.0)['img_summary'].items()):
            missed, false = image['fn'], image['fp']
            if ids[number] in files:
                text = describe_objects(missed, false)
                sides = partial(self._sides, ids[number], detections.get(number, []))
                worst.offer(missed + false, files[ids[number]], text, sides)

    def _sides(self, identity: Any, detections: list[dict]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return ground truth and detections of an image, as fields of a `Result`."""
        objects = [
            {**each, 'segmentation': self.annotations.mask(each)}
            for each in self.annotations.load_anns(self.annotations.get_ann_ids(identity))
        ]
        scores = np.array([each['score'] for each in detections if each['category_id'] in self.numbers])
        return self._fields(objects), {**self._fields(detections), 'scores': scores}

    def _fields(self, parts: list[dict]) -> dict[str, Any]:
        labels = {number: label for label, number in enumerate(self.numbers)}
        parts = [each for each in parts if each['category_id'] in labels]
        fields: dict[str, Any] = {
            'labels': np.array([labels[each['category_id']] for each in parts], int),
            'boxes': np.array(list(self._boxes(parts)), float).reshape(-1, 4),
        }
        if self.evaluation.params.iouType == 'segm' and all(each['segmentation'] for each in parts):
            fields['masks'] = [self._decode(each['segmentation']) for each in parts]
        return fields

    def _boxes(self, parts: list[dict]) -> Iterator[list[float]]:
        from hotcoco import mask

        for each in parts:
            x, y, width, height = each.get('bbox') or mask.to_bbox(each['segmentation']).tolist()
            yield [x, y, x + width, y + height]

    def _decode(self, segmentation: dict) -> np.ndarray:
        from hotcoco import mask

        return mask.decode(segmentation).astype(bool)
