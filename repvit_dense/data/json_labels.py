"""Parse the JSON label files of LabelMe, VGG Image Annotator (VIA), Label Studio and Supervisely."""

import base64
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from repvit_dense.data.geometry import box_entry, edges_around, ellipse, mask_entry, polygon_entry, rotated, wrong_size
from repvit_dense.data.reading import UNPRINTABLE, read_json
from repvit_dense.errors import InputError

Objects = tuple[list[tuple[str, dict]], list[str]]
Parts = list[tuple[str | None, Any]]  # name of the image, or None, and its labels

CLASS_ATTRIBUTES = ('class', 'label', 'name', 'type', 'category')  # of a region in VIA, the first one that there is
DAMAGED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


def parse_items(convert: Callable, items: Iterable, size: tuple[int, int], counts: Counter) -> Objects:
    """Return name and COCO entry of each item, and the faults; items for which `convert` returns None are left out."""
    objects: list[tuple[str, dict]] = []
    faults: list[str] = []
    for number, item in enumerate(items, 1):
        try:
            converted = convert(item, size, counts)
            name = _class_name(converted[0]) if converted else ''
        except DAMAGED as error:
            reason = error if type(error) is ValueError else f'is not written as expected ({error!r})'
            faults.append(f'object {number}: {reason}')
            continue
        if converted is None:
            counts['no area'] += 1
        else:
            objects.append((name, converted[1]))
            counts['polygons'] += isinstance(converted[1].get('segmentation'), list)
            counts['masks'] += isinstance(converted[1].get('segmentation'), dict)
    return objects, faults


def labelme_parts(file: Path) -> Parts:
    """Return the image and the content of a file of LabelMe."""
    content = _dictionary(file, read_json(file))
    return [(content.get('imagePath'), content)]


def parse_labelme(content: dict, size: tuple[int, int], counts: Counter) -> Objects:
    """Return the objects of a file of LabelMe; polygons of one group are one object."""
    if fault := wrong_size([content.get('imageWidth'), content.get('imageHeight')], size):
        return [], [fault]
    if not isinstance(content.get('shapes'), list):
        return [], ["has no list 'shapes', so it is not of LabelMe"]
    groups: dict[tuple, dict] = {}

    def convert(shape: dict, size: tuple[int, int], counts: Counter) -> tuple[str, dict] | None:
        kind, points, label = shape.get('shape_type') or 'polygon', _points(shape['points']), shape['label']
        if kind == 'rectangle':
            return label, box_entry(edges_around(points), size, counts)
        if kind == 'mask':
            left, top = (math.floor(value) for value in points[:2])
            return label, mask_entry(_picture(base64.b64decode(shape['mask'])), (left, top), size, counts)
        if kind == 'circle':
            radius = math.dist(points[:2], points[2:4])
            points = ellipse(points[:2], (radius, radius))
        elif kind not in ('polygon', 'oriented_rectangle'):
            return None
        entry, key = polygon_entry(points, size, counts), (label, str(shape.get('group_id')))
        if shape.get('group_id') is None or key not in groups:
            groups[key] = entry
            return label, entry
        _join(groups[key], entry)
        counts['joined'] += 1
        return label, groups[key]

    objects, faults = parse_items(convert, content['shapes'], size, counts)
    return list({id(entry): (name, entry) for name, entry in objects}.values()), faults


def via_parts(file: Path) -> Parts:
    """Return the images and regions of a file of VIA: pairs of an object's class and outline."""
    content = _dictionary(file, read_json(file))
    images = list(_dictionary(file, content.get('_via_img_metadata', content)).values())
    if not all(isinstance(image, dict) and isinstance(image.get('filename'), str) for image in images):
        raise InputError(f'{file}: not annotations of VIA, where each image has a filename and regions')
    regions = [_values(image.get('regions')) for image in images]
    attributes = [
        r['region_attributes'] for part in regions for r in part if isinstance(r.get('region_attributes'), dict)
    ]
    names = sorted({name for part in attributes for name in part})
    chosen = next((name for known in CLASS_ATTRIBUTES for name in names if name.lower() == known), None)
    if chosen is None and len(names) > 1:
        raise InputError(
            f"{file}: its regions have the attributes {', '.join(names)}; call the one with the class 'class'"
        )
    key = chosen or next(iter(names), None)
    return [(image['filename'], [(r, key) for r in part]) for image, part in zip(images, regions, strict=True)]


def via_region(pair: tuple[dict, str | None], size: tuple[int, int], counts: Counter) -> tuple[str, dict] | None:
    """Return class and COCO entry of a region of VIA; None for a point or a line."""
    region, attribute = pair
    shape = region['shape_attributes']
    kind, label = shape['name'], region['region_attributes'][attribute] if attribute else 'object'
    if isinstance(label, dict):  # of a checkbox
        names = [name for name, value in label.items() if value]
        if len(names) != 1:
            raise ValueError(f'has {len(names)} classes ({", ".join(names)}); one is expected')
        label = names[0]
    if kind == 'rect':
        left, top, width, height = (_number(shape[key]) for key in ('x', 'y', 'width', 'height'))
        return label, box_entry((left, top, left + width, top + height), size, counts)
    if kind in ('circle', 'ellipse'):
        radii = [_number(shape[key]) for key in (('rx', 'ry') if kind == 'ellipse' else ('r', 'r'))]
        points = ellipse((_number(shape['cx']), _number(shape['cy'])), radii, _number(shape.get('theta', 0)))
    elif kind == 'polygon':
        points = _points(zip(shape['all_points_x'], shape['all_points_y'], strict=True))
    else:
        return None
    return label, polygon_entry(points, size, counts)


def label_studio_parts(file: Path) -> Parts:
    """Return the images and regions of an export of Label Studio, as JSON or JSON-MIN."""
    parts: Parts = []
    tasks = read_json(file)
    for number, task in enumerate(tasks if isinstance(tasks, list) else [tasks]):
        task = _dictionary(f'{file}: task {number}', task)
        data = _dictionary(f'{file}: task {number}', task.get('data', task))
        image = next((data[key] for key in ('image', 'img', 'url') if isinstance(data.get(key), str)), None)
        image = image or next((v for v in data.values() if isinstance(v, str) and re.search(r'\.\w{3,4}$', v)), None)
        if image is None:
            raise InputError(f'{file}: task {number} names no image')
        image = unquote(image.rpartition('?d=')[2] if '?d=' in image else image.partition('?')[0])
        if 'annotations' in task or 'completions' in task:
            finished = [
                a for a in _values(task.get('annotations') or task.get('completions')) if not a.get('was_cancelled')
            ]
            if not finished:
                continue  # skipped by the annotator, or not annotated yet
            parts.append((image, {'several': len(finished) > 1, 'regions': _values(finished[0].get('result'))}))
        else:
            lists = [value for value in task.values() if isinstance(value, list)]
            parts.append((image, {'several': False, 'regions': [r for part in lists for r in _values(part)]}))
    return parts


def parse_label_studio(task: dict, size: tuple[int, int], counts: Counter) -> Objects:
    """Return the objects of one image; of several annotations the first one counts."""
    counts['several'] += task['several']
    return parse_items(_label_studio_region, task['regions'], size, counts)


def _label_studio_region(region: dict, size: tuple[int, int], counts: Counter) -> tuple[str, dict] | None:
    value = region.get('value', region)
    labels = next((v for k, v in value.items() if k.endswith('labels') and isinstance(v, list) and v), None)
    if labels is None or not {'rle', 'points', 'width', 'radiusX'} & {*value}:
        return None
    if fault := wrong_size([region.get('original_width'), region.get('original_height')], size):
        raise ValueError(fault)
    if region.get('image_rotation'):
        raise ValueError('was labelled on a rotated image')
    if 'rle' in value:
        raise ValueError('is painted with the brush; export such labels as COCO')
    if len(labels) > 1:
        raise ValueError(f'has {len(labels)} labels ({", ".join(map(str, labels))}); one is expected')
    scale = size[0] / 100, size[1] / 100  # coordinates are per cent
    if 'points' in value:
        points = _points(value['points'])
        return labels[0], polygon_entry([v * scale[number % 2] for number, v in enumerate(points)], size, counts)
    corner = [_number(value['x']) * scale[0], _number(value['y']) * scale[1]]
    degrees = _number(value.get('rotation', 0))
    if 'radiusX' in value:
        radii = [_number(value[f'radius{axis}']) * scale[index] for index, axis in enumerate('XY')]
        return labels[0], polygon_entry(ellipse(corner, radii, math.radians(degrees)), size, counts)
    if 'height' not in value:  # a key point
        return None
    right, bottom = corner[0] + _number(value['width']) * scale[0], corner[1] + _number(value['height']) * scale[1]
    points = rotated([*corner, right, corner[1], right, bottom, corner[0], bottom], corner, math.radians(degrees))
    counts['rotated'] += degrees != 0
    return labels[0], box_entry(edges_around(points), size, counts)


def supervisely_parts(file: Path) -> Parts:
    """Return the content of a label file of Supervisely, whose name is that of the image with `.json`."""
    return [(None, _dictionary(file, read_json(file)))]


def parse_supervisely(content: dict, size: tuple[int, int], counts: Counter) -> Objects:
    """Return the objects of a label file of Supervisely."""
    if not isinstance(content.get('objects'), list) or not isinstance(content.get('size'), dict):
        return [], ["has no 'objects' and 'size', so it is not of Supervisely"]
    if fault := wrong_size([content['size'].get('width'), content['size'].get('height')], size):
        return [], [fault]
    return parse_items(_supervisely_object, content['objects'], size, counts)


def _supervisely_object(item: dict, size: tuple[int, int], counts: Counter) -> tuple[str, dict] | None:
    kind, label = item['geometryType'], item['classTitle']
    if kind == 'bitmap':
        corner = tuple(int(value) for value in item['bitmap']['origin'][:2])
        pixels = _picture(_unpacked(base64.b64decode(item['bitmap']['data'])))
        return label, mask_entry(pixels, corner, size, counts)
    if kind not in ('rectangle', 'polygon'):
        return None
    points = _points(item['points']['exterior'])
    if kind == 'rectangle':
        left, top, right, bottom = edges_around(points)
        return label, box_entry((left, top, right + 1, bottom + 1), size, counts)  # its last pixel is inside
    if item['points'].get('interior'):
        raise ValueError('is a polygon with a hole; export it as a bitmap')
    return label, polygon_entry(points, size, counts)


def _picture(content: bytes) -> Any:
    """Return the pixels of an encoded mask, in which the object is not 0 (or not transparent)."""
    import cv2
    import numpy as np

    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if pixels is None:
        raise ValueError('its mask cannot be decoded')
    return pixels if pixels.ndim == 2 else pixels[..., -1]


def _unpacked(content: bytes, limit: int = 2**26) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, limit)
    except zlib.error as error:
        raise ValueError(f'its mask cannot be decoded ({error})') from error


def _join(entry: dict, other: dict) -> None:
    """Add a polygon to an object."""
    (x, y, w, h), (left, top, width, height) = entry['bbox'], other['bbox']
    edges = edges_around([x, y, x + w, y + h, left, top, left + width, top + height])
    bbox = [round(v, 3) for v in (edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1])]
    entry.update(
        bbox=bbox, area=entry['area'] + other['area'], segmentation=entry['segmentation'] + other['segmentation']
    )


def _class_name(value: Any) -> str:
    name = str(value).strip() if type(value) in (str, int) else ''
    if not name or UNPRINTABLE.search(name):
        raise ValueError(f'has {value!r} as class; give it a name of plain text')
    return name


def _dictionary(file: object, content: Any) -> dict:
    if not isinstance(content, dict):
        raise InputError(f'{file}: expected a JSON object with the labels')
    return content


def _values(content: Any) -> list[dict]:
    """Return the dictionaries of a list or of the values of a dictionary."""
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return [value for value in values if isinstance(value, dict)]


def _points(pairs: Iterable) -> list[float]:
    points = [_number(value) for pair in pairs for value in (pair[0], pair[1])]
    if len(points) < 4:
        raise ValueError('has fewer than two points')
    return points


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f'{value!r} is not a finite number')
    return float(value)
