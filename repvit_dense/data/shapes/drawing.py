"""Draw one image of `shapes`. Until the last step images are float32, in BGR order and in 0..1."""

import colorsys
import math
import operator
from dataclasses import dataclass
from functools import cache

import numpy as np

THING_CLASSES = ('circle', 'square', 'triangle', 'star', 'ring', 'cross', 'heart', 'crescent')
STUFF_CLASSES = ('stripes', 'checks', 'speckle', 'waves')

# Mean hue of each class in degrees; HUE_SPREAD is the standard deviation. Colour helps a detector to start learning,
# but neighbouring hues overlap, so the shape decides. The hues of similar outlines (circle and ring) are far apart.
HUES = tuple(135 * index % 360 for index in range(len(THING_CLASSES)))
HUE_SPREAD = 20

REFERENCE_SIZE = 320  # shorter side of the image in pixels that SIDE and all texture lengths refer to
MIN_SIZE = 64  # shortest side of an image in pixels
SIDE = (24, 160)  # range of the object size in pixels
OBJECTS = (3, 8)  # range of the number of attempts to place an object
TURN = math.radians(25)  # largest rotation: objects stand nearly upright, as in photographs
MIN_VISIBLE = 0.3  # an object is left out if a smaller part of its area would be visible
SUPERSAMPLE = 4  # outlines are filled at this multiple of the resolution, then averaged


@dataclass(frozen=True)
class Sample:
    """A drawn image with N objects.

    Attributes:
        image: `(H, W, 3)` uint8 in BGR order, as OpenCV and the OpenMMLab loaders use it.
        instances: `(H, W)` uint8, 0 for background, `i + 1` for the visible pixels of object `i`; no object is hidden.
        labels: `(N,)` int64, indices into `THING_CLASSES`, 1 <= N <= 8; later objects cover earlier ones.
        stuff: `(H, W)` uint8, indices into `STUFF_CLASSES`: the texture at each pixel, also behind the objects.
    """

    image: np.ndarray
    instances: np.ndarray
    labels: np.ndarray
    stuff: np.ndarray


def draw(rng: np.random.Generator, size: tuple[int, int] = (320, 320)) -> Sample:
    """Draw one image.

    Args:
        rng: random generator; the same state draws the same sample.
        size: height and width in pixels, both at least 64. Objects and textures scale with the shorter side.

    Raises:
        ValueError: a side of `size` is too short.
    """
    height, width = check_size(size)
    scale = min(height, width) / REFERENCE_SIZE
    image, stuff = _background(rng, height, width, scale)
    labels, coverages, masks = _place(rng, height, width, scale)
    instances = np.zeros((height, width), np.uint8)
    for index, (label, coverage, mask) in enumerate(zip(labels, coverages, masks, strict=True)):
        _paint(rng, image, coverage, HUES[label])
        instances[mask] = index + 1
    # Camera noise of one level in 255; more would mainly enlarge the PNG files.
    image += 0.004 * rng.standard_normal((height, width, 1), np.float32)
    return Sample((image.clip(0, 1) * 255).round().astype(np.uint8), instances, labels, stuff)


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width as integers.

    Raises:
        ValueError: a side is below `MIN_SIZE`, or there are not two.
    """
    height, width = (operator.index(side) for side in size)
    if min(height, width) < MIN_SIZE:
        raise ValueError(f'size is (height, width) in pixels, both at least {MIN_SIZE}; got {height}, {width}')
    return height, width


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Return noise `(H, W)` of about -1..1, interpolated from a grid of `cells + 1` values per side."""
    import cv2

    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def _pattern(rng: np.random.Generator, name: str, height: int, width: int, scale: float) -> np.ndarray:
    """Return a texture `(H, W)` as a mixing weight in 0..1; its cells are smaller than the smallest object."""
    import cv2

    if name == 'speckle':
        noise = rng.standard_normal((height, width), np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), rng.uniform(1.4, 2.2) * max(scale, 0.5))
        return (3 * (noise / noise.std() - 1)).clip(0, 1)
    y, x = np.mgrid[:height, :width].astype(np.float32) / scale
    angle = rng.uniform(0, np.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    along, across = x * cos + y * sin, y * cos - x * sin
    period = rng.uniform(10, 20)
    if name == 'checks':
        wave = 2 * np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period)
    else:
        if name == 'waves':
            along = along + rng.uniform(0.5, 0.7) * period * np.sin(2 * np.pi * across / (period * rng.uniform(2.5, 4)))
        wave = np.sin(2 * np.pi * along / period)
    return (0.5 + wave).clip(0, 1)


def _background(rng: np.random.Generator, height: int, width: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return an image with one to three textured regions and its map of stuff classes."""
    kinds = rng.permutation(len(STUFF_CLASSES))[: rng.integers(1, 4)]
    # Each pixel belongs to the region with the nearest seed; noise on the coordinates makes the borders uneven.
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y = y / height - 0.5 + 0.1 * _smooth_noise(rng, height, width, 4)
    x = x / width - 0.5 + 0.1 * _smooth_noise(rng, height, width, 4)
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(len(kinds)) / len(kinds)
    angles += rng.uniform(-0.4, 0.4, len(kinds))
    distances = [(x - 0.25 * math.cos(angle)) ** 2 + (y - 0.25 * math.sin(angle)) ** 2 for angle in angles]
    regions = np.argmin(distances, axis=0)

    image = np.empty((height, width, 3), np.float32)
    for index, kind in enumerate(kinds):
        region = regions == index
        weight = _pattern(rng, STUFF_CLASSES[kind], height, width, scale)[region][:, None]
        hue, saturation, value = rng.uniform((0, 0.05, 0.35), (360, 0.45, 0.75))
        other = hue + rng.uniform(-40, 40), saturation, value + rng.choice((-1, 1)) * rng.uniform(0.12, 0.22)
        image[region] = _bgr(hue, saturation, value) * (1 - weight) + _bgr(*other) * weight
    image *= 1 + 0.12 * _smooth_noise(rng, height, width, 3)[..., None]
    return image, kinds[regions].astype(np.uint8)


def _bgr(hue: float, saturation: float, value: float) -> np.ndarray:
    """Convert a hue in degrees, saturation and value in 0..1 to BGR, `(3,)` float32."""
    red, green, blue = colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)
    return np.array([blue, green, red], np.float32)


@cache
def _outlines() -> dict[str, list[np.ndarray]]:
    """Return class -> closed contours `(P, 2)` in about -1..1; areas inside an odd number of contours are filled."""

    def arc(start: float, stop: float, radius: float = 1.0, centre: float = 0.0) -> np.ndarray:
        angle = np.linspace(start, stop, 72)
        return np.stack([centre + radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    def spokes(*radii: float) -> np.ndarray:
        angle = 2 * np.pi * np.arange(len(radii)) / len(radii) - np.pi / 2  # the first one points up
        return np.array(radii)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    turn = 2 * np.pi
    t = np.linspace(0, turn, 72, endpoint=False)
    heart = [16 * np.sin(t) ** 3, 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t) - 13 * np.cos(t)]
    a = 0.3  # half the width of an arm
    cross = [(a, 1), (a, a), (1, a), (1, -a), (a, -a), (a, -1), (-a, -1), (-a, -a), (-1, -a), (-1, a), (-a, a), (-a, 1)]
    # The crescent is the unit disk minus a disk with this radius and centre. `outer` and `inner` are the angles of the
    # points that both circles share, seen from the centre of each.
    radius, centre = 0.75, 0.55
    intersection = (1 - radius**2 + centre**2) / (2 * centre)
    outer = np.arccos(intersection)
    inner = np.arctan2(np.sqrt(1 - intersection**2), intersection - centre)
    crescent = np.concatenate([arc(outer, turn - outer), arc(turn - inner, inner, radius, centre)])
    return {
        'circle': [arc(0, turn)],
        'square': [0.88 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])],
        'triangle': [1.1 * spokes(1, 1, 1)],
        'star': [1.1 * spokes(*[1, 0.45] * 5)],
        'ring': [arc(0, turn), arc(0, turn, 0.55)],
        'cross': [np.array(cross)],
        'heart': [np.stack(heart, axis=1) / 16],
        'crescent': [crescent - (np.ptp(crescent, axis=0) / 2 + crescent.min(axis=0))],
    }


def _place(rng: np.random.Generator, height: int, width: int, scale: float) -> tuple[np.ndarray, list, list]:
    """Choose objects from the top one down, and leave out those that others or the image border would hide.

    Returns:
        Labels `(N,)`, coverages (uint8, 0..255, of the whole object) and visible masks (bool), the lowest object first.
    """
    objects: list[tuple] = []
    occupied = np.zeros((height, width), bool)
    attempts = rng.integers(*OBJECTS, endpoint=True)
    while attempts > 0 or not objects:
        attempts -= 1
        label = rng.integers(len(THING_CLASSES))
        side = scale * np.exp(rng.uniform(*np.log(SIDE)))
        centre = rng.uniform(side / 4, (width - side / 4, height - side / 4))
        turn = rng.uniform(-TURN, TURN)
        coverage, area = _rasterize(_outlines()[THING_CLASSES[label]], side, turn, centre, height, width)
        mask = (coverage >= 128) & ~occupied
        if mask.sum() >= MIN_VISIBLE * area:
            occupied |= mask
            objects.append((label, coverage, mask))
    labels, coverages, masks = zip(*reversed(objects), strict=True)
    return np.array(labels, np.int64), list(coverages), list(masks)


def _rasterize(
    contours: list[np.ndarray], side: float, turn: float, centre: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, float]:
    """Return the coverage of each pixel (uint8, 0..255) and the area of the outline in pixels, also outside the image.

    Args:
        contours: outline in about -1..1; the second and later contours are holes.
        side: width and height of the frame -1..1, in pixels.
        turn: rotation in radians.
        centre: x and y in pixels.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    import cv2

    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * side / 2
    points = [contour @ rotation + centre for contour in contours]
    outer, *holes = (cv2.contourArea(contour.astype(np.float32)) for contour in points)
    canvas = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), np.uint8)
    # Pixel centres are at whole numbers in OpenCV and at halves here, hence the shift by half a fine pixel.
    cv2.fillPoly(canvas, [(contour * SUPERSAMPLE - 0.5).round().astype(np.int32) for contour in points], 255)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), outer - sum(holes)


def _paint(rng: np.random.Generator, image: np.ndarray, coverage: np.ndarray, hue: float) -> None:
    """Paint one object over `image`, in a colour near `hue` that contrasts with the pixels around its outline."""
    import cv2

    left, top, width, height = cv2.boundingRect(coverage)
    left, top, right, bottom = max(left - 2, 0), max(top - 2, 0), left + width + 2, top + height + 2
    view, coverage = image[top:bottom, left:right], coverage[top:bottom, left:right]
    height, width = coverage.shape
    side = max(height, width)

    around = view[cv2.dilate(coverage, np.ones((3, 3), np.uint8)) > coverage]
    hues, mixes = rng.normal(hue, HUE_SPREAD, 8), rng.uniform(0.3, 1, (8, 2))
    candidates = np.array([_bgr(hue, *mix) for hue, mix in zip(hues, mixes, strict=True)])
    around, lab = (cv2.cvtColor(colours[None].clip(0, 1), cv2.COLOR_BGR2LAB)[0] for colours in (around, candidates))
    contrast = np.percentile(np.linalg.norm(lab[:, None] - around, axis=2), 10, axis=1)
    colour = candidates[contrast.argmax()]

    # Light from one side, noise on the face, and a darker rim that separates overlapping objects of similar colour.
    alpha = coverage.astype(np.float32) / 255
    y, x = np.mgrid[:height, :width].astype(np.float32) / side - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + 0.3 * (x * math.cos(angle) + y * math.sin(angle)) + 0.07 * _smooth_noise(rng, height, width, 6)
    rim = (2 * cv2.GaussianBlur(alpha, (0, 0), 0.6 + 0.02 * side) - 1).clip(0, 1)
    face = colour * (light * (0.6 + 0.4 * rim))[..., None]
    view += (face - view) * alpha[..., None]
