"""Parse the XML files of CVAT for images."""

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.data.geometry import box_entry, edges_around, ellipse, mask_entry, polygon_entry, rotated, wrong_size
from repvit_dense.data.json_labels import Objects, Parts, parse_items
from repvit_dense.data.reading import read_xml
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def cvat_parts(file: Path) -> Parts:
    """Return the images of a file with their elements."""
    try:
        root = read_xml(file)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f'{file}: {error}') from error
    if root.find('image') is None:
        raise InputError(f"{file}: has no <image>; export a video from CVAT as 'COCO' or 'CVAT for images'")
    subsets = {image.get('subset', '') for image in root.findall('image')}
    folders = len(subsets) > 1
    return [
        (f'{image.get("subset")}/{image.get("name")}' if folders else image.get('name'), image)
        for image in root.findall('image')
    ]


def parse_cvat(image: 'Element', size: tuple[int, int], counts: Counter) -> Objects:
    """Return the objects of an image; points, lines, cuboids and skeletons are left out."""
    if fault := wrong_size([image.get('width'), image.get('height')], size):
        return [], [fault]
    return parse_items(_object, list(image), size, counts)


def _object(item: 'Element', size: tuple[int, int], counts: Counter) -> tuple[Any, dict] | None:
    label = item.get('label')
    degrees = _number(item, 'rotation', '0')
    if item.tag == 'box':
        left, top, right, bottom = (_number(item, key) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
        centre = (left + right) / 2, (top + bottom) / 2
        corners = rotated([left, top, right, top, right, bottom, left, bottom], centre, math.radians(degrees))
        counts['rotated'] += degrees != 0
        return label, box_entry(edges_around(corners) if degrees else (left, top, right, bottom), size, counts)
    if item.tag == 'polygon':
        points = [float(value) for pair in item.get('points', '').split(';') for value in pair.split(',')]
        if len(points) < 6 or not all(map(math.isfinite, points)):
            raise ValueError('its polygon needs three points of finite numbers')
        return label, polygon_entry(points, size, counts)
    if item.tag == 'ellipse':
        cx, cy, rx, ry = (_number(item, key) for key in ('cx', 'cy', 'rx', 'ry'))
        return label, polygon_entry(ellipse((cx, cy), (rx, ry), math.radians(degrees)), size, counts)
    if item.tag == 'mask':
        return label, _mask(item, size, counts)
    return None


def _mask(item: 'Element', size: tuple[int, int], counts: Counter) -> dict:
    """Return the COCO entry of a mask: the lengths of runs, of zeros first, row by row in a box."""
    import numpy as np

    left, top, width, height = (int(_number(item, key)) for key in ('left', 'top', 'width', 'height'))
    lengths = [int(value) for value in item.get('rle', '').split(',')]
    if not 0 < width <= size[0] or not 0 < height <= size[1] or min(lengths) < 0 or sum(lengths) != width * height:
        raise ValueError('the run lengths of its mask do not fit its box')
    values = np.arange(len(lengths)) % 2
    return mask_entry(np.repeat(values, lengths).reshape(height, width), (left, top), size, counts)


def _number(item: 'Element', key: str, default: str = '') -> float:
    text = item.get(key, default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f'{key} is {text!r}, not a finite number')
    return value
