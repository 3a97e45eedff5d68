"""Check COCO panoptic annotations and their PNG files."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from repvit_dense.data.checks.coco_boxes import Objects, area_findings, box_findings, objects_of, place_findings
from repvit_dense.data.checks.coco_file import (
    AREA,
    BOX,
    FLAG,
    ID,
    IMAGE,
    Kind,
    check_classes,
    complete_entries,
    duplicate_ids,
    existing_files,
    faults_of,
    image_findings,
    listed_images,
    missing_images,
    similar_names,
    unlisted,
)
from repvit_dense.data.checks.report import Finding, Report, findings_of, sample
from repvit_dense.data.reading import read_coco, read_pixels
from repvit_dense.errors import InputError
from repvit_dense.files import open_regular

VOID, IDS = 0, 256**3  # id of the pixels of no segment; the ids that three bytes hold
WHOLE = Kind('a whole number', lambda value: type(value) is int)  # mmdet takes text for a list of its characters
LIST = Kind('a list', lambda value: isinstance(value, list))
SEGMENT_ID = Kind(f'a whole number from 1 to {IDS - 1:,}', lambda value: type(value) is int and VOID < value < IDS)
ANNOTATION = {'image_id': ID, 'segments_info': LIST}
SEGMENT = {'id': SEGMENT_ID, 'category_id': WHOLE, 'bbox': BOX, 'area': AREA, 'iscrowd': FLAG}
SLOW = 500_000_000  # steps of mmdet, which takes a minute for them
PNG, HEADER = b'\x89PNG\r\n\x1a\n', 26  # signature; bytes up to bit depth and colour type
COLOURS = {0: 'grey, read as R = G = B', 3: 'with a palette, read as its colours', 4: 'grey, read as R = G = B'}


def panoptic(
    file: Path,
    images: Path,
    maps: Path,
    classes: Sequence[str],
    things: int,
    filter_empty: bool = False,
    min_size: int = 0,
    training: bool = False,
) -> Report:
    """Check a COCO panoptic file, its images and its PNG files.

    Args:
        file: the annotation file.
        images: the folder of the images.
        maps: the folder of the PNG files, whose pixels are segment ids R + 256 G + 65536 B.
        classes: class names of the config, things before stuff.
        things: number of thing classes.
        filter_empty: the data set drops images without things.
        min_size: the data set drops images whose shorter side is below this, in pixels.
        training: every class needs segments.

    Raises:
        InputError: the file is not a COCO panoptic file, or its classes differ from `classes`.
    """
    content = read_coco(file)
    categories = content['categories']
    names = [category['name'] for category in categories]
    check_classes(file, names, list(classes))
    check_things(file, categories, list(classes[:things]))
    _, findings = complete_entries('categories', categories, {'id': WHOLE})
    records, incomplete = complete_entries('images', content['images'], IMAGE)
    findings += incomplete
    annotations, incomplete = complete_entries('annotations', content['annotations'], ANNOTATION)
    findings += [*incomplete, *similar_names(names)]
    for name, ids in (
        ('image', [record['id'] for record in records]),
        ('annotated image', [annotation['image_id'] for annotation in annotations]),
        ('category', [category['id'] for category in categories]),
    ):
        findings += duplicate_ids(name, ids)
    findings += missing_images(images, records)
    findings += image_findings(records, min_size)
    findings += unlisted(annotations, 'image', content['images'], 'warning', ', and are left out')
    findings += _segment_findings(annotations, {category['id'] for category in categories})

    segments = objects_of(list(_segments(annotations)), records, 'segment')
    map_findings, checked = _map_findings(maps, records, annotations, segments)
    findings += map_findings
    if len(records) == len(content['images']) and len(annotations) == len(content['annotations']):
        findings += _remaining(records, segments, categories, filter_empty, min_size, training)
    summary = f'{len(records):,} images, {things} things and {len(classes) - things} stuff, {checked}'
    return Report(summary, findings, listed_images(images, records, maps))


def check_things(file: Path, categories: list[dict], things: list[str]) -> None:
    """Refuse thing classes that differ from those of the config, or that do not come first.

    The heads take every label below the number of things for a thing.

    Raises:
        InputError: the message says which things the file has.
    """
    for category in categories:
        if 'isthing' not in category:
            raise InputError(f'{file}: not COCO panoptic annotations, a category lacks isthing')
        if category['isthing'] is None or faults_of(category, {'isthing': FLAG}):
            raise InputError(f'{file}: isthing of the category {category["name"]} is neither 0 nor 1')
    in_file = [category['name'] for category in categories if category['isthing']]
    leading = [category['name'] for category in categories[: len(in_file)]]
    if in_file != leading:
        raise InputError(f'{file}: list the categories with isthing 1 before the others; heads number things first')
    if in_file != things:
        raise InputError(f'{file}: its things are {", ".join(in_file[:10])}; the config has {", ".join(things[:10])}')


def _segments(annotations: list[dict]) -> Iterator[dict]:
    """Yield the complete segments, with the id of their image."""
    for annotation in annotations:
        for segment in annotation['segments_info']:
            if isinstance(segment, dict) and not faults_of(segment, SEGMENT):
                yield {**segment, 'image_id': annotation['image_id']}


def _segment_findings(annotations: list[dict], categories: set) -> list[Finding]:
    faulty, unknown, duplicates = [], [], []
    uses: Counter[str] = Counter()
    for annotation in annotations:
        segments, image = annotation['segments_info'], f'image {annotation["image_id"]}'
        for number, segment in enumerate(segments):
            faults = faults_of(segment, SEGMENT) if isinstance(segment, dict) else ['no JSON object']
            if faults:
                faulty.append(f'{image}, segment number {number}: {"; ".join(faults)}')
            elif segment['category_id'] not in categories:
                unknown.append(f'{image}: {segment["category_id"]}')
        ids = [str(segment.get('id')) for segment in segments if isinstance(segment, dict)]
        if len(set(ids)) != len(ids):
            duplicates.append(image)
        uses.update(ids)
    visits = sum(count * count for count in uses.values())
    slow = [f'{visits:,} steps'] if visits > SLOW else []
    return [
        *findings_of('warning', 'many images have the same segment ids, which makes mmdet read the file slowly', slow),
        *findings_of('error', '{} segments have missing or impossible values', faulty),
        *findings_of('error', '{} segments have a category that the file does not list', unknown),
        *findings_of('error', '{} images have two segments with the same id', duplicates),
    ]


def _map_findings(
    folder: Path, records: list[dict], annotations: list[dict], segments: Objects
) -> tuple[list[Finding], str]:
    """Return the findings about the PNG files, and how many of them were decoded."""
    by_image = {annotation['image_id']: annotation for annotation in annotations}
    names = {record['id']: record['file_name'].replace('.jpg', '.png') for record in records}  # as mmdet does
    without = (r['file_name'] for r in records if not by_image.get(r['id'], {}).get('segments_info'))
    stated = {number: by_image.get(number, {}).get('file_name') for number in names}
    expected = {n: str(stated[n] or f'{os.path.splitext(name)[0]}.png') for n, name in names.items()}  # noqa: PTH122
    files = existing_files(folder, {*names.values(), *expected.values()})
    hint = 'exists, but the loader looks for the name of the image with .jpg replaced by .png'
    missing = (
        f'{name}: {expected[n]} {hint}' if expected[n] in files else name
        for n, name in names.items()
        if name not in files
    )
    other = (
        f'{stated[n]} for {name}'
        for n, name in names.items()
        if stated[n] and name in files and _differ(stated[n], name)
    )
    findings = [
        *findings_of('warning', '{} images have no segments, and all their pixels are ignored', without),
        *findings_of('error', f'{{}} of the {len(names):,} maps are not in {folder}', missing),
        *findings_of('warning', '{} annotations name another map than the one that the loader reads', other),
    ]
    chosen, checked = sample([r for r in records if names[r['id']] in files and r['id'] in by_image], 'maps')
    return findings + _pixel_findings(folder, chosen, names, by_image, segments), checked


def _differ(stated: object, read: str) -> bool:
    """Return whether two names of maps differ, apart from folders."""
    return PurePosixPath(str(stated)).name != PurePosixPath(read).name


def _pixel_findings(
    folder: Path, records: Sequence[dict], names: dict, by_image: dict, segments: Objects
) -> list[Finding]:
    """Find maps whose pixels do not belong to the segments that their annotation lists."""
    unreadable, formats, deep, wrong_size, unseen, unlisted = [], [], [], [], [], []
    areas, corners = np.zeros(len(segments.entries)), np.full((len(segments.entries), 4), np.nan)
    places = {(entry['image_id'], entry['id']): place for place, entry in enumerate(segments.entries)}
    for record in records:
        name = names[record['id']]
        try:
            with open_regular(folder / name) as opened:
                header = opened.read(HEADER)
            pixels = read_pixels(folder / name, 'RGB')
        except InputError as error:
            unreadable.append(str(error))
            continue
        if not header.startswith(PNG):
            formats.append(name)
            continue
        if header[24:25] == b'\x10':
            deep.append(name)
            continue
        ids = pixels.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        if ids.shape != (record['height'], record['width']):
            wrong_size.append(name)
        label = f'{name} ({COLOURS[header[25]]})' if header[25] in COLOURS else name
        drawn = _measure(ids)
        listed = {
            s['id'] for s in by_image[record['id']]['segments_info'] if isinstance(s, dict) and WHOLE.holds(s.get('id'))
        }
        unseen += [f'{label}: {number}' for number in listed if number not in drawn]
        unlisted += [f'{label}: {number}' for number in drawn if number not in listed and number != VOID]
        for number, (area, corner) in drawn.items():
            if (place := places.get((record['id'], number))) is not None:
                areas[place], corners[place] = area, corner
    return [
        *findings_of('error', '{} maps cannot be decoded', unreadable),
        *findings_of('error', '{} maps are no PNG files; other formats may change the ids of the segments', formats),
        *findings_of('error', '{} maps have 16 bits per channel, of which the loader drops eight', deep),
        *findings_of('error', '{} maps do not have the size of their image', wrong_size),
        *findings_of('error', '{} segments have no pixel in their map', unseen),
        *findings_of('error', '{} segments in maps are not listed, and their pixels would be ignored', unlisted),
        *box_findings(segments, corners),
        *place_findings(segments, corners, areas),
        *area_findings(segments, areas),
    ]


def _measure(ids: np.ndarray) -> dict[int, tuple[int, list[int]]]:
    """Return for each id in a map `(H, W)` its area in pixels, and left, top, right, bottom."""
    width = ids.shape[1]
    flat = ids.ravel()
    change = flat[1:] != flat[:-1]
    change[width - 1 :: width] = True  # runs end with the row
    starts = np.concatenate([[0], np.flatnonzero(change) + 1])
    lengths = np.diff(starts, append=flat.size)
    order = np.argsort(flat[starts], kind='stable')
    starts, lengths = starts[order], lengths[order]
    values = flat[starts]
    heads = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    left, top = starts % width, starts // width
    corners = (
        np.minimum.reduceat(left, heads),
        np.minimum.reduceat(top, heads),
        np.maximum.reduceat(left + lengths, heads),
        np.maximum.reduceat(top, heads) + 1,
    )
    areas = np.add.reduceat(lengths, heads)
    return dict(
        zip(values[heads].tolist(), zip(areas.tolist(), np.stack(corners, 1).tolist(), strict=True), strict=True)
    )


def _remaining(
    records: list[dict], segments: Objects, categories: list[dict], filter_empty: bool, min_size: int, training: bool
) -> list[Finding]:
    """Find segments that the loader drops (warnings), and that no image, or no segment of a class, remains."""
    if not records:
        return [Finding('error', 'the file lists no images', [])]
    small = (segments.boxes[:, 2:] < 1).any(1) | (segments.areas <= 0)
    lost = bool(small.all()) and (training or len(small) > 0)
    message = '{} segments are narrower than a pixel or have an area of 0 or less; their pixels are ignored'
    findings = findings_of('error' if lost else 'warning', message, segments.names(small))
    things = {category['id'] for category in categories if category['isthing']}
    is_thing = np.fromiter((entry['category_id'] in things for entry in segments.entries), bool, len(segments.entries))
    kept = np.array([min(record['width'], record['height']) >= min_size for record in records])
    if filter_empty:
        objects = segments.rows[is_thing & ~small & ~segments.crowd]
        kept &= np.bincount(objects, minlength=len(records)) > 0
    if not kept.any():
        findings.append(Finding('error', f'no image with things and sides from {min_size} pixels is left', []))
    if lost:
        findings.append(Finding('error', 'no segment is left to learn from', []))
    elif training:
        usable = ~small & ~(is_thing & segments.crowd) & kept[segments.rows]
        counts = Counter(segments.entries[i]['category_id'] for i in np.flatnonzero(usable).tolist())
        absent = (category['name'] for category in categories if not counts[category['id']])
        findings += findings_of('warning', '{} classes have no segment to learn from', absent)
    return findings
