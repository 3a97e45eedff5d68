"""The embedded data set `shapes`: drawn, not downloaded, and small enough to train a detector on with a CPU.

Eight kinds of objects overlap on one to three kinds of background texture. What can be seen of an object is its mask;
instance, panoptic and semantic annotations come from the same maps, so they agree in every pixel. The folder is laid
out like COCO 2017. OpenCV and pycocotools are imported where they are used: importing this module costs nothing.
"""

import colorsys
import json
import math
import operator
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np

from repvit_dense.data.reading import run_lengths

THING_CLASSES = ('circle', 'square', 'triangle', 'star', 'ring', 'cross', 'heart', 'crescent')
STUFF_CLASSES = ('stripes', 'checks', 'speckle', 'waves')
SPLITS = ('train2017', 'val2017')

FORMAT = 4  # raise it when the same arguments draw something else: folders of another format are drawn anew
STAMP = 'shapes.json'

# A class leans to a hue (degrees, standard deviation), as ripe fruit and road signs do: colour helps a detector on its
# way, and shape decides, since neighbouring hues overlap. Alike outlines (circle and ring) lie far apart.
HUES = tuple(135 * index % 360 for index in range(len(THING_CLASSES)))
HUE_SPREAD = 20

REFERENCE_SIZE = 320  # shorter side of the images, in pixels, for which SIDE and all texture lengths are given
MIN_SIZE = 64
SIDE = (24, 160)
OBJECTS = (3, 8)  # tries to place one; what would be hidden is left out
TURN = math.radians(25)  # objects stand about upright, as things in photographs do
MIN_VISIBLE = 0.3  # an object of which less can be seen is left out
SUPERSAMPLE = 4  # outlines are filled this many times larger, then averaged


@dataclass(frozen=True)
class Sample:
    """One drawn image of N objects.

    Attributes:
        image: `(H, W, 3)` uint8 in BGR order, as OpenCV and the OpenMMLab loaders have it.
        instances: `(H, W)` uint8, 0 for background, `i + 1` where object `i` can be seen. Every object can.
        labels: `(N,)` int64, indices into `THING_CLASSES`, 1 <= N <= 8; later objects lie over earlier ones.
        stuff: `(H, W)` uint8, indices into `STUFF_CLASSES`: the texture at each pixel, or behind its object.
    """

    image: np.ndarray
    instances: np.ndarray
    labels: np.ndarray
    stuff: np.ndarray


def draw(rng: np.random.Generator, size: tuple[int, int] = (320, 320)) -> Sample:
    """Draw one image.

    Args:
        rng: source of all that is random; the same state draws the same sample.
        size: height and width in pixels, both at least 64. Objects and textures scale with the shorter one.

    Raises:
        ValueError: a side of `size` is too small.
    """
    height, width = _check_size(size)
    scale = min(height, width) / REFERENCE_SIZE
    image, stuff = _background(rng, height, width, scale)
    labels, coverages, masks = _place(rng, height, width, scale)
    instances = np.zeros((height, width), np.uint8)
    for index, (label, coverage, mask) in enumerate(zip(labels, coverages, masks, strict=True)):
        _paint(rng, image, coverage, HUES[label])
        instances[mask] = index + 1
    # Grain as of a camera, one level of 255 strong: more would do little but swell the PNG files.
    image += 0.004 * rng.standard_normal((height, width, 1), np.float32)
    return Sample((image.clip(0, 1) * 255).round().astype(np.uint8), instances, labels, stuff)


def generate(
    root: str | Path,
    seed: int = 0,
    num_train: int = 200,
    num_val: int = 50,
    size: tuple[int, int] = (320, 320),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the data set to `root`, unless it is there already.

    The folder appears complete or not at all: it is drawn beside `root`, then renamed, so the processes of a job may
    call this at once. A data set drawn here with other arguments is replaced. Every image has its own random stream:
    other numbers of images change neither the images that remain nor the other split. The same arguments give the
    same bytes under the same versions of numpy and OpenCV.

    Args:
        root: folder to create; its parents are created too.
        seed: at least 0.
        num_train: number of training images, at least 1.
        num_val: number of validation images, at least 1.
        size: height and width of the images in pixels, both at least 64.
        progress: called after every image with the number of images done and the number of all.

    Returns:
        `root` as a `Path`.

    Raises:
        ValueError: an argument is out of its range, or `root` holds files not drawn here; they are left untouched.
    """
    seed, num_train, num_val = (operator.index(value) for value in (seed, num_train, num_val))
    if seed < 0 or num_train < 1 or num_val < 1:
        raise ValueError(f'need seed >= 0, num_train >= 1, num_val >= 1; got {seed}, {num_train}, {num_val}')
    size = _check_size(size)
    arguments = {'seed': seed, 'num_train': num_train, 'num_val': num_val, 'size': list(size)}
    stamp = {'dataset': 'shapes', 'format': FORMAT, **arguments}
    root = Path(root)
    target = root.resolve()  # a link to a folder stays a link
    if _is_drawn(target, stamp):
        return root

    done = count(1)

    def samples(stream: int, number: int) -> Iterator[Sample]:
        for index in range(number):
            yield draw(np.random.default_rng([seed, stream, index]), size)
            if progress:  # the caller has come back for the next image, so this one is written
                progress(next(done), num_train + num_val)

    partial = target.with_name(f'.{target.name}-{uuid.uuid4().hex}')
    try:
        for stream, (split, number) in enumerate(zip(SPLITS, (num_train, num_val), strict=True)):
            _write_split(partial, split, samples(stream, number))
        (partial / STAMP).write_text(json.dumps(stamp))
        _publish(partial, target, stamp)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def categories() -> list[dict]:
    """Panoptic categories, things (ids 1 to 8) before stuff. The index into this list is the semantic label."""
    things = [{'supercategory': 'shape', 'isthing': 1, 'name': name} for name in THING_CLASSES]
    stuff = [{'supercategory': 'texture', 'isthing': 0, 'name': name} for name in STUFF_CLASSES]
    return [{'id': index + 1, **category} for index, category in enumerate(things + stuff)]


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (operator.index(side) for side in size)
    if min(height, width) < MIN_SIZE:
        raise ValueError(f'size is (height, width) in pixels, both at least {MIN_SIZE}; got {height}, {width}')
    return height, width


# Drawing. Images are float32, BGR, 0..1 until the end.


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """A field of about -1..1 that varies over `cells` bumps per side."""
    import cv2

    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def _pattern(rng: np.random.Generator, name: str, height: int, width: int, scale: float) -> np.ndarray:
    """One texture as a mixing weight in 0..1. Its cells stay smaller than the smallest object."""
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
    """An image of one to three textured regions and its map of stuff classes."""
    kinds = rng.permutation(len(STUFF_CLASSES))[: rng.integers(1, 4)]
    # A region is what lies nearest to its seed, in a plane warped so that the borders are not straight.
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
    """Hue in degrees, saturation and value in 0..1 -> `(3,)` float32 BGR."""
    red, green, blue = colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)
    return np.array([blue, green, red], np.float32)


@cache
def _outlines() -> dict[str, list[np.ndarray]]:
    """Class -> closed contours `(P, 2)` in a frame of about -1..1; what lies within an odd number of them is filled."""

    def arc(start, stop, radius=1.0, centre=0.0):
        angle = np.linspace(start, stop, 72)
        return np.stack([centre + radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    def spokes(*radii):
        angle = 2 * np.pi * np.arange(len(radii)) / len(radii) - np.pi / 2  # the first one points up
        return np.array(radii)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    turn = 2 * np.pi
    t = np.linspace(0, turn, 72, endpoint=False)
    heart = [16 * np.sin(t) ** 3, 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t) - 13 * np.cos(t)]
    a = 0.3  # half the width of an arm
    cross = [(a, 1), (a, a), (1, a), (1, -a), (a, -a), (a, -1), (-a, -1), (-a, -a), (-1, -a), (-1, a), (-a, a), (-a, 1)]
    # The crescent is a unit disk less a disk of this radius and centre; seen from each centre they meet at an angle.
    radius, centre = 0.75, 0.55
    meet = (1 - radius**2 + centre**2) / (2 * centre)
    outer, inner = np.arccos(meet), np.arctan2(np.sqrt(1 - meet**2), meet - centre)
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
    """Choose objects from the top one down, leaving out what would be hidden by those above it or by the image border.

    Returns labels `(N,)`, coverages (uint8, 0..255, of the whole object) and visible masks (bool), lowest object first.
    """
    objects = []
    taken = np.zeros((height, width), bool)
    tries = rng.integers(*OBJECTS, endpoint=True)
    while tries > 0 or not objects:
        tries -= 1
        label = rng.integers(len(THING_CLASSES))
        side = scale * np.exp(rng.uniform(*np.log(SIDE)))
        centre = rng.uniform(side / 4, (width - side / 4, height - side / 4))
        turn = rng.uniform(-TURN, TURN)
        coverage, area = _rasterize(_outlines()[THING_CLASSES[label]], side, turn, centre, height, width)
        mask = (coverage >= 128) & ~taken
        if mask.sum() >= MIN_VISIBLE * area:
            taken |= mask
            objects.append((label, coverage, mask))
    labels, coverages, masks = zip(*reversed(objects), strict=True)
    return np.array(labels, np.int64), list(coverages), list(masks)


def _rasterize(
    contours: list[np.ndarray], side: float, turn: float, centre: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, float]:
    """Coverage of each pixel (uint8, 0..255) and the area of the whole outline in pixels, inside the image or not."""
    import cv2

    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * side / 2
    points = [contour @ rotation + centre for contour in contours]
    outer, *holes = (cv2.contourArea(contour.astype(np.float32)) for contour in points)
    canvas = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), np.uint8)
    # OpenCV has pixel centres at whole numbers, here they are at halves: hence the shift by half a fine pixel.
    cv2.fillPoly(canvas, [(contour * SUPERSAMPLE - 0.5).round().astype(np.int32) for contour in points], 255)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), outer - sum(holes)


def _paint(rng: np.random.Generator, image: np.ndarray, coverage: np.ndarray, hue: float) -> None:
    """Paint one object over `image`, in a colour around `hue` that stands out from what lies around its outline."""
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

    # Light falls from one side, a darker rim parts objects of one colour where they overlap, the face is mottled.
    alpha = coverage.astype(np.float32) / 255
    y, x = np.mgrid[:height, :width].astype(np.float32) / side - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + 0.3 * (x * math.cos(angle) + y * math.sin(angle)) + 0.07 * _smooth_noise(rng, height, width, 6)
    rim = (2 * cv2.GaussianBlur(alpha, (0, 0), 0.6 + 0.02 * side) - 1).clip(0, 1)
    face = colour * (light * (0.6 + 0.4 * rim))[..., None]
    view += (face - view) * alpha[..., None]


# Files.


def _write_split(root: Path, split: str, samples: Iterable[Sample]) -> None:
    """Write the images and the three kinds of annotations of one split below `root`.

    All are PNG. A JPEG would be a third of an image's 0.17 MB, but its pixels would depend on the decoder.
    """
    import cv2

    annotations = root / 'annotations'
    folders = [root / split, annotations / f'panoptic_{split}', annotations / f'semantic_{split}']
    for folder in folders:
        folder.mkdir(parents=True)
    images, instances, panoptic = [], [], []
    for image_id, sample in enumerate(samples, start=1):
        name = f'{image_id:012d}.png'
        height, width = sample.stuff.shape
        images.append({'id': image_id, 'file_name': name, 'height': height, 'width': width})
        objects, segments, ids, semantic = _annotate(sample, image_id, first_id=len(instances) + 1)
        instances += objects
        panoptic.append({'image_id': image_id, 'file_name': name, 'segments_info': segments})
        # COCO writes a segment id as R + 256 G + 256^2 B; OpenCV takes the channels as B, G, R.
        colours = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=2).astype(np.uint8)
        for folder, pixels in zip(folders, (sample.image, colours, semantic), strict=True):
            (folder / name).write_bytes(cv2.imencode('.png', pixels)[1].tobytes())
    info = {'description': 'shapes, an embedded data set of drawn objects', 'version': str(FORMAT)}
    things = [{key: c[key] for key in ('supercategory', 'id', 'name')} for c in categories() if c['isthing']]
    for kind, records, listed in (('instances', instances, things), ('panoptic', panoptic, categories())):
        content = {'info': info, 'licenses': [], 'images': images, 'annotations': records, 'categories': listed}
        (annotations / f'{kind}_{split}.json').write_text(json.dumps(content))


def _annotate(sample: Sample, image_id: int, first_id: int) -> tuple[list[dict], list[dict], np.ndarray, np.ndarray]:
    """Instance annotations, panoptic segments, `(H, W)` map of segment ids and `(H, W)` uint8 map of semantic labels.

    The segment of a thing has the id of its instance annotation; ids of stuff start at 2^23.
    """
    import cv2

    index = sample.instances.astype(np.int32) - 1  # -1 where there is no object
    stuff = sample.stuff.astype(np.int32)
    ids = np.where(index >= 0, first_id + index, 2**23 + image_id * len(STUFF_CLASSES) + stuff)
    semantic = np.where(index >= 0, sample.labels[index], len(THING_CLASSES) + stuff).astype(np.uint8)
    instances, segments = [], []
    for segment_id in np.unique(ids).tolist():
        mask = (ids == segment_id).astype(np.uint8)
        category = int(semantic[mask > 0][0]) + 1
        box = [int(value) for value in cv2.boundingRect(mask)]  # left, top, width, height
        segment = {'id': segment_id, 'category_id': category, 'iscrowd': 0, 'bbox': box, 'area': int(mask.sum())}
        segments.append(segment)
        if segment_id < 2**23:
            instances.append({**segment, 'image_id': image_id, 'segmentation': run_lengths(mask)})
    return instances, segments, ids, semantic


def _is_drawn(root: Path, stamp: dict) -> bool:
    """Whether `root` is the data set that `stamp` describes; False means that it may be drawn (again).

    Raises:
        ValueError: `root` holds something else, which drawing would delete.
    """
    try:
        identity = root.stat().st_ino
        present = {path.relative_to(root).as_posix() for depth in ('*', 'annotations/*') for path in root.glob(depth)}
        text = (root / STAMP).read_bytes() if (root / STAMP).is_file() else b''
        settled = root.stat().st_ino == identity
    except FileNotFoundError:
        settled = False
    if not settled:  # not there, or another process has replaced it meanwhile: then look again
        return root.exists() and _is_drawn(root, stamp)
    if root.is_dir() and not present:
        return False
    expected = {STAMP, 'annotations', *SPLITS}
    for split in SPLITS:
        names = (f'instances_{split}.json', f'panoptic_{split}.json', f'panoptic_{split}', f'semantic_{split}')
        expected |= {f'annotations/{name}' for name in names}
    found = None
    with suppress(ValueError):
        found = json.loads(text)
    if found == stamp and expected <= present:
        return True
    foreign = sorted(present - expected)
    if isinstance(found, dict) and found.get('dataset') == 'shapes' and not foreign:
        return False
    why = f'holds {", ".join(foreign[:3])}' if foreign else f'has no valid {STAMP}'
    raise ValueError(f'{root} {why}: it is left as it is; name another folder for the data set or move this one away')


def _publish(partial: Path, target: Path, stamp: dict) -> None:
    """Rename `partial` to `target` in place of an older data set; an equal one made there meanwhile stays."""
    aside = partial.with_name(partial.name + '-old')
    for attempt in range(5):
        try:
            partial.rename(target)  # fails where a folder that is not empty has the name
            return
        except OSError:
            if attempt == 4:
                raise
        if _is_drawn(target, stamp):
            return
        with suppress(FileNotFoundError):  # another process has just moved it
            target.rename(aside)
            shutil.rmtree(aside)
