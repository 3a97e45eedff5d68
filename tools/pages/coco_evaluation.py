"""COCO scores of drawn detections, by pycocotools and by what the configs of this package use."""

import json
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    import numpy as np

HEIGHT, WIDTH = 480, 640  # of every image, in pixels
SIDES = 8, 300  # of an object, shortest and longest, in pixels
CORNERS = 24  # of an outline
CROWDS = 0.01  # share of objects that are crowds
DETECTIONS = 30  # in an image; half of them lie around objects, the others anywhere
NOISE = 0.15  # deviation of the former from their objects, relative to width and height
MISTAKEN = 0.1  # share of the former that have some other class


def subjects(images: int = 5000, objects: int = 7, classes: int = 80, seed: int = 0) -> dict[str, Callable]:
    """Two evaluations of the same detections, to be timed against each other.

    What a call does is what mmdet's CocoMetric does once before and once after a validation: from the annotation file
    and what was found, in memory, to the scores of boxes and masks.

    Args:
        images: how many.
        objects: in each image.
        classes: of objects.
        seed: of the drawing.

    Returns:
        name of a library -> a function that gives `(2, 12)`: COCO's summary of boxes and of masks.
    """
    from mmdet.evaluation import CocoMetric

    from repvit_dense.compat.coco_metric import hotcoco_metric

    truth, results = draw(images, objects, classes, seed)
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name, 'truth.json')
    file.write_text(json.dumps(truth))
    names = [category['name'] for category in truth['categories']]

    def evaluate(build: Callable) -> 'np.ndarray':
        assert folder  # deleted with the last of these functions
        with redirect_stdout(StringIO()):
            return summaries(build(ann_file=str(file), metric=['bbox', 'segm']), names, results)

    return {'pycocotools': lambda: evaluate(CocoMetric), 'hotcoco': lambda: evaluate(hotcoco_metric)}


def summaries(metric, names: list[str], results: list[tuple[dict, dict]]) -> 'np.ndarray':
    """COCO's summary of every kind of this CocoMetric, `(kinds, 12)`; what it returns itself has three digits."""
    import numpy as np
    from pycocotools.cocoeval import COCOeval

    kept, summarize = [], COCOeval.summarize

    def keep(evaluation):
        summarize(evaluation)
        kept.append(evaluation.stats)

    metric.dataset_meta = {'classes': names}
    with patch.object(COCOeval, 'summarize', keep):
        metric.compute_metrics(results)
    return np.stack(kept)


def draw(images: int, objects: int, classes: int, seed: int) -> tuple[dict, list[tuple[dict, dict]]]:
    """Ground truth as a COCO file has it; and of each image what CocoMetric keeps: its size, and what was found in it.

    All are ellipses, scores and boxes float32, masks run-length encoded.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    records, annotations, results = [], [], []
    for image in range(1, images + 1):
        boxes, labels = _boxes(random, objects), random.integers(0, classes, objects)
        for box, label, crowd in zip(boxes, labels, random.random(objects) < CROWDS, strict=True):
            annotations.append(_annotation(len(annotations) + 1, image, box, int(label), bool(crowd)))
        records.append({'id': image, 'file_name': f'{image}.jpg', 'height': HEIGHT, 'width': WIDTH})
        size = {'img_id': image, 'height': HEIGHT, 'width': WIDTH}
        results.append((size, {'img_id': image, **_found(random, boxes, labels, classes)}))
    categories = [{'id': number + 1, 'name': f'class {number}'} for number in range(classes)]
    return {'images': records, 'annotations': annotations, 'categories': categories}, results


def _boxes(random: 'np.random.Generator', count: int) -> 'np.ndarray':
    """`(count, 4)` x y width height in pixels, inside the image."""
    import numpy as np

    extent = np.exp(random.uniform(*np.log(SIDES), (count, 2)))
    return np.concatenate([random.uniform(0, 1, (count, 2)) * ((WIDTH, HEIGHT) - extent), extent], axis=1)


def _annotation(number: int, image: int, box: 'np.ndarray', label: int, crowd: bool) -> dict:
    from pycocotools import mask as codec

    (rle,) = _encoded(box[None])
    return {
        'id': number,
        'image_id': image,
        'category_id': label + 1,
        'bbox': box.tolist(),
        'area': float(codec.area(rle)),
        'iscrowd': int(crowd),
        'segmentation': {**rle, 'counts': rle['counts'].decode()} if crowd else _outlines(box[None]).tolist(),
    }


def _found(random: 'np.random.Generator', boxes: 'np.ndarray', labels: 'np.ndarray', classes: int) -> dict:
    import numpy as np

    half = DETECTIONS // 2
    source = random.integers(0, len(boxes), half)
    noise = NOISE * random.standard_normal((half, 4))
    around = boxes[source] + noise * boxes[source][:, [2, 3, 2, 3]]
    around[:, 2:] = np.maximum(around[:, 2:], 1)
    guesses = random.integers(0, classes, DETECTIONS)
    guesses[:half] = np.where(random.random(half) < MISTAKEN, guesses[:half], labels[source])
    found = np.concatenate([around, _boxes(random, DETECTIONS - half)])
    scores = np.concatenate([1 - np.abs(noise).mean(1), random.random(DETECTIONS - half)])
    corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    arrays = {'bboxes': corners.astype(np.float32), 'scores': scores.astype(np.float32), 'labels': guesses}
    return {**arrays, 'masks': _encoded(found)}


def _outlines(boxes: 'np.ndarray') -> 'np.ndarray':
    """`(N, 4)` x y width height -> `(N, 2 * CORNERS)`, the ellipses in them as x1 y1 x2 y2 ..."""
    import numpy as np

    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (boxes[:, None, :2] + boxes[:, None, 2:] * (1 + circle) / 2).reshape(len(boxes), -1)


def _encoded(boxes: 'np.ndarray') -> list[dict]:
    from pycocotools import mask as codec

    return codec.frPyObjects(_outlines(boxes).tolist(), HEIGHT, WIDTH)
