"""Write `shapes` to a folder in the layout of COCO 2017."""

import json
import operator
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np

from repvit_dense.data.reading import run_lengths
from repvit_dense.data.shapes.drawing import STUFF_CLASSES, THING_CLASSES, Sample, check_size, draw
from repvit_dense.files import encode_image

SPLITS = ('train2017', 'val2017')
STAMP = 'shapes.json'  # file with the arguments of `generate`
FORMAT = 4  # increase it when the same arguments draw something else; folders of another format are drawn again
FIRST_STUFF_ID = 2**23  # segment ids of stuff start here, above those of all objects


def generate(
    root: str | Path,
    seed: int = 0,
    num_train: int = 200,
    num_val: int = 50,
    size: tuple[int, int] = (320, 320),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the data set to `root`, unless `root` already holds it.

    The folder is drawn beside `root`, then renamed: it is complete or absent, so several processes of a job may call
    this at once. A data set drawn with other arguments is replaced. Every image has its own random stream, so another
    number of images changes neither the other images nor the other split. The same arguments give the same bytes with
    the same versions of numpy and OpenCV.

    Args:
        root: folder to create, with its parents.
        seed: at least 0.
        num_train: number of training images, at least 1.
        num_val: number of validation images, at least 1.
        size: height and width of the images in pixels, both at least 64.
        progress: called after every image with the number of images done and the total.

    Returns:
        `root` as a `Path`.

    Raises:
        ValueError: an argument is out of range, or `root` holds other files, which are not changed.
    """
    seed, num_train, num_val = (operator.index(value) for value in (seed, num_train, num_val))
    if seed < 0 or num_train < 1 or num_val < 1:
        raise ValueError(f'need seed >= 0, num_train >= 1, num_val >= 1; got {seed}, {num_train}, {num_val}')
    size = check_size(size)
    arguments = {'seed': seed, 'num_train': num_train, 'num_val': num_val, 'size': list(size)}
    stamp = {'dataset': 'shapes', 'format': FORMAT, **arguments}
    root = Path(root)
    target = root.resolve()  # replaces the folder behind a link, not the link
    if _is_drawn(target, stamp):
        return root

    done = count(1)

    def samples(stream: int, number: int) -> Iterator[Sample]:
        for index in range(number):
            yield draw(np.random.default_rng([seed, stream, index]), size)
            if progress:  # resumed for the next image, so this one has been written
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
    """Return the panoptic categories in the order of semantic labels: things (ids 1 to 8) before stuff."""
    things = [{'supercategory': 'shape', 'isthing': 1, 'name': name} for name in THING_CLASSES]
    stuff = [{'supercategory': 'texture', 'isthing': 0, 'name': name} for name in STUFF_CLASSES]
    return [{'id': index + 1, **category} for index, category in enumerate(things + stuff)]


def _write_split(root: Path, split: str, samples: Iterable[Sample]) -> None:
    """Write the images and the three kinds of annotations of one split to `root`.

    All files are PNG, 0.17 MB each. JPEG would take a third of that, but its pixels depend on the decoder.
    """
    annotations = root / 'annotations'
    folders = [root / split, annotations / f'panoptic_{split}', annotations / f'semantic_{split}']
    for folder in folders:
        folder.mkdir(parents=True)
    images: list[dict] = []
    instances: list[dict] = []
    panoptic: list[dict] = []
    for image_id, sample in enumerate(samples, start=1):
        name = f'{image_id:012d}.png'
        height, width = sample.stuff.shape
        images.append({'id': image_id, 'file_name': name, 'height': height, 'width': width})
        objects, segments, ids, semantic = _annotate(sample, image_id, first_id=len(instances) + 1)
        instances += objects
        panoptic.append({'image_id': image_id, 'file_name': name, 'segments_info': segments})
        # A segment id is R + 256 G + 256^2 B in COCO; OpenCV expects the channels as B, G, R.
        colours = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=2).astype(np.uint8)
        for folder, pixels in zip(folders, (sample.image, colours, semantic), strict=True):
            (folder / name).write_bytes(encode_image(pixels, '.png'))
    info = {'description': 'shapes, an embedded data set of drawn objects', 'version': str(FORMAT)}
    things = [{key: c[key] for key in ('supercategory', 'id', 'name')} for c in categories() if c['isthing']]
    for kind, records, listed in (('instances', instances, things), ('panoptic', panoptic, categories())):
        content = {'info': info, 'licenses': [], 'images': images, 'annotations': records, 'categories': listed}
        (annotations / f'{kind}_{split}.json').write_text(json.dumps(content))


def _annotate(sample: Sample, image_id: int, first_id: int) -> tuple[list[dict], list[dict], np.ndarray, np.ndarray]:
    """Return the annotations of one image. The segment of a thing has the id of its instance annotation.

    Returns:
        Instance annotations, panoptic segments, segment ids `(H, W)` int32 and semantic labels `(H, W)` uint8.
    """
    import cv2

    index = sample.instances.astype(np.int32) - 1  # -1 for background
    stuff = sample.stuff.astype(np.int32)
    ids = np.where(index >= 0, first_id + index, FIRST_STUFF_ID + image_id * len(STUFF_CLASSES) + stuff)
    semantic = np.where(index >= 0, sample.labels[index], len(THING_CLASSES) + stuff).astype(np.uint8)
    instances, segments = [], []
    for segment_id in np.unique(ids).tolist():
        mask = (ids == segment_id).astype(np.uint8)
        category = int(semantic[mask > 0][0]) + 1
        box = [int(value) for value in cv2.boundingRect(mask)]  # left, top, width, height
        segment = {'id': segment_id, 'category_id': category, 'iscrowd': 0, 'bbox': box, 'area': int(mask.sum())}
        segments.append(segment)
        if segment_id < FIRST_STUFF_ID:
            instances.append({**segment, 'image_id': image_id, 'segmentation': run_lengths(mask)})
    return instances, segments, ids, semantic


def _is_drawn(root: Path, stamp: dict) -> bool:
    """Return whether `root` is the data set that `stamp` describes; if False, it may be drawn there.

    Raises:
        ValueError: `root` holds other files, which drawing would delete.
    """
    try:
        inode = root.stat().st_ino
        present = {path.relative_to(root).as_posix() for depth in ('*', 'annotations/*') for path in root.glob(depth)}
        text = (root / STAMP).read_bytes() if (root / STAMP).is_file() else b''
        unchanged = root.stat().st_ino == inode
    except FileNotFoundError:
        unchanged = False
    if not unchanged:  # the folder does not exist, or another process has replaced it meanwhile; then check it again
        return root.exists() and _is_drawn(root, stamp)
    if root.is_dir() and not present:
        return False
    expected = {STAMP, 'annotations', *SPLITS}
    for split in SPLITS:
        names = (f'instances_{split}.json', f'panoptic_{split}.json', f'panoptic_{split}', f'semantic_{split}')
        expected |= {f'annotations/{name}' for name in names}
    content = None
    with suppress(ValueError):
        content = json.loads(text)
    if content == stamp and expected <= present:
        return True
    foreign = sorted(present - expected)
    if isinstance(content, dict) and content.get('dataset') == 'shapes' and not foreign:
        return False
    reason = f'holds {", ".join(foreign[:3])}' if foreign else f'has no valid {STAMP}'
    raise ValueError(f'{root} {reason}: it is not changed; name another folder for the data set or move this one away')


def _publish(partial: Path, target: Path, stamp: dict) -> None:
    """Rename `partial` to `target`. An older data set there is replaced, an equal one from another process stays."""
    aside = partial.with_name(partial.name + '-old')
    for attempt in range(5):
        try:
            partial.rename(target)  # fails if the target is a folder that is not empty
            return
        except OSError:
            if attempt == 4:
                raise
        if _is_drawn(target, stamp):
            return
        with suppress(FileNotFoundError):  # another process has just moved it
            target.rename(aside)
            shutil.rmtree(aside)
