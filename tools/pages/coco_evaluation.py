"""Evaluate randomly drawn detections with COCO metrics, by pycocotools and by the metric of this package's configs."""

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
SIDES = 8, 300  # shortest and longest side of an object, in pixels
CORNERS = 24  # vertices of a polygon
CROWDS = 0.01  # fraction of objects that are crowds
DETECTIONS = 30  # per image; half of them near objects, the others anywhere
NOISE = 0.15  # standard deviation of detections near objects, relative to width and height
MISTAKEN = 0.1  # fraction of detections near objects that have a random class


def evaluations(
    images: int = 5000, objects: int = 7, classes: int = 80, seed: int = 0
) -> dict[str, Callable[[], 'np.ndarray']]:
    """Return two evaluations of the same detections, to be timed against each other.

    A call does the work of mmdet's CocoMetric before and after a validation: it reads the annotation file and computes
    the box and mask scores of detections in memory.

    Args:
        images: number of images.
        objects: objects per image.
        classes: number of classes.
        seed: random seed.

    Returns:
        Library name -> function that returns COCO's summaries of boxes and masks, `(2, 12)`.
    """
    from mmdet.evaluation import CocoMetric

    from repvit_dense.compat.coco_metric import dense_coco_metric

    truth, results = draw(images, objects, classes, seed)
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name, 'truth.json')
    file.write_text(json.dumps(truth))
    names = [category['name'] for category in truth['categories']]

    def evaluate(build: Callable) -> 'np.ndarray':
        assert folder  # keeps the folder until both functions are deleted
        with redirect_stdout(StringIO()):
            return summaries(build(ann_file=str(file), metric=['bbox', 'segm']), names, results)

    return {'pycocotools': lambda: evaluate(CocoMetric), 'hotcoco': lambda: evaluate(dense_coco_metric)}


def summaries(metric, names: list[str], results: list[tuple[dict, dict]]) -> 'np.ndarray':
    """Return COCO's summary of each kind of a CocoMetric, `(kinds, 12)`.

    Reads the unrounded numbers from COCOeval, because the metric itself returns three digits.
    """
    import numpy as np
    from pycocotools.cocoeval import COCOeval

    stats, summarize = [], COCOeval.summarize

    def summarize_and_record(evaluation):
        summarize(evaluation)
        stats.append(evaluation.stats)

    metric.dataset_meta = {'classes': names}
    with patch.object(COCOeval, 'summarize', summarize_and_record):
        metric.compute_metrics(results)
    return np.stack(stats)


def draw(images: int, objects: int, classes: int, seed: int) -> tuple[dict, list[tuple[dict, dict]]]:
    """Draw elliptic objects and detections.

    Returns:
        The ground truth in COCO's layout; and for each image its size and its detections as CocoMetric stores them:
        float32 boxes and scores, run-length encoded masks.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    records, results = [], []
    annotations: list[dict] = []
    for image in range(1, images + 1):
        boxes, labels = _boxes(random, objects), random.integers(0, classes, objects)
        for box, label, crowd in zip(boxes, labels, random.random(objects) < CROWDS, strict=True):
            annotations.append(_annotation(len(annotations) + 1, image, box, int(label), bool(crowd)))
        records.append({'id': image, 'file_name': f'{image}.jpg', 'height': HEIGHT, 'width': WIDTH})
        size = {'img_id': image, 'height': HEIGHT, 'width': WIDTH}
        results.append((size, {'img_id': image, **_detections(random, boxes, labels, classes)}))
    categories = [{'id': number + 1, 'name': f'class {number}'} for number in range(classes)]
    return {'images': records, 'annotations': annotations, 'categories': categories}, results


def _boxes(random: 'np.random.Generator', count: int) -> 'np.ndarray':
    """Return boxes `(count, 4)` as x y width height in pixels, inside the image."""
    import numpy as np

    shortest, longest = np.log(SIDES)
    extent = np.exp(random.uniform(shortest, longest, (count, 2)))
    return np.concatenate([random.uniform(0, 1, (count, 2)) * ((WIDTH, HEIGHT) - extent), extent], axis=1)


def _annotation(number: int, image: int, box: 'np.ndarray', label: int, crowd: bool) -> dict:
    from pycocotools import mask as codec

    (rle,) = _encode_masks(box[None])
    return {
        'id': number,
        'image_id': image,
        'category_id': label + 1,
        'bbox': box.tolist(),
        'area': float(codec.area(rle)),
        'iscrowd': int(crowd),
        'segmentation': {**rle, 'counts': rle['counts'].decode()} if crowd else _polygons(box[None]).tolist(),
    }


def _detections(random: 'np.random.Generator', boxes: 'np.ndarray', labels: 'np.ndarray', classes: int) -> dict:
    import numpy as np

    half = DETECTIONS // 2
    source = random.integers(0, len(boxes), half)
    noise = NOISE * random.standard_normal((half, 4))
    near = boxes[source] + noise * boxes[source][:, [2, 3, 2, 3]]
    near[:, 2:] = np.maximum(near[:, 2:], 1)
    guesses = random.integers(0, classes, DETECTIONS)
    guesses[:half] = np.where(random.random(half) < MISTAKEN, guesses[:half], labels[source])
    detected = np.concatenate([near, _boxes(random, DETECTIONS - half)])
    scores = np.concatenate([1 - np.abs(noise).mean(1), random.random(DETECTIONS - half)])
    corners = np.concatenate([detected[:, :2], detected[:, :2] + detected[:, 2:]], axis=1)
    arrays = {'bboxes': corners.astype(np.float32), 'scores': scores.astype(np.float32), 'labels': guesses}
    return {**arrays, 'masks': _encode_masks(detected)}


def _polygons(boxes: 'np.ndarray') -> 'np.ndarray':
    """Return the ellipses inscribed in boxes `(N, 4)` as polygons `(N, 2 * CORNERS)`, x1 y1 x2 y2 ..."""
    import numpy as np

    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (boxes[:, None, :2] + boxes[:, None, 2:] * (1 + circle) / 2).reshape(len(boxes), -1)


def _encode_masks(boxes: 'np.ndarray') -> list[dict]:
    from pycocotools import mask as codec

    return codec.frPyObjects(_polygons(boxes).tolist(), HEIGHT, WIDTH)
