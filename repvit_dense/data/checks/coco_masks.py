"""Read the masks of COCO annotations, polygons and run lengths (RLE), without drawing them: area and extent of each.

pycocotools, which the loaders call, trusts its input. It allocates memory for any coordinate, reads beyond the end of a
broken text, and returns uninitialised memory if the runs end before the image does.
"""

from itertools import chain
from typing import Any, NamedTuple

import numpy as np

CHUNK = 1_000_000  # characters or polygon points that are read at once, which bounds the memory
HUGE = 1e15  # larger coordinates are read as this
GROUPS = 7  # characters of a run length; more are beyond 32 bits
OUTLINE = 20_000_000  # pixels along a polygon; pycocotools needs 80 bytes for each
UNLISTED, NOT_NUMBERS, LONG, BROKEN, WRONG_SIZE, SHORT, FLAT = range(7)
MESSAGES = {  # fault -> level and message
    UNLISTED: ('error', '{} objects have no mask, which this config trains; use a detection config'),
    NOT_NUMBERS: (
        'error',
        '{} masks are not lists [[x, y, x, y, ...], ...] of finite numbers, one list for each polygon',
    ),
    LONG: ('error', f'{{}} masks have a polygon whose outline is longer than {OUTLINE:,} pixels'),
    BROKEN: ('error', '{} masks (RLE) cannot be decoded to all pixels of their image'),
    WRONG_SIZE: (
        'error',
        '{} masks (RLE) do not have the size of their image, which is [height, width] in whole numbers',
    ),
    SHORT: ('warning', '{} objects have a polygon of under 3 points or an odd count, which is left out'),
    FLAT: ('warning', '{} objects have a polygon without area'),
}
ERRORS = [fault for fault, (level, _) in MESSAGES.items() if level == 'error']


class Masks(NamedTuple):
    """The masks of N annotations.

    Attributes:
        areas: `(N,)` square pixels; 0 for a mask that is empty or cannot be read.
        corners: `(N, 4)` left, top, right, bottom in pixels; NaN for a mask that is empty or cannot be read.
        faults: key of `MESSAGES` -> indices of the annotations that have the fault.
        runs: `(N,)` whether the mask is RLE.
    """

    areas: np.ndarray
    corners: np.ndarray
    faults: dict[int, list[int]]
    runs: np.ndarray


def read_masks(segmentations: list, sizes: np.ndarray) -> Masks:
    """Return areas, extents and faults of masks.

    Args:
        segmentations: the value of `segmentation` of each annotation, whatever it is.
        sizes: `(N, 2)` width and height of the image of each annotation.
    """
    count = len(segmentations)
    masks = Masks(np.zeros(count), np.full((count, 4), np.nan), {}, np.zeros(count, bool))
    polygons: list[tuple[int, list]] = []
    runs: list[tuple[int, str | list]] = []
    volumes = [0, 0]
    for number, mask in enumerate(segmentations):
        if not mask:
            _add(masks, UNLISTED, number)
        elif isinstance(mask, dict):
            masks.runs[number] = True
            if counts := _run_counts(masks, number, mask, sizes[number]):
                runs.append((number, counts))
                volumes[1] += len(counts)
        elif parts := _parts(masks, number, mask):
            polygons += ((number, part) for part in parts)
            volumes[0] += sum(map(len, parts)) // 2
        if volumes[0] > CHUNK:
            _measure_polygons(masks, polygons)
            polygons, volumes[0] = [], 0
        if volumes[1] > CHUNK:
            _measure_runs(masks, runs, sizes)
            runs, volumes[1] = [], 0
    _measure_polygons(masks, polygons)
    _measure_runs(masks, runs, sizes)
    return masks


def _add(masks: Masks, fault: int, *numbers: int) -> None:
    if numbers:
        masks.faults.setdefault(fault, []).extend(dict.fromkeys(numbers))


def _run_counts(masks: Masks, number: int, mask: dict, size: np.ndarray) -> str | list | None:
    """Return the runs of an RLE mask if they have a form that loaders decode; a list is checked entirely."""
    listed, counts, (width, height) = mask.get('size'), mask.get('counts'), size.tolist()
    if listed != [height, width] or set(map(type, listed)) != {int}:
        _add(masks, WRONG_SIZE, number)
        return None
    if isinstance(counts, list):
        is_valid = set(map(type, counts)) == {int} and min(counts) >= 0 and sum(counts) == height * width
    else:
        is_valid = isinstance(counts, str) and counts.isascii() and 0 < len(counts) <= GROUPS * (height * width + 1)
    if not is_valid:
        _add(masks, BROKEN, number)
        return None
    return counts


def _parts(masks: Masks, number: int, mask: Any) -> list[list]:
    """Return the polygons of a mask that loaders draw; they skip those of under three points or an odd count."""
    if not isinstance(mask, list) or not all(
        isinstance(part, list) and set(map(type, part)) <= {int, float} for part in mask
    ):
        _add(masks, NOT_NUMBERS, number)
        return []
    parts = [part for part in mask if len(part) >= 6 and len(part) % 2 == 0]
    if len(parts) < len(mask):
        _add(masks, SHORT, number)
    return parts


def _measure_polygons(masks: Masks, polygons: list[tuple[int, list]]) -> None:
    """Enter areas and extents of polygons into `masks`; the polygons of an annotation follow each other."""
    if not polygons:
        return
    owners = np.fromiter((number for number, _ in polygons), np.int64, len(polygons))
    lengths = np.fromiter((len(part) // 2 for _, part in polygons), np.int64, len(polygons))
    points = _floats([part for _, part in polygons], 2 * lengths.sum()).reshape(-1, 2)
    first = np.cumsum(lengths) - lengths
    faulty = ~np.logical_and.reduceat(np.isfinite(points).all(1), first)
    points = np.clip(np.nan_to_num(points), -HUGE, HUGE)
    steps = np.abs(np.diff(points, axis=0, append=points[-1:])).max(1)
    steps[first + lengths - 1] = 0
    _add(masks, LONG, *owners[(np.add.reduceat(steps, first) > OUTLINE) & ~faulty].tolist())
    areas = polygon_areas(points, lengths)
    _add(masks, FLAT, *owners[(areas == 0) & ~faulty].tolist())
    _add(masks, NOT_NUMBERS, *owners[faulty].tolist())
    heads = np.flatnonzero(np.diff(owners, prepend=-1))  # the first polygon of each annotation
    numbers = owners[heads]
    masks.areas[numbers] = np.add.reduceat(areas, heads)
    masks.corners[numbers, :2] = np.minimum.reduceat(points, first[heads])
    masks.corners[numbers, 2:] = np.maximum.reduceat(points, first[heads])
    masks.areas[owners[faulty]] = 0
    masks.corners[owners[faulty]] = np.nan


def _floats(lists: list[list], count: int) -> np.ndarray:
    """Return all numbers of the lists, `(count,)` float64; `HUGE` for an integer beyond that type."""
    try:
        return np.fromiter(chain.from_iterable(lists), np.float64, count)
    except OverflowError:
        return np.fromiter((max(min(v, HUGE), -HUGE) for v in chain.from_iterable(lists)), np.float64, count)


def polygon_areas(points: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the areas `(N,)` of polygons in square pixels, by the shoelace formula.

    Args:
        points: `(P, 2)` points of all polygons.
        lengths: `(N,)` number of points of each polygon, at least 1.
    """
    first = np.cumsum(lengths) - lengths
    following = np.arange(1, len(points) + 1)
    following[first + lengths - 1] = first  # the last point of a polygon connects to its first
    # Relative to the first point the numbers are small, so the area of a flat polygon is exactly 0.
    points = points - np.repeat(points[first], lengths, axis=0)
    cross = points[:, 0] * points[following, 1] - points[:, 1] * points[following, 0]
    return np.abs(np.add.reduceat(cross, first)) / 2


def _measure_runs(masks: Masks, entries: list[tuple[int, str | list]], sizes: np.ndarray) -> None:
    """Enter areas and extents of RLE masks into `masks`, and those that cannot be decoded into its faults."""
    if not entries:
        return
    texts = [entry for entry in entries if isinstance(entry[1], str)]
    lists = [entry for entry in entries if isinstance(entry[1], list)]
    numbers = np.array([number for number, _ in texts + lists])
    runs, lengths, valid = _decode([str(counts) for _, counts in texts])
    runs = np.concatenate([runs, *(np.array(counts, np.int64) for _, counts in lists)])
    lengths = np.concatenate([lengths, [len(counts) for _, counts in lists]]).astype(np.int64)
    width, height = sizes[numbers].T
    first = np.cumsum(lengths) - lengths
    valid = np.concatenate([valid, np.ones(len(lists), bool)])
    valid &= (np.minimum.reduceat(runs, first) >= 0) & (np.add.reduceat(runs, first) == width * height)
    _add(masks, BROKEN, *numbers[~valid].tolist())

    place = np.arange(len(runs)) - np.repeat(first, lengths)  # in its mask; runs of background and object alternate
    mask = np.repeat(np.arange(len(numbers)), lengths)
    ends = _cumulate(runs, place == 0)
    inside = valid[mask] & (place % 2 == 1) & (runs > 0)
    if not inside.any():
        return
    mask, starts, ends = mask[inside], (ends - runs)[inside], ends[inside] - 1
    heads = np.flatnonzero(np.diff(mask, prepend=-1))  # the first run of each mask
    height, number = height[mask], numbers[mask[heads]]
    masks.areas[number] = np.add.reduceat(ends - starts + 1, heads)
    several = np.logical_or.reduceat(starts // height < ends // height, heads)  # a run continues in the next column
    masks.corners[number, 0] = np.minimum.reduceat(starts // height, heads)
    masks.corners[number, 1] = np.where(several, 0, np.minimum.reduceat(starts % height, heads))
    masks.corners[number, 2] = np.maximum.reduceat(ends // height, heads) + 1
    masks.corners[number, 3] = np.where(several, height[heads], np.maximum.reduceat(ends % height, heads) + 1)


def _decode(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the runs of compressed masks.

    A character holds five bits of a number, the lowest ones first, and a sixth bit if more follow. The last character
    has the sign. From the fourth on, a run is stored as the difference from the last but one.

    Returns:
        all runs `(R,)`, the number of runs of each mask `(N,)`, and whether its text is such code `(N,)`.
    """
    if not texts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool)
    codes = np.frombuffer(''.join(texts).encode(), np.uint8).astype(np.int64) - 48
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    first = np.cumsum(lengths) - lengths
    last = first + lengths - 1
    final = codes & 32 == 0
    valid = np.logical_and.reduceat((codes >= 0) & (codes < 64), first) & final[last]
    final[last] = True
    starts = np.concatenate([[0], np.flatnonzero(final)[:-1] + 1])  # of the numbers
    digits = np.diff(starts, append=len(codes))
    place = np.arange(len(codes)) - np.repeat(starts, digits)
    valid &= np.maximum.reduceat(place, first) < GROUPS
    runs = np.add.reduceat((codes & 31) << 5 * np.minimum(place, GROUPS), starts)
    runs -= np.where(codes[starts + digits - 1] & 16, 1 << 5 * np.minimum(digits, GROUPS), 0)
    counts = np.add.reduceat(final.astype(np.int64), first)
    place = np.arange(len(runs)) - np.repeat(np.cumsum(counts) - counts, counts)
    for head in (1, 2):
        chosen = (place >= head) & ((place - head) % 2 == 0)
        runs[chosen] = _cumulate(runs[chosen], place[chosen] == head)
    return runs, counts, valid


def _cumulate(values: np.ndarray, restart: np.ndarray) -> np.ndarray:
    """Return the cumulative sum `(N,)` of values, which begins anew wherever `restart` is set."""
    sums, heads = np.cumsum(values), np.flatnonzero(restart)
    return sums - np.repeat(sums[heads] - values[heads], np.diff(heads, append=len(values)))
