"""Parse the XML label files of Pascal VOC."""

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.data.geometry import box_entry, polygon_entry, wrong_size
from repvit_dense.data.reading import read_xml
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

EDGES = ('xmin', 'ymin', 'xmax', 'ymax')
DIFFICULT = {'1': 1, 'true': 1, 'yes': 1, '0': 0, 'false': 0, 'no': 0, 'unspecified': 0, '': 0}


def parse_labels(file: Path, size: tuple[int, int], counts: Counter) -> tuple[list[tuple[str, dict]], list[str]]:
    """Return class name and COCO entry of each object in a label file, and a description of each fault.

    The first pixel has the coordinate 1, and `xmax` and `ymax` are inside the box. Difficult objects become crowds.

    Args:
        file: the XML file.
        size: width and height of the image in pixels.
        counts: adds to 'difficult', 'polygons' and 'cut' (objects that reach outside their image).

    Raises:
        InputError: a package is missing, or the file cannot be read.
    """
    try:
        root = read_xml(file)
    except InputError:
        raise
    except ValueError as error:
        return [], [str(error)]
    if root.tag != 'annotation':
        return [], [f'is not a Pascal VOC label file: its first element is <{root.tag}>, not <annotation>']
    stated = [_text(root, f'size/{name}') for name in ('width', 'height')]
    if fault := wrong_size(stated, size):
        return [], [fault]
    objects: list[tuple[str, dict]] = []
    faults = [f'has <{e.tag}> for <object>' for e in root.iter() if e.tag != 'object' and e.tag.lower() == 'object']
    for number, item in enumerate(root.iter('object'), 1):
        try:
            objects.append(_object(item, size, counts))
        except ValueError as error:
            faults.append(f'object {number}: {error}')
    return objects, faults


def _object(item: 'Element', size: tuple[int, int], counts: Counter) -> tuple[str, dict]:
    name, difficult = _text(item, 'name'), _text(item, 'difficult').lower()
    if not name:
        raise ValueError('has no <name>')
    if difficult not in DIFFICULT:
        raise ValueError(f"<difficult> is '{difficult}', neither 0 nor 1")
    entry = {}
    polygon = item.find('polygon')
    if polygon is not None:
        entry = polygon_entry([value - 1 for value in _points(polygon)], size, counts)
        counts['polygons'] += 1
    if item.find('bndbox') is not None or polygon is None:
        left, top, right, bottom = (_number(item, f'bndbox/{edge}') for edge in EDGES)
        if right < left or bottom < top:
            raise ValueError('its box is inverted: xmax < xmin or ymax < ymin')
        box = box_entry((left - 1, top - 1, right, bottom), size, Counter() if entry else counts)
        entry |= {'bbox': box['bbox'], 'iscrowd': 0} if entry else box
    counts['difficult'] += DIFFICULT[difficult]
    return name, {**entry, 'iscrowd': DIFFICULT[difficult]}


def _points(polygon: 'Element') -> list[float]:
    """Return the numbers x1 y1 x2 y2 ... of a polygon."""
    numbers = range(1, len(polygon) // 2 + 1)
    names = [f'{axis}{number}' for number in numbers for axis in 'xy']
    if len(names) < 6 or {child.tag for child in polygon} != set(names):
        raise ValueError('<polygon> needs x1, y1, x2, y2, ... of at least three points')
    return [_number(polygon, name) for name in names]


def _number(item: 'Element', path: str) -> float:
    text = _text(item, path)
    try:
        value = float(text) if '_' not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f'<{path.split("/")[-1]}> is {text!r}, not a finite number' if text else f'has no {path}')
    return value


def _text(item: 'Element', path: str) -> str:
    return (item.findtext(path) or '').strip()
