"""The parts of pycocotools that mmdet's CocoMetric uses, on hotcoco: reading annotations, matching, accumulating.

hotcoco is compiled code on all CPU cores. Its precision and recall equal those of pycocotools. Here, every file gets
consecutive ids from 1 in memory, and what may be absent is added, so that annotations given as detections score 1:

- Ids of any kind. pycocotools reads the annotation id 0 as "no match", and hotcoco refuses text and negative numbers.
- `iscrowd` is 0 and `area` the area of the mask, or of the box without one, if the file does not say otherwise.
- An object without area (no pixel for masks) has no IoU and is left out, with the detections without area of its class
  in its image.
- With more than 100 objects of a class in an image, mAP counts more than 100 detections, and the summary says so.
"""

import functools
import json
import math
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import hotcoco
from hotcoco import mask as codec
from pycocotools.cocoeval import COCOeval

from repvit_dense.errors import InputError
from repvit_dense.files import read_bytes
from repvit_dense.screen import say

LIMIT = 100  # detections of a class in an image that count for COCO's mAP


class Truth(NamedTuple):
    """The objects that one kind of evaluation matches.

    Attributes:
        engine: images and objects, with ids from 1.
        empty: pairs of image and category with objects that were left out because they have no area.
        most: by category, the largest number of its objects in an image, without crowds.
    """

    engine: hotcoco.COCO
    empty: set[tuple[int, int]]
    most: dict[int, int]


class Annotations:
    """A COCO file, with the methods that CocoMetric calls. They take and return the ids of the file.

    Args:
        file: path of the annotations.

    Raises:
        InputError: the file cannot be read, or an annotation has no box of four finite numbers.
    """

    def __init__(self, file: str | Path):
        self.file, content = file, read_bytes(file)
        try:
            self.dataset = json.loads(content)
            self.images = {record['id']: number for number, record in enumerate(self.dataset['images'], 1)}
            self.cats = {record['id']: record for record in self.dataset['categories']}
            self.sizes = {self.images[r['id']]: (int(r['height']), int(r['width'])) for r in self.dataset['images']}
            self.categories = {category: number for number, category in enumerate(self.cats, 1)}
            annotations = self.dataset.get('annotations') or []
            self._records = {
                number: annotation
                for number, annotation in enumerate(annotations, 1)
                if annotation['image_id'] in self.images and annotation['category_id'] in self.categories
            }
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(f'{file}: not COCO annotations ({error!r})') from error
        self.anns = {number: self._complete(number, annotation) for number, annotation in self._records.items()}
        self._truths: dict[str, Truth] = {}

    def _complete(self, number: int, annotation: dict) -> dict:
        """Return an annotation with ids from 1, `iscrowd`, `bbox` and `area`."""
        complete = {
            'id': number,
            'image_id': self.images[annotation['image_id']],
            'category_id': self.categories[annotation['category_id']],
            'iscrowd': int(is_crowd(annotation)),
            'segmentation': annotation.get('segmentation'),
        }
        box, area, mask = annotation.get('bbox'), annotation.get('area'), None
        if box is None or not _is_positive(area):
            with suppress(InputError):  # boxes can be evaluated without masks
                mask = self.mask(complete)
        if box is None and mask:
            box = codec.to_bbox(mask).tolist()
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
            raise InputError(f'{self.file}: annotation {annotation.get("id")}: bbox must be four finite numbers')
        if not _is_positive(area):
            area = (mask and codec.area(mask)) or max(box[2], 0) * max(box[3], 0)
        return {**complete, 'bbox': box, 'area': area}

    def mask(self, annotation: dict) -> dict | None:
        """Return the mask of an annotation from `anns` as RLE, or None without one.

        Raises:
            InputError: the mask cannot be decoded.
        """
        mask = annotation['segmentation']
        size = self.sizes[annotation['image_id']]
        try:
            if isinstance(mask, list):  # of polygons; mmdet skips those of under three points too
                polygons = [polygon for polygon in mask if len(polygon) >= 6 and len(polygon) % 2 == 0]
                mask = codec.merge(codec.frPyObjects(polygons, *size)) if polygons else None
            if mask:
                codec.area(mask)  # decodes it
                if tuple(mask['size']) != size:
                    raise ValueError(f'height and width {mask["size"]}, those of its image {list(size)}')
            return mask or None
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            name = self._records[annotation['id']].get('id')
            raise InputError(f'{self.file}: annotation {name}: the mask cannot be decoded ({error})') from error

    def truth(self, kind: str) -> Truth:
        """Return the objects for `kind` 'bbox' or 'segm'; a second call returns the same."""
        if kind not in self._truths:
            self._truths[kind] = self._truth(kind)
        return self._truths[kind]

    def _truth(self, kind: str) -> Truth:
        objects, empty = [], Counter[tuple[int, int]]()
        counts, most = Counter[tuple[int, int]](), Counter[int]()
        for each in self.anns.values():
            pair = each['image_id'], each['category_id']
            complete = {**each, 'segmentation': self.mask(each) if kind == 'segm' else None}
            if _has_area(complete, kind):
                objects.append(complete)
            else:
                empty[pair] += 1
            counts[pair] += not each['iscrowd']
            most[pair[1]] = max(most[pair[1]], counts[pair])
        if empty:
            part = 'mask' if kind == 'segm' else 'box'
            say(f'note: {self.file}: {empty.total():,} objects without area ({part}) are left out of the {kind} scores')
        images = [
            {'id': number, 'file_name': '', 'height': height, 'width': width}
            for number, (height, width) in self.sizes.items()
        ]
        categories = [{'id': number, 'name': str(number)} for number in self.categories.values()]
        engine = hotcoco.COCO({'images': images, 'categories': categories, 'annotations': objects})
        return Truth(engine, set(empty), most)

    def get_cat_ids(self, cat_names: Iterable[str] = ()) -> list:
        """Return the ids of these categories in the order of the file, which numbers the labels."""
        names = {cat_names} if isinstance(cat_names, str) else set(cat_names)
        return [category for category, record in self.cats.items() if record['name'] in names]

    def get_img_ids(self) -> list:
        """Return the ids of all images in the order of the file."""
        return list(self.images)

    def get_ann_ids(self, img_ids) -> list[int]:
        """Return the numbers of the objects of an image."""
        return self._by_image.get(self.images[img_ids], [])

    @functools.cached_property
    def _by_image(self) -> dict[int, list[int]]:
        numbers: dict[int, list[int]] = {}
        for number, annotation in self.anns.items():
            numbers.setdefault(annotation['image_id'], []).append(number)
        return numbers

    def load_anns(self, ids: list[int]) -> list[dict]:
        """Return the objects with these numbers."""
        return [self.anns[number] for number in ids]

    def loadCats(self, ids) -> list[dict]:  # noqa: N802
        """Return the record of a category, in a list."""
        return [self.cats[ids]]

    def loadRes(self, results: list[dict]) -> list[dict]:  # noqa: N802
        """Return the detections with ids from 1; raise IndexError without any, like pycocotools.

        CocoMetric catches that error and returns no scores.

        Raises:
            InputError: a detection belongs to an image that the file does not list.
        """
        if not results:
            raise IndexError('no detections')
        unknown = [each['image_id'] for each in results if each['image_id'] not in self.images]
        if unknown:
            raise InputError(
                f'{self.file}: has no image with id {unknown[0]!r}, which the data set has; '
                'the metric (ann_file) needs the annotation file of the data set'
            )
        numbers = self.images, self.categories
        return [
            {**each, 'image_id': numbers[0][each['image_id']], 'category_id': numbers[1][each['category_id']]}
            for each in results
        ]


class Evaluation(COCOeval):
    """A COCOeval that matches with hotcoco. The summary is pycocotools' own.

    Args:
        truth: the ground truth.
        detections: from its `loadRes`.
        kind: 'bbox' or 'segm'.
    """

    def __init__(self, truth: Annotations, detections: list[dict], kind: str):
        super().__init__(iouType=kind)
        self.annotations, self.detections = truth, detections

    def evaluate(self) -> None:
        """Match detections with objects."""
        kind, params = self.params.iouType, self.params
        truth = self.annotations.truth(kind)
        ranked = [each for each in self.detections if not math.isnan(each['score'])]
        if len(ranked) < len(self.detections):
            say(f'note: {len(self.detections) - len(ranked):,} detections have the score NaN and are left out')
        self.counted = [
            each
            for each in ranked
            if (each['image_id'], each['category_id']) not in truth.empty or _has_area(each, kind)
        ]
        numbers = [self.annotations.categories[each] for each in params.catIds]
        self.most = max((truth.most[each] for each in numbers), default=0) if params.useCats else 0
        params.maxDets = [*params.maxDets[:-1], max(params.maxDets[-1], self.most)]
        self.engine = hotcoco.COCOeval(truth.engine, truth.engine.load_res(self.counted), kind)
        self.engine.params.imgIds = [self.annotations.images[each] for each in params.imgIds]
        self.engine.params.catIds = numbers
        for name in ('iouThrs', 'maxDets', 'useCats'):
            setattr(self.engine.params, name, getattr(params, name))
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*max_dets differ')  # mmdet chooses other numbers on purpose
            self.engine.evaluate()

    def accumulate(self) -> None:
        """Compute precision and recall."""
        self.engine.accumulate()
        self.eval: dict = self.engine.eval or {}
        limits = list(self.params.maxDets)
        if self.most > LIMIT in limits:
            say(
                f'note: {self.annotations.file} has up to {self.most} objects of a class in an image, '
                f'so mAP counts up to {limits[-1]} detections of a class instead of {LIMIT}'
            )
            self.eval['precision'][..., limits.index(LIMIT)] = self.eval['precision'][..., -1]


def is_crowd(annotation: dict) -> bool:
    """Return whether a COCO record marks a crowd; `iscrowd` may be absent."""
    return annotation.get('iscrowd') not in (None, 0, '', '0')


def _is_finite(value) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _is_positive(value) -> bool:
    return _is_finite(value) and value > 0


def _has_area(entry: dict[str, Any], kind: str) -> bool:
    if kind == 'segm':
        return bool(entry['segmentation'] and codec.area(entry['segmentation']))
    return entry['bbox'][2] > 0 and entry['bbox'][3] > 0
