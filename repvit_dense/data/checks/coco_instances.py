"""Check COCO annotations of objects: boxes and masks."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from repvit_dense.data.checks import coco_masks
from repvit_dense.data.checks.coco_boxes import (
    MARGIN,
    Objects,
    area_findings,
    box_findings,
    objects_of,
    outside_findings,
    place_findings,
    repeated_objects,
)
from repvit_dense.data.checks.coco_file import (
    AREA,
    BOX,
    FLAG,
    ID,
    IMAGE,
    check_classes,
    complete_entries,
    duplicate_ids,
    image_findings,
    listed_images,
    missing_images,
    similar_names,
    unlisted,
)
from repvit_dense.data.checks.report import Finding, Report, findings_of
from repvit_dense.data.reading import read_coco

ANNOTATION = {'id': ID, 'image_id': ID, 'category_id': ID, 'bbox': BOX, 'area': AREA, 'iscrowd': FLAG, 'ignore': FLAG}


class Filter(NamedTuple):
    """The images that a data set drops: those without objects, those with a side under `min_size`, if it trains."""

    filter_empty: bool
    min_size: int
    training: bool


def instances(
    file: Path,
    images: Path,
    classes: Sequence[str],
    masks: bool = False,
    filter_empty: bool = False,
    min_size: int = 0,
    training: bool = False,
    polygons_only: bool = False,
) -> Report:
    """Check a COCO annotation file and that its images exist.

    Args:
        file: the annotation file.
        images: the folder that its file names are relative to.
        classes: class names of the config, in label order.
        masks: check masks too, polygons and RLE.
        filter_empty: the data set drops images without objects.
        min_size: the data set drops images whose shorter side is below this, in pixels.
        training: every class needs objects.
        polygons_only: the data set drops masks in RLE (poly2mask=False).

    Raises:
        InputError: the file is not a COCO file, or its classes differ from `classes`. Nothing else is checked then.
    """
    content = read_coco(file)
    categories = content['categories']
    names = [category['name'] for category in categories]
    check_classes(file, names, list(classes))
    records, findings = complete_entries('images', content['images'], IMAGE)
    annotations, incomplete = complete_entries('annotations', content['annotations'], ANNOTATION)
    findings += [*incomplete, *similar_names(names)]
    for name, entries in (('image', records), ('annotation', annotations), ('category', categories)):
        findings += duplicate_ids(name, [entry['id'] for entry in entries])
    findings += missing_images(images, records)
    findings += image_findings(records, min_size)
    findings += unlisted(annotations, 'category', categories, 'error')
    findings += unlisted(annotations, 'image', content['images'], 'warning', ', and are left out')
    objects = objects_of(annotations, records)
    drops = _dropped_boxes(objects)
    measured = None
    if masks:
        measured = coco_masks.read_masks([entry.get('segmentation') for entry in objects.entries], objects.sizes)
        drops += _dropped_masks(objects, measured, polygons_only)
        findings += _mask_findings(objects, measured)
    findings += box_findings(objects, measured.corners if measured else None)
    findings += area_findings(objects, measured.areas if measured else None)
    findings += repeated_objects(objects)
    selected = {category['id']: category['name'] for category in categories if category['name'] in classes}
    if len(records) == len(content['images']) and len(annotations) == len(content['annotations']):
        findings += _remaining(records, objects, drops, selected, Filter(filter_empty, min_size, training))
    summary = f'{len(records):,} images, {len(annotations):,} objects, {len(classes)} classes'
    return Report(summary, findings, listed_images(images, records))


def _dropped_boxes(objects: Objects) -> list[tuple[str, np.ndarray]]:
    """Return messages and `(N,)` which objects the loader drops for this reason."""
    corners, extent = objects.corners(), objects.boxes[:, 2:]
    inside = np.minimum(corners[:, 2:], objects.sizes) - np.maximum(corners[:, :2], 0)
    narrow = (extent < 1).any(1)
    return [
        ('{} boxes are narrower than a pixel, and their objects are left out', narrow),
        ('{} boxes lie outside their image, and their objects are left out', (inside <= 0).any(1) & ~narrow),
        ('{} objects have an area of 0 or less and are left out', objects.areas <= 0),
        ("{} objects have the mark 'ignore' and are left out", objects.ignored),
    ]


def _dropped_masks(objects: Objects, masks: coco_masks.Masks, polygons_only: bool) -> list[tuple[str, np.ndarray]]:
    """Return messages and `(N,)` which objects have no pixel to learn from."""
    empty = masks.areas == 0
    for fault in coco_masks.ERRORS:  # are no warning
        empty[masks.faults.get(fault, [])] = False
    drops = [('{} objects have an empty mask', empty)]
    if polygons_only:
        message = '{} objects have a mask in RLE and are left out; poly2mask=True in LoadAnnotations reads them'
        drops.append((message, masks.runs & ~objects.crowd))
    return drops


def _mask_findings(objects: Objects, masks: coco_masks.Masks) -> list[Finding]:
    """Find masks that cannot be decoded or lie outside their box (errors), and those that are cut (warnings)."""
    corners, sizes = np.nan_to_num(masks.corners), objects.sizes
    away = ((corners[:, 2:] <= 0) | (corners[:, :2] >= sizes)).any(1) & (masks.areas > 0)
    away |= ((corners[:, :2] < -sizes) | (corners[:, 2:] > 2 * sizes)).any(1)
    outside = ((corners[:, :2] < -MARGIN) | (corners[:, 2:] > sizes + MARGIN)).any(1)
    findings = []
    for fault, (level, message) in coco_masks.MESSAGES.items():
        chosen = np.zeros(len(objects.entries), bool)
        chosen[masks.faults.get(fault, [])] = True
        chosen &= ~away & ((masks.areas > 0) | (level == 'error'))
        findings += findings_of(level, message, objects.names(chosen))
    return [
        *findings,
        *findings_of('error', '{} masks lie outside their image or exceed it by its own size', objects.names(away)),
        *outside_findings('masks', objects, outside & ~away),
        *place_findings(objects, masks.corners, np.where(away, 0, masks.areas)),
    ]


def _remaining(
    records: list[dict],
    objects: Objects,
    drops: list[tuple[str, np.ndarray]],
    selected: dict,
    settings: Filter,
) -> list[Finding]:
    """Find objects that the loader drops (warnings), and that no image, or no object of a class, remains.

    Args:
        records: the images.
        objects: the objects in them.
        drops: messages, and which objects are dropped for this reason.
        selected: category id -> class name, for the classes of the config.
        settings: the images that the loader drops.
    """
    if not records:
        return [Finding('error', 'the file lists no images', [])]
    chosen = np.fromiter((e['category_id'] in selected for e in objects.entries), bool, len(objects.entries))
    usable = chosen & ~objects.crowd
    for _, dropped in drops:
        usable &= ~dropped
    is_lost = not usable.any() and bool(settings.training or len(usable))
    level = 'error' if is_lost else 'warning'
    findings = [finding for text, dropped in drops for finding in findings_of(level, text, objects.names(dropped))]
    if is_lost:
        crowds = f'; {objects.crowd.sum():,} are crowds (iscrowd)' if objects.crowd.any() else ''
        findings.append(Finding('error', f'no object is left to learn from{crowds}', []))

    kept = np.array([min(record['width'], record['height']) >= settings.min_size for record in records])
    if settings.filter_empty:
        kept &= np.bincount(objects.rows[chosen], minlength=len(records)) > 0
    if not kept.any():
        findings.append(
            Finding('error', f'no image with objects and sides from {settings.min_size} pixels is left', [])
        )
    empty = np.flatnonzero(np.bincount(objects.rows[usable], minlength=len(records)) == 0).tolist()
    message = f'{{}} of the {len(records):,} images have no object, or only crowds'
    findings += findings_of('warning', message, (records[i]['file_name'] for i in empty))
    if settings.training and not is_lost:
        counts = Counter(
            objects.entries[i]['category_id'] for i in np.flatnonzero(usable & kept[objects.rows]).tolist()
        )
        absent = (name for number, name in selected.items() if not counts[number])
        findings += findings_of('warning', '{} classes have no object to learn from', absent)
    return findings
