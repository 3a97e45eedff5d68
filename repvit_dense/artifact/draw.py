"""Draw a prediction over its image with OpenCV: boxes, names, translucent masks and segments."""

import colorsys
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache

import cv2
import numpy as np

from repvit_dense.artifact.selection import overlaps
from repvit_dense.data.reading import mask_window
from repvit_dense.errors import shorten

OPACITY = 0.45
FONT = cv2.FONT_HERSHEY_SIMPLEX
SMALLEST = 320  # pixels; smaller images are enlarged, because names would cover them
LARGEST = 32_000  # pixels; larger images are reduced: JPEG holds 65,500 on a side, enough for two of them
LONGEST_NAME = 40  # characters
HIDDEN = 0.25  # share of another object's box that a name may cover; else it is left out
FARTHEST = 1e6  # pixels; OpenCV takes no larger coordinates


def draw(
    image: np.ndarray, arrays: Mapping, names: Sequence[str], palette: Sequence | None = None, score: float = 0.3
) -> np.ndarray:
    """Draw a prediction.

    Args:
        image: `(H, W, 3)` BGR uint8; it is not changed.
        arrays: fields of a `Result` by name; `scores` may be missing, as in a ground truth.
        names: class names, by label.
        palette: an RGB colour per class; None for colours that differ as much as possible.
        score: objects below this score are left out. So are names that would cover another name, or much of another
            object: those of the most certain objects go first.

    Returns:
        BGR uint8, of the image's size; small images are enlarged by an integer factor, huge ones reduced.
    """
    colours = np.array(palette if palette else _palette(len(names)), np.uint8)[:, ::-1]
    height, width = image.shape[:2]
    enlarged = min(round(SMALLEST / min(height, width)), 4 * SMALLEST // max(height, width))
    factor = max(enlarged, min(1.0, LARGEST / max(height, width)))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    if 'boxes' in arrays:
        return _draw_objects(canvas, arrays, names, colours, score, factor)
    if 'seg' in arrays:
        labels = {int(label): int(label) for label in np.unique(arrays['seg'])}
        return _draw_regions(canvas, arrays['seg'], labels, names, colours, factor)
    labels = {part['number']: part['label'] for part in arrays['segment_info']}
    return _draw_regions(canvas, arrays['segments'], labels, names, colours, factor)


def _palette(count: int) -> list[list[int]]:
    """Return RGB colours whose hues are a golden angle apart, in three brightnesses."""
    return [
        [round(255 * level) for level in colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.75, (1.0, 0.8, 0.6)[i % 3])]
        for i in range(count)
    ]


def _draw_objects(
    canvas: np.ndarray, arrays: Mapping, names: Sequence[str], colours: np.ndarray, score: float, factor: float
) -> np.ndarray:
    boxes, labels, scores = arrays['boxes'], arrays['labels'], arrays.get('scores')
    order = np.arange(len(boxes))
    if scores is not None:
        order = np.argsort(scores)  # the most certain last, on top
        order = order[scores[order] >= score]
    for index in order if 'masks' in arrays else ():
        _tint(canvas, arrays['masks'][index], colours[labels[index]], boxes[index].tolist())
    drawn = np.clip(boxes * factor, -FARTHEST, FARTHEST).round().astype(int)
    for index in order:
        left, top, right, bottom = drawn[index].tolist()
        colour = colours[labels[index]].tolist()
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, _line_width(canvas), cv2.LINE_AA)
    taken = np.zeros((0, 4), int)
    for index in order[::-1]:
        text = _legible(names[labels[index]])
        text = text if scores is None else f'{text} {scores[index]:.2f}'
        place = np.array([_place_name(canvas, text, drawn[index, :2].tolist())])
        if overlaps(place, taken)[0].any():
            continue
        shared, _, areas = overlaps(place, drawn[order[order != index]])
        if (shared <= HIDDEN * areas).all():
            _write_name(canvas, text, place[0].tolist(), colours[labels[index]].tolist())
            taken = np.concatenate([taken, place])
    return canvas


def _draw_regions(
    canvas: np.ndarray,
    numbers: np.ndarray,
    labels: Mapping[int, int],
    names: Sequence[str],
    colours: np.ndarray,
    factor: float,
) -> np.ndarray:
    shown = [(number, label) for number, label in labels.items() if label < len(names)]
    for number, label in shown:
        _tint(canvas, numbers == number, colours[label])
    for number, label in shown:
        mask = numbers == number
        if mask.mean() > 0.003:  # a name would hide a smaller region
            depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
            row, column = np.unravel_index(np.argmax(depth), depth.shape)
            centre = (int(column * factor), int(row * factor))
            text = _legible(names[label])
            _write_name(canvas, text, _place_name(canvas, text, centre, centred=True), colours[label].tolist())
    return canvas


def _tint(canvas: np.ndarray, mask: np.ndarray, colour: np.ndarray, box: list[float] | None = None) -> None:
    """Tint the pixels of a mask and outline it; only a box around the mask is touched, `box` if it holds the mask."""
    if mask.shape != canvas.shape[:2]:
        pixels = np.ascontiguousarray(mask).view(np.uint8)
        mask, box = cv2.resize(pixels, canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST).view(bool), None
    left, top, right, bottom = mask_window(mask, box)
    if right <= left or bottom <= top:
        return
    part = canvas[top:bottom, left:right]
    inside = np.ascontiguousarray(mask[top:bottom, left:right]).view(np.uint8)
    tinted = cv2.LUT(part, _tints(tuple(colour.tolist())))
    cv2.copyTo(tinted, inside, part)
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    thickness = max(1, _line_width(canvas) // 2)
    cv2.drawContours(canvas, outlines, -1, colour.tolist(), thickness, cv2.LINE_AA, offset=(left, top))


@cache
def _tints(colour: tuple[int, int, int]) -> np.ndarray:
    """Return `(256, 1, 3)` uint8: every level of a channel mixed with the colour."""
    levels = np.arange(256, dtype=np.float32)[:, None, None] * (1 - OPACITY)
    return np.rint(levels + np.array(colour, np.float32) * OPACITY).astype(np.uint8)


def _line_width(canvas: np.ndarray) -> int:
    return max(1, round(min(canvas.shape[:2]) / 300))


def _legible(name: str) -> str:
    """Return a class name in one line of characters that the font has.

    Accents that it lacks are dropped, other characters are escaped.
    """
    text = unicodedata.normalize('NFC', ' '.join(shorten(name, LONGEST_NAME).split()))
    return ''.join(c if _is_in_font(c) else _replacement(c) for c in text)


def _replacement(character: str) -> str:
    plain = unicodedata.normalize('NFKD', character).encode('ascii', 'ignore').decode()
    return plain if plain.isprintable() and plain else character.encode('unicode_escape').decode()


@cache
def _is_in_font(character: str) -> bool:
    """Return whether OpenCV draws this character; in place of those that its font lacks, it draws a question mark."""
    if character.isascii() or not character.isprintable():
        return character.isprintable()
    drawn, question = np.zeros((2, 48, 64), np.uint8)
    cv2.putText(drawn, character, (8, 32), FONT, 1, 255)
    cv2.putText(question, '?', (8, 32), FONT, 1, 255)
    return not np.array_equal(drawn, question)


def _text_size(canvas: np.ndarray) -> float:
    return float(np.clip(min(canvas.shape[:2]) / 900, 0.35, 1.2))


def _place_name(canvas: np.ndarray, text: str, anchor: Sequence[int], centred: bool = False) -> Sequence[int]:
    """Return the box of a text, x1 y1 x2 y2, above `anchor`, or around it if `centred`, moved inside the picture."""
    (width, height), base = cv2.getTextSize(text, FONT, _text_size(canvas), 1)
    width, height = width + 4, height + base + 2
    x, y = (anchor[0] - width // 2, anchor[1] + height // 2) if centred else anchor
    x = int(np.clip(x, 0, max(0, canvas.shape[1] - width)))
    y = int(np.clip(y, height, max(height, canvas.shape[0])))
    return x, y - height, x + width, y


def _write_name(canvas: np.ndarray, text: str, place: Sequence[int], colour: list[int]) -> None:
    """Write text on a filled box."""
    left, top, right, bottom = place
    size = _text_size(canvas)
    _, base = cv2.getTextSize(text, FONT, size, 1)
    cv2.rectangle(canvas, (left, top), (right, bottom), colour, -1)
    dark = np.dot(colour, (0.114, 0.587, 0.299)) < 140  # perceived brightness of BGR
    cv2.putText(canvas, text, (left + 2, bottom - base), FONT, size, (255,) * 3 if dark else (0,) * 3, 1, cv2.LINE_AA)
