"""What is wrong with annotations, found in seconds before a training that would fail, or silently go wrong, on it.

An *error* would stop the training or shift its labels. A *warning* is what the loaders of mmdet and mmseg leave out or
cut off without a word. Annotation files are read whole; images are only looked for; masks in PNG files are decoded, all
of them up to `SAMPLE`, beyond that a seeded sample of as many, which the summary of the report then says.
"""

import json
import math
import os
import random
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from repvit_dense.errors import InputError
from repvit_dense.memory import no_collector

SAMPLE = 200  # masks decoded of a large data set
NAMED = 20  # offenders that a message names
IGNORED = 255  # semantic label that no loss looks at
MARGIN = 1  # pixels by which a box may leave its image: annotation tools round outwards
CHUNK = 100_000  # polygons whose areas are computed at once

# What an entry must have, and of which types; ids may be numbers or text.
ID, NUMBER = (int, str), (int, float)
IMAGE_KEYS = {'id': ID, 'file_name': str, 'height': NUMBER, 'width': NUMBER}
ANNOTATION_KEYS = {'id': ID, 'image_id': ID, 'category_id': ID, 'bbox': list, 'area': NUMBER}
SEGMENT_KEYS = {'id': ID, 'category_id': ID, 'bbox': list, 'area': NUMBER}
PANOPTIC_KEYS = {'image_id': ID, 'segments_info': list}


class Finding(NamedTuple):
    """One kind of fault: `level` is 'error' or 'warning', `offenders` name every place where it was seen."""

    level: str
    what: str
    offenders: list[str]

    def __str__(self) -> str:
        named = ', '.join(map(str, self.offenders[:NAMED]))
        rest = len(self.offenders) - NAMED
        return f'{self.what} ({named}{f" and {rest:,} more" if rest > 0 else ""})' if named else self.what


class Report(NamedTuple):
    """What was looked at, in words, and what was found."""

    summary: str
    findings: list[Finding]


def enforce(where: str | Path, report: Report) -> None:
    """Stop at errors; print the warnings otherwise.

    Raises:
        InputError: says all that is wrong, and of each fault the first twenty places and how many more there are.
    """
    errors = [str(finding) for finding in report.findings if finding.level == 'error']
    if errors:
        raise InputError(f'{where}: {"; ".join(errors)}')
    for finding in report.findings:
        warn(f'{where}: {finding}')


def warn(text: str) -> None:
    """Say something that does not stop anything, once per machine: in the first process of a job."""
    if os.environ.get('LOCAL_RANK', '0') == '0':
        print(f'warning: {text}', file=sys.stderr)


# --- COCO instances ---


def instances(
    file: Path, images: Path, classes: Sequence[str], masks: bool = False, filter_empty: bool = False, min_size: int = 0
) -> Report:
    """Check a COCO annotation file and that its images are there.

    Args:
        file: the annotation file.
        images: the folder that its file names are relative to.
        classes: names that the config trains, in its order.
        masks: whether masks are read too; polygons and RLE are not looked at otherwise.
        filter_empty: whether the data set leaves out images without objects.
        min_size: shorter side in pixels below which the data set leaves out an image.

    Raises:
        InputError: not a COCO file, or its classes are not `classes`: nothing else can be said then.
    """
    content = read_coco(file)
    check_classes(file, [category['name'] for category in content['categories']], list(classes))
    records, findings = _whole('images', content['images'], IMAGE_KEYS)
    annotations, found = _whole('annotations', content['annotations'], ANNOTATION_KEYS)
    findings += found
    for name, entries in (('image', records), ('annotation', annotations), ('category', content['categories'])):
        findings += _duplicates(name, [entry['id'] for entry in entries])
    findings += _images(images, records, min_size)
    findings += _references(annotations, content)
    boxes = _boxes(annotations)
    rows = _rows(records, annotations)
    findings += _box_findings(annotations, boxes, records, rows)
    if masks:
        findings += _mask_findings(annotations, records, rows)
    findings += _empty(records, annotations, rows, boxes, filter_empty)
    summary = f'{len(records):,} images, {len(annotations):,} objects, {len(classes)} classes'
    return Report(summary, findings)


def read_coco(file: Path) -> dict:
    """The content of an annotation file; its lists are there, what is in them is not looked at.

    Raises:
        InputError: not there, not JSON, or not COCO annotations.
    """
    text = read_text(file)
    try:
        with no_collector():  # JSON has no cycles, and reads twice as fast
            content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{file}: not JSON ({error}); COCO annotations are expected') from error
    wanted = ('images', 'annotations', 'categories')
    lacking = [key for key in wanted if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if lacking:
        raise InputError(f'{file}: not COCO annotations, it lacks a list of {", ".join(lacking)}')
    for key in wanted:
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise InputError(f'{file}: not COCO annotations, an entry of {key} is no object with named values')
    if any(_lacking(category, {'id': ID, 'name': str}) for category in content['categories']):
        raise InputError(f'{file}: not COCO annotations, a category lacks id or name')
    return content


def read_text(file: Path) -> str:
    """The content of a text file.

    Raises:
        InputError: not there, or not UTF-8.
    """
    try:
        return Path(file).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{file}: cannot be read as text ({error})') from error


def check_classes(file: Path, in_file: list[str], in_config: list[str]) -> None:
    """Names must match, and in order: mmdet numbers classes as the file lists them.

    Raises:
        InputError: labels would shift, or a class would have no name.
    """
    twice = [name for name, count in Counter(in_file).items() if count > 1]
    if twice:
        raise InputError(f'{file}: two categories are called {twice[0]}; labels would shift. Rename or merge them')
    missing = [name for name in in_config if name not in in_file]
    if missing:
        raise InputError(
            f'{file} has no class {", ".join(missing[:5])}{", ..." if len(missing) > 5 else ""}; it has '
            f'{", ".join(in_file[:10])}{", ..." if len(in_file) > 10 else ""}. Name the classes of your data in '
            "the config, for train, val and test: dataset=dict(metainfo=dict(classes=('...', ...)))"
        )
    shared = [name for name in in_file if name in in_config]
    if shared != in_config:
        first = next(i for i, (a, b) in enumerate(zip(shared, in_config, strict=True)) if a != b)
        raise InputError(
            f"{file} and the config order the classes differently (number {first}: '{shared[first]}' in the file, "
            f"'{in_config[first]}' in the config), so labels would shift. Use the order of the file."
        )


def _finding(level: str, what: str, offenders: Iterable) -> list[Finding]:
    """No finding where there is no offender; `{}` in `what` becomes their number."""
    offenders = [str(offender) for offender in offenders]
    return [Finding(level, what.format(f'{len(offenders):,}'), offenders)] if offenders else []


def _lacking(entry: dict, wanted: dict) -> list[str]:
    return [key for key, kinds in wanted.items() if not isinstance(entry.get(key), kinds)]


def _whole(name: str, entries: list[dict], wanted: dict) -> tuple[list[dict], list[Finding]]:
    """The entries that have what they must, and what is to say of the others."""
    incomplete = {number: keys for number, entry in enumerate(entries) if (keys := _lacking(entry, wanted))}
    offenders = (f'number {number} lacks {", ".join(keys)}' for number, keys in incomplete.items())
    findings = _finding('error', f'{{}} of the {len(entries):,} {name} are incomplete', offenders)
    return [entry for number, entry in enumerate(entries) if number not in incomplete], findings


def _duplicates(name: str, ids: list) -> list[Finding]:
    if len(set(ids)) == len(ids):
        return []
    return _finding('error', f'{{}} {name} ids are used more than once', (i for i, n in Counter(ids).items() if n > 1))


def _present(folder: Path, names: Iterable[str]) -> set[str]:
    """The files of these names below `folder`; one walk through it is quicker than a question per file."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}
    return found | {name for name in names if name not in found and (folder / name).is_file()}


def _images(folder: Path, records: list[dict], min_size: int) -> list[Finding]:
    names = [record['file_name'] for record in records]
    present = _present(folder, names)
    what = f'{{}} of the {len(names):,} images that it lists are not in {folder}; is the download complete?'
    findings = _finding('error', what, (name for name in names if name not in present))
    small = (r['file_name'] for r in records if min(r['height'], r['width']) < min_size)
    what = f'{{}} images have a side under {min_size} pixels and are left out (filter_cfg.min_size)'
    return findings + _finding('warning', what, small)


def _references(annotations: list[dict], content: dict) -> list[Finding]:
    categories = {category['id'] for category in content['categories']}
    unknown = (f'annotation {a["id"]}: {a["category_id"]}' for a in annotations if a['category_id'] not in categories)
    findings = _finding('error', '{} annotations are of a category that the file does not list', unknown)
    images = {record['id'] for record in content['images'] if isinstance(record.get('id'), ID)}
    orphans = (f'annotation {a["id"]}: {a["image_id"]}' for a in annotations if a['image_id'] not in images)
    return findings + _finding('warning', '{} annotations are of an image that the file does not list', orphans)


def _boxes(annotations: list[dict]) -> np.ndarray:
    """`(N, 4)` float64, x y width height in pixels; a row of NaN for what is not four numbers."""
    listed = [annotation['bbox'] for annotation in annotations]
    try:
        boxes = np.array(listed, np.float64)
        if boxes.shape == (len(listed), 4):
            return boxes
    except (TypeError, ValueError):
        pass
    boxes = np.full((len(listed), 4), np.nan)
    for row, box in zip(boxes, listed, strict=True):
        if isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box):
            row[:] = box
    return boxes


def _rows(records: list[dict], annotations: list[dict]) -> np.ndarray:
    """`(N,)` index of each annotation's image, -1 where there is none."""
    index = {record['id']: row for row, record in enumerate(records)}
    return np.fromiter((index.get(a['image_id'], -1) for a in annotations), np.int64, len(annotations))


def _sizes(records: list[dict]) -> np.ndarray:
    """`(N + 1, 2)` width and height of the images; the last row serves annotations without image."""
    return np.array([[record['width'], record['height']] for record in records] + [[np.inf, np.inf]], np.float64)


def _box_findings(annotations: list[dict], boxes: np.ndarray, records: list[dict], rows: np.ndarray) -> list[Finding]:
    def named(faulty):
        return (f'annotation {annotations[i]["id"]}' for i in np.flatnonzero(faulty))

    left_top, extent = boxes[:, :2], boxes[:, 2:]
    numbers = np.isfinite(boxes).all(1)
    outside = ((left_top < -MARGIN) | (left_top + extent > _sizes(records)[rows] + MARGIN)).any(1) & numbers
    small = (extent < 1).any(1) & numbers
    return [
        *_finding('error', '{} boxes are not four finite numbers x, y, width, height', named(~numbers)),
        *_finding('warning', '{} boxes reach outside their image', named(outside)),
        *_finding('warning', '{} boxes are narrower than a pixel and are left out', named(small)),
    ]


def _empty(records: list, annotations: list, rows: np.ndarray, boxes: np.ndarray, filtered: bool) -> list[Finding]:
    """Images with nothing to learn from: no object, or only crowds and objects that the loader drops."""
    crowd = np.fromiter((bool(a.get('iscrowd') or a.get('ignore')) for a in annotations), bool, len(annotations))
    good = ~crowd & (boxes[:, 2:] >= 1).all(1) & (rows >= 0)
    counts = np.bincount(rows[good], minlength=len(records))
    bare = np.flatnonzero(counts == 0)
    what = f'{{}} of the {len(records):,} images have no object, or only crowds'
    level = 'error' if filtered and len(bare) == len(records) else 'warning'
    if len(records) == 0:
        return [Finding('error', 'the file lists no images', [])]
    return _finding(level, what, (records[i]['file_name'] for i in bare))


def _mask_findings(annotations: list[dict], records: list[dict], rows: np.ndarray) -> list[Finding]:
    """What cannot be decoded is an error; what the loader ignores, with its object, is a warning."""
    lacking, unreadable, short, sizes, polygons, owners = [], [], [], [], [], []
    for number, (annotation, row) in enumerate(zip(annotations, rows.tolist(), strict=True)):
        mask = annotation.get('segmentation')
        if not mask:
            lacking.append(number)
        elif isinstance(mask, dict):
            if row >= 0 and not _fits(mask, records[row]):
                sizes.append(number)
        elif isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask):
            for polygon in mask:
                if len(polygon) < 6 or len(polygon) % 2:
                    short.append(number)
                elif not _is_finite(polygon):
                    unreadable.append(number)
                else:
                    polygons.append(polygon)
                    owners.append(number)
        else:
            unreadable.append(number)
    flat = [owners[i] for i in np.flatnonzero(_areas(polygons) == 0)]

    def named(numbers):
        return (f'annotation {annotations[number]["id"]}' for number in dict.fromkeys(numbers))

    return [
        *_finding(
            'error', '{} objects have no mask, which this config trains; take a detection config', named(lacking)
        ),
        *_finding('error', '{} objects have a mask that is not made of finite numbers', named(unreadable)),
        *_finding('error', '{} masks (RLE) do not have the size of their image', named(sizes)),
        *_finding('warning', '{} objects have a polygon of under 3 points or an odd count', named(short)),
        *_finding('warning', '{} objects have a polygon without area', named(flat)),
    ]


def _fits(rle: dict, record: dict) -> bool:
    """Whether a run-length encoded mask covers its image; the runs of a compressed one are not looked at."""
    size, counts = [record['height'], record['width']], rle.get('counts')
    if rle.get('size') != size or not isinstance(counts, list | str):
        return False
    return isinstance(counts, str) or (_is_finite(counts) and sum(counts) == size[0] * size[1])


def _is_finite(numbers: list) -> bool:
    try:
        return math.isfinite(sum(numbers))  # NaN and infinity survive a sum, and a sum is quick
    except (TypeError, OverflowError):
        return False


def _areas(polygons: list[list[float]]) -> np.ndarray:
    """`(N,)` area in square pixels of polygons of at least three points, by the shoelace formula."""
    parts = [np.zeros(0)]
    for start in range(0, len(polygons), CHUNK):
        chunk = polygons[start : start + CHUNK]
        lengths = np.fromiter(map(len, chunk), np.int64, len(chunk)) // 2
        points = np.fromiter(chain.from_iterable(chunk), np.float64, 2 * lengths.sum()).reshape(-1, 2)
        first = np.cumsum(lengths) - lengths
        following = np.arange(1, len(points) + 1)
        following[first + lengths - 1] = first  # a polygon is closed
        points -= np.repeat(points[first], lengths, axis=0)  # small numbers: a flat polygon comes out as 0
        cross = points[:, 0] * points[following, 1] - points[:, 1] * points[following, 0]
        parts.append(np.abs(np.add.reduceat(cross, first)) / 2)
    return np.concatenate(parts)


# --- COCO panoptic ---


def panoptic(file: Path, images: Path, maps: Path, classes: Sequence[str], things: int) -> Report:
    """Check a COCO panoptic file, its images and its PNG files.

    Args:
        file: the annotation file.
        images: the folder of the images.
        maps: the folder of the PNG files, whose pixels are segment ids R + 256 G + 65536 B.
        classes: names that the config trains, things before stuff.
        things: how many of them are things.

    Raises:
        InputError: not a COCO panoptic file, or its classes are not `classes`.
    """
    content = read_coco(file)
    categories = content['categories']
    check_classes(file, [category['name'] for category in categories], list(classes))
    check_things(file, categories, list(classes[:things]))
    records, findings = _whole('images', content['images'], IMAGE_KEYS)
    annotations, found = _whole('annotations', content['annotations'], PANOPTIC_KEYS)
    findings += found
    for name, ids in (
        ('image', [record['id'] for record in records]),
        ('annotated image', [annotation['image_id'] for annotation in annotations]),
        ('category', [category['id'] for category in categories]),
    ):
        findings += _duplicates(name, ids)
    findings += _images(images, records, 0)
    findings += _segment_findings(annotations, {category['id'] for category in categories})
    found, looked_at = _map_findings(maps, records, {a['image_id']: a['segments_info'] for a in annotations})
    summary = f'{len(records):,} images, {things} things and {len(classes) - things} stuff, {looked_at}'
    return Report(summary, findings + found)


def check_things(file: Path, categories: list[dict], things: list[str]) -> None:
    """Things must be the same in file and config, and come first: heads take a label under their number for a thing.

    Raises:
        InputError: they are not.
    """
    if not all('isthing' in category for category in categories):
        raise InputError(f'{file}: not COCO panoptic annotations, a category lacks isthing')
    in_file = [category['name'] for category in categories if category['isthing']]
    leading = [category['name'] for category in categories[: len(in_file)]]
    if in_file != leading:
        raise InputError(f'{file}: list the categories with isthing 1 before the others; heads number things first')
    if in_file != things:
        raise InputError(f'{file}: its things are {", ".join(in_file[:10])}; the config has {", ".join(things[:10])}')


def _segment_findings(annotations: list[dict], categories: set) -> list[Finding]:
    incomplete, unknown, twice = [], [], []
    for annotation in annotations:
        segments, image = annotation['segments_info'], annotation['image_id']
        whole = [s for s in segments if isinstance(s, dict) and not _lacking(s, SEGMENT_KEYS)]
        if len(whole) != len(segments):
            incomplete.append(f'image {image}')
        unknown += [f'image {image}: {s["category_id"]}' for s in whole if s['category_id'] not in categories]
        if len({segment['id'] for segment in whole}) != len(whole):
            twice.append(f'image {image}')
    return [
        *_finding('error', f'segments of {{}} images lack one of {", ".join(sorted(SEGMENT_KEYS))}', incomplete),
        *_finding('error', '{} segments are of a category that the file does not list', unknown),
        *_finding('error', '{} images have two segments of one id', twice),
    ]


def _map_findings(folder: Path, records: list[dict], segments: dict) -> tuple[list[Finding], str]:
    names = {record['id']: record['file_name'].replace('.jpg', '.png') for record in records}  # as mmdet does
    bare = (record['file_name'] for record in records if record['id'] not in segments)
    findings = _finding('warning', '{} images have no annotation', bare)
    present = _present(folder, names.values())
    missing = (name for name in names.values() if name not in present)
    findings += _finding('error', f'{{}} of the {len(names):,} maps are not in {folder}', missing)
    sizes, unseen = [], []
    chosen, looked_at = _sample([r for r in records if names[r['id']] in present and r['id'] in segments], 'maps')
    for record in chosen:
        name = names[record['id']]
        colours = _read(folder / name, 'RGB').astype(np.int64)
        if colours.shape[:2] != (record['height'], record['width']):
            sizes.append(name)
        ids = set(np.unique(colours @ np.array([1, 256, 65536])).tolist())
        listed = [s['id'] for s in segments[record['id']] if isinstance(s, dict) and isinstance(s.get('id'), ID)]
        unseen += [f'{name}: {number}' for number in listed if number not in ids]
    findings += _finding('error', '{} maps do not have the size of their image', sizes)
    findings += _finding('error', '{} segments have no pixel in their map', unseen)
    return findings, looked_at


# --- semantic masks ---


def semantic(pairs: Sequence[tuple[Path, Path]], num_classes: int, reduce_zero_label: bool = False) -> Report:
    """Check images and masks whose pixels are class numbers.

    Args:
        pairs: image and mask of each sample.
        num_classes: how many classes the config trains.
        reduce_zero_label: whether 0 is ignored and 1 the first class, as in ADE20K.
    """
    findings = [] if pairs else [Finding('error', 'there are no images', [])]
    for place, what in ((0, 'images'), (1, 'masks')):
        missing = (pair[place] for pair in pairs if not Path(pair[place]).is_file())
        findings += _finding('error', f'{{}} of the {len(pairs):,} {what} are not there', missing)
    coloured, sizes, beyond = [], [], []
    last = num_classes if reduce_zero_label else num_classes - 1
    chosen, looked_at = _sample([pair for pair in pairs if all(Path(path).is_file() for path in pair)], 'masks')
    for image, mask in chosen:
        labels = _read(mask)
        if labels.ndim != 2:
            coloured.append(mask)
            continue
        if labels.shape != _size(image):
            sizes.append(f'{mask}: {labels.shape[1]}x{labels.shape[0]}')
        values = np.unique(labels)
        values = values[(values > last) & (values != IGNORED)]
        if len(values):
            beyond.append(f'{mask}: {", ".join(map(str, values[:3].tolist()))}')
    findings += _finding('error', '{} masks have colours, where class numbers are expected', coloured)
    findings += _finding('error', '{} masks do not have the size of their image', sizes)
    findings += _finding('error', f'{{}} masks have values over {last}, the last of {num_classes} classes', beyond)
    return Report(f'{len(pairs):,} images, {num_classes} classes, {looked_at}', findings)


def _sample(entries: Collection, name: str) -> tuple[Sequence, str]:
    """At most `SAMPLE` of these, the same ones every time, and how many that is in words."""
    if len(entries) <= SAMPLE:
        return list(entries), f'all {len(entries):,} {name} looked at'
    return random.Random(0).sample(list(entries), SAMPLE), f'{SAMPLE} of {len(entries):,} {name} looked at'


def _read(path: Path, mode: str | None = None) -> np.ndarray:
    """Pixels `(H, W)` or `(H, W, C)`; of an image with a palette the indices."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: of a broken PNG
        raise InputError(f'{path}: cannot be read as an image ({error})') from error


def _size(path: Path) -> tuple[int, int]:
    return image_size(path)[::-1]


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels as the image loaders see them, from the header and its EXIF orientation.

    Raises:
        InputError: not an image.
    """
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as image:
            sideways = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return image.size[::-1] if sideways else image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f'{path}: cannot be read as an image ({error})') from error
