"""Check COCO annotations of objects: boxes and masks."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from repvit_dense.data.checks.coco_file import (
    IMAGE_KEYS,
    NUMBER,
    check_classes,
    complete_entries,
    duplicate_ids,
    missing_images,
)
from repvit_dense.data.checks.report import Finding, Report, findings_of
from repvit_dense.data.reading import ID, read_coco

ANNOTATION_KEYS = {'id': ID, 'image_id': ID, 'category_id': ID, 'bbox': list, 'area': NUMBER}
MARGIN = 1  # pixels by which a box may exceed its image: annotation tools round outwards
CHUNK = 100_000  # polygons whose areas are computed at once, which bounds the memory


def instances(
    file: Path, images: Path, classes: Sequence[str], masks: bool = False, filter_empty: bool = False, min_size: int = 0
) -> Report:
    """Check a COCO annotation file and that its images exist.

    Args:
        file: the annotation file.
        images: the folder that its file names are relative to.
        classes: class names of the config, in label order.
        masks: check masks too, polygons and RLE.
        filter_empty: the data set drops images without objects.
        min_size: the data set drops images whose shorter side is below this, in pixels.

    Raises:
        InputError: the file is not a COCO file, or its classes differ from `classes`. Nothing else is checked then.
    """
    content = read_coco(file)
    check_classes(file, [category['name'] for category in content['categories']], list(classes))
    records, findings = complete_entries('images', content['images'], IMAGE_KEYS)
    annotations, incomplete = complete_entries('annotations', content['annotations'], ANNOTATION_KEYS)
    findings += incomplete
    for name, entries in (('image', records), ('annotation', annotations), ('category', content['categories'])):
        findings += duplicate_ids(name, [entry['id'] for entry in entries])
    findings += missing_images(images, records)
    findings += _small_images(records, min_size)
    findings += _references(annotations, content)
    boxes = _boxes(annotations)
    rows = _image_rows(records, annotations)
    findings += _box_findings(annotations, boxes, records, rows)
    if masks:
        findings += _mask_findings(annotations, records, rows)
    findings += _images_without_objects(records, annotations, rows, boxes, filter_empty)
    summary = f'{len(records):,} images, {len(annotations):,} objects, {len(classes)} classes'
    return Report(summary, findings)


def _small_images(records: list[dict], min_size: int) -> list[Finding]:
    names = (r['file_name'] for r in records if min(r['height'], r['width']) < min_size)
    message = f'{{}} images have a side under {min_size} pixels and are left out (filter_cfg.min_size)'
    return findings_of('warning', message, names)


def _references(annotations: list[dict], content: dict) -> list[Finding]:
    categories = {category['id'] for category in content['categories']}
    unknown = (f'annotation {a["id"]}: {a["category_id"]}' for a in annotations if a['category_id'] not in categories)
    findings = findings_of('error', '{} annotations have a category that the file does not list', unknown)
    images = {record['id'] for record in content['images'] if isinstance(record.get('id'), ID)}
    orphans = (f'annotation {a["id"]}: {a["image_id"]}' for a in annotations if a['image_id'] not in images)
    return findings + findings_of('warning', '{} annotations have an image that the file does not list', orphans)


def _boxes(annotations: list[dict]) -> np.ndarray:
    """Return boxes `(N, 4)` float64, x y width height in pixels; a box that is not four numbers becomes NaN."""
    listed = [annotation['bbox'] for annotation in annotations]
    try:
        boxes = np.array(listed, np.float64)
        if boxes.shape == (len(listed), 4):
            return boxes
    except (TypeError, ValueError):
        pass
    boxes = np.full((len(listed), 4), np.nan)
    for row, box in zip(boxes, listed, strict=True):
        if isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box):
            row[:] = box
    return boxes


def _image_rows(records: list[dict], annotations: list[dict]) -> np.ndarray:
    """Return `(N,)`, the index into `records` of each annotation's image, or -1 if it is not listed."""
    index = {record['id']: row for row, record in enumerate(records)}
    return np.fromiter((index.get(a['image_id'], -1) for a in annotations), np.int64, len(annotations))


def _image_sizes(records: list[dict]) -> np.ndarray:
    """Return `(N + 1, 2)`, width and height of the images; row -1, for annotations without image, is infinite."""
    return np.array([[record['width'], record['height']] for record in records] + [[np.inf, np.inf]], np.float64)


def _box_findings(annotations: list[dict], boxes: np.ndarray, records: list[dict], rows: np.ndarray) -> list[Finding]:
    def names(faulty: np.ndarray) -> Iterator[str]:
        return (f'annotation {annotations[i]["id"]}' for i in np.flatnonzero(faulty))

    left_top, extent = boxes[:, :2], boxes[:, 2:]
    finite = np.isfinite(boxes).all(1)
    outside = ((left_top < -MARGIN) | (left_top + extent > _image_sizes(records)[rows] + MARGIN)).any(1) & finite
    narrow = (extent < 1).any(1) & finite
    return [
        *findings_of('error', '{} boxes are not four finite numbers x, y, width, height', names(~finite)),
        *findings_of('warning', '{} boxes reach outside their image', names(outside)),
        *findings_of('warning', '{} boxes are narrower than a pixel and are left out', names(narrow)),
    ]


def _images_without_objects(
    records: list[dict], annotations: list[dict], rows: np.ndarray, boxes: np.ndarray, filter_empty: bool
) -> list[Finding]:
    """Find images without any object to learn from; crowds and objects that the loader drops do not count."""
    if not records:
        return [Finding('error', 'the file lists no images', [])]
    crowd = np.fromiter((bool(a.get('iscrowd') or a.get('ignore')) for a in annotations), bool, len(annotations))
    usable = ~crowd & (boxes[:, 2:] >= 1).all(1) & (rows >= 0)
    counts = np.bincount(rows[usable], minlength=len(records))
    empty = np.flatnonzero(counts == 0)
    level = 'error' if filter_empty and len(empty) == len(records) else 'warning'
    message = f'{{}} of the {len(records):,} images have no object, or only crowds'
    return findings_of(level, message, (records[i]['file_name'] for i in empty))


def _mask_findings(annotations: list[dict], records: list[dict], rows: np.ndarray) -> list[Finding]:
    """Find masks that cannot be decoded (errors) and those that the loader drops with their object (warnings)."""
    missing, invalid, short, wrong_size, polygons, owners = [], [], [], [], [], []
    for number, (annotation, row) in enumerate(zip(annotations, rows.tolist(), strict=True)):
        mask = annotation.get('segmentation')
        if not mask:
            missing.append(number)
        elif isinstance(mask, dict):
            if row >= 0 and not _fits(mask, records[row]):
                wrong_size.append(number)
        elif isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask):
            for polygon in mask:
                if len(polygon) < 6 or len(polygon) % 2:
                    short.append(number)
                elif not _is_finite(polygon):
                    invalid.append(number)
                else:
                    polygons.append(polygon)
                    owners.append(number)
        else:
            invalid.append(number)
    flat = [owners[i] for i in np.flatnonzero(_areas(polygons) == 0)]

    def names(numbers: list[int]) -> Iterator[str]:
        return (f'annotation {annotations[number]["id"]}' for number in dict.fromkeys(numbers))

    no_mask = '{} objects have no mask, which this config trains; use a detection config'
    return [
        *findings_of('error', no_mask, names(missing)),
        *findings_of('error', '{} objects have a mask that is not made of finite numbers', names(invalid)),
        *findings_of('error', '{} masks (RLE) do not have the size of their image', names(wrong_size)),
        *findings_of('warning', '{} objects have a polygon of under 3 points or an odd count', names(short)),
        *findings_of('warning', '{} objects have a polygon without area', names(flat)),
    ]


def _fits(rle: dict, record: dict) -> bool:
    """Return whether an RLE mask has the size of its image; the runs of a compressed one are not decoded."""
    size, counts = [record['height'], record['width']], rle.get('counts')
    if rle.get('size') != size or not isinstance(counts, list | str):
        return False
    return isinstance(counts, str) or (_is_finite(counts) and sum(counts) == size[0] * size[1])


def _is_finite(numbers: list) -> bool:
    try:
        return math.isfinite(sum(numbers))  # one sum is faster than a test of each number; NaN and infinity survive it
    except (TypeError, OverflowError):
        return False


def _areas(polygons: list[list[float]]) -> np.ndarray:
    """Return the areas `(N,)` of polygons of at least three points, in square pixels, by the shoelace formula."""
    parts = [np.zeros(0)]
    for start in range(0, len(polygons), CHUNK):
        chunk = polygons[start : start + CHUNK]
        lengths = np.fromiter(map(len, chunk), np.int64, len(chunk)) // 2
        points = np.fromiter(chain.from_iterable(chunk), np.float64, 2 * lengths.sum()).reshape(-1, 2)
        first = np.cumsum(lengths) - lengths
        following = np.arange(1, len(points) + 1)
        following[first + lengths - 1] = first  # the last point of a polygon connects to its first
        # Relative to the first point the numbers are small, so the area of a flat polygon is exactly 0.
        points -= np.repeat(points[first], lengths, axis=0)
        cross = points[:, 0] * points[following, 1] - points[:, 1] * points[following, 0]
        parts.append(np.abs(np.add.reduceat(cross, first)) / 2)
    return np.concatenate(parts)
