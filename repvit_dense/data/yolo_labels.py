"""Parse YOLO label files: one object per line, as a box or as a polygon."""

import math
import re
from collections import Counter

from repvit_dense.data.geometry import box_entry, polygon_entry

ROUNDING = 0.01  # coordinates may exceed 0..1 by this


def parse_labels(text: str, size: tuple[int, int], classes: int, counts: Counter) -> tuple[list[dict], list[str]]:
    """Return the objects of a label file as COCO entries, and a description of each line that is not valid.

    A line is `class x y width height`, with a sixth number that is taken as a confidence and ignored, or
    `class x1 y1 x2 y2 x3 y3 ...`. Coordinates are fractions of the image size.

    Args:
        text: content of the file.
        size: width and height of the image in pixels.
        classes: number of classes.
        counts: adds to 'boxes', 'polygons', 'confidences', 'repeated' (lines, of which one is used) and 'cut' (objects
            that reach outside their image).
    """
    objects: list[dict] = []
    faults: list[str] = []
    seen = set()
    for number, line in enumerate(re.split('\r\n|[\r\n]', text), 1):
        words = tuple(line.split())
        if not words or words[0].startswith('#'):
            continue
        if words in seen:
            counts['repeated'] += 1
            continue
        seen.add(words)
        try:
            label = _class_number(words[0], classes)
            objects.append({'category_id': label, **_shape([_fraction(word) for word in words[1:]], size, counts)})
        except ValueError as error:
            faults.append(f'line {number}: {error}')
    return objects, faults


def _class_number(word: str, classes: int) -> int:
    if not re.fullmatch(r'[+-]?[0-9]{1,9}(\.0*)?', word):
        raise ValueError(f"'{word}' is not a class number")
    label = int(float(word))
    if not 0 <= label < classes:
        raise ValueError(f'class {label}, but the classes are 0 to {classes - 1}')
    return label


def _fraction(word: str) -> float:
    try:
        value = float(word) if '_' not in word else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"'{word}' is not a finite number")
    if not -ROUNDING <= value <= 1 + ROUNDING:
        hint = '; coordinates in pixels must be divided by width and height' if value >= 2 else ''
        raise ValueError(f'{word} is not within 0..1, as a fraction of the image size must be{hint}')
    return value


def _shape(values: list[float], size: tuple[int, int], counts: Counter) -> dict:
    width, height = size
    if len(values) in (4, 5):
        counts['boxes'] += 1
        counts['confidences'] += len(values) == 5
        x, y, w, h = values[:4]
        if w < 0 or h < 0:
            raise ValueError('the width or height of the box is negative')
        edges = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
        return box_entry(edges, size, counts)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(
            f'{len(values) + 1} numbers; a box has 5 (class, centre x and y, width, height) or 6 with a confidence, '
            'a polygon has a class and at least 3 pairs x y'
        )
    counts['polygons'] += 1
    return polygon_entry([value * size[index % 2] for index, value in enumerate(values)], size, counts)
