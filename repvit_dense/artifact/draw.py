"""What an artifact found, drawn over the image with OpenCV alone: boxes, names, translucent masks and segments."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

OPACITY = 0.45
FONT = cv2.FONT_HERSHEY_SIMPLEX
SHORTEST = 320  # pixels; smaller pictures are enlarged, or their names would cover them


def draw(
    image: np.ndarray, found: dict, classes: Sequence[str], palette: Sequence | None = None, score: float = 0.3
) -> np.ndarray:
    """A picture of a prediction.

    Args:
        image: `(H, W, 3)` BGR uint8; it stays as it is.
        found: what `Predictor` gives for it.
        classes: names of the labels.
        palette: an RGB colour per class; None for colours as different as possible.
        score: objects that score less are left out.

    Returns:
        BGR uint8, the image's size or a multiple of it.
    """
    colours = np.array(palette if palette else _palette(len(classes)), np.uint8)[:, ::-1]
    factor = max(1, round(SHORTEST / max(1, min(image.shape[:2])))) if max(image.shape[:2]) < 4 * SHORTEST else 1
    canvas = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    if 'boxes' in found:
        return _objects(canvas, found, classes, colours, score, factor)
    if 'seg' in found:
        labels = [int(label) for label in np.unique(found['seg'])]
        return _regions(canvas, [(found['seg'] == label, label) for label in labels], classes, colours, factor)
    parts = [(found['segments'] == part['number'], part['label']) for part in found['segment_info']]
    return _regions(canvas, parts, classes, colours, factor)


def _palette(count: int) -> list[list[int]]:
    """RGB colours: hues a golden angle apart, in three brightnesses."""
    return [
        [round(255 * level) for level in colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.75, (1.0, 0.8, 0.6)[i % 3])]
        for i in range(count)
    ]


def _objects(canvas, found, classes, colours, score, factor) -> np.ndarray:
    order = np.argsort(found['scores'])  # the surest last, on top
    order = order[found['scores'][order] >= score]
    for index in order if 'masks' in found else ():
        _cover(canvas, found['masks'][index], colours[found['labels'][index]], factor)
    for index in order:
        colour = colours[found['labels'][index]].tolist()
        left, top, right, bottom = (int(round(float(side) * factor)) for side in found['boxes'][index])
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, _line(canvas), cv2.LINE_AA)
        _name(canvas, f'{classes[found["labels"][index]]} {found["scores"][index]:.2f}', (left, top), colour)
    return canvas


def _regions(canvas, parts, classes, colours, factor) -> np.ndarray:
    for mask, label in parts:
        if label < len(classes):
            _cover(canvas, mask, colours[label], factor)
    for mask, label in parts:
        if label < len(classes) and mask.mean() > 0.003:  # a name would hide what is smaller
            depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
            row, column = np.unravel_index(np.argmax(depth), depth.shape)
            _name(canvas, classes[label], (column * factor, row * factor), colours[label].tolist(), centred=True)
    return canvas


def _cover(canvas: np.ndarray, mask: np.ndarray, colour: np.ndarray, factor: int) -> None:
    """Tint what a mask covers, and draw around it."""
    mask = cv2.resize(mask.astype(np.uint8), canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    inside = mask > 0
    canvas[inside] = (canvas[inside] * (1 - OPACITY) + colour * OPACITY).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, outlines, -1, colour.tolist(), max(1, _line(canvas) // 2), cv2.LINE_AA)


def _line(canvas: np.ndarray) -> int:
    return max(1, round(min(canvas.shape[:2]) / 300))


def _name(canvas: np.ndarray, text: str, place: tuple, colour: list[int], centred: bool = False) -> None:
    """Text on a field of its colour, above `place` or around it, moved inside the picture."""
    size = np.clip(min(canvas.shape[:2]) / 900, 0.35, 1.2)
    (width, height), base = cv2.getTextSize(text, FONT, size, 1)
    width, height = width + 4, height + base + 2
    x, y = (place[0] - width // 2, place[1] + height // 2) if centred else place
    x = int(np.clip(x, 0, max(0, canvas.shape[1] - width)))
    y = int(np.clip(y, height, max(height, canvas.shape[0])))
    cv2.rectangle(canvas, (x, y - height), (x + width, y), colour, -1)
    dark = np.dot(colour, (0.114, 0.587, 0.299)) < 140  # BGR, as bright as it looks
    cv2.putText(canvas, text, (x + 2, y - base), FONT, size, (255,) * 3 if dark else (0,) * 3, 1, cv2.LINE_AA)
