"""Check COCO panoptic annotations and their PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from repvit_dense.data.checks.coco_file import (
    IMAGE_KEYS,
    NUMBER,
    check_classes,
    complete_entries,
    duplicate_ids,
    existing_files,
    missing_images,
)
from repvit_dense.data.checks.report import Finding, Report, findings_of, sample
from repvit_dense.data.reading import ID, missing_keys, read_coco, read_pixels
from repvit_dense.errors import InputError

ANNOTATION_KEYS = {'image_id': ID, 'segments_info': list}
SEGMENT_KEYS: dict[str, type | tuple[type, ...]] = {'id': ID, 'category_id': ID, 'bbox': list, 'area': NUMBER}


def panoptic(file: Path, images: Path, maps: Path, classes: Sequence[str], things: int) -> Report:
    """Check a COCO panoptic file, its images and its PNG files.

    Args:
        file: the annotation file.
        images: the folder of the images.
        maps: the folder of the PNG files, whose pixels are segment ids R + 256 G + 65536 B.
        classes: class names of the config, things before stuff.
        things: number of thing classes.

    Raises:
        InputError: the file is not a COCO panoptic file, or its classes differ from `classes`.
    """
    content = read_coco(file)
    categories = content['categories']
    check_classes(file, [category['name'] for category in categories], list(classes))
    check_things(file, categories, list(classes[:things]))
    records, findings = complete_entries('images', content['images'], IMAGE_KEYS)
    annotations, incomplete = complete_entries('annotations', content['annotations'], ANNOTATION_KEYS)
    findings += incomplete
    for name, ids in (
        ('image', [record['id'] for record in records]),
        ('annotated image', [annotation['image_id'] for annotation in annotations]),
        ('category', [category['id'] for category in categories]),
    ):
        findings += duplicate_ids(name, ids)
    findings += missing_images(images, records)
    findings += _segment_findings(annotations, {category['id'] for category in categories})
    segments = {annotation['image_id']: annotation['segments_info'] for annotation in annotations}
    map_findings, checked = _map_findings(maps, records, segments)
    summary = f'{len(records):,} images, {things} things and {len(classes) - things} stuff, {checked}'
    return Report(summary, findings + map_findings)


def check_things(file: Path, categories: list[dict], things: list[str]) -> None:
    """Refuse thing classes that differ from those of the config, or that do not come first.

    The heads take every label below the number of things for a thing.

    Raises:
        InputError: the message says which things the file has.
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
    incomplete, unknown, duplicates = [], [], []
    for annotation in annotations:
        segments, image = annotation['segments_info'], annotation['image_id']
        complete = [s for s in segments if isinstance(s, dict) and not missing_keys(s, SEGMENT_KEYS)]
        if len(complete) != len(segments):
            incomplete.append(f'image {image}')
        unknown += [f'image {image}: {s["category_id"]}' for s in complete if s['category_id'] not in categories]
        if len({segment['id'] for segment in complete}) != len(complete):
            duplicates.append(f'image {image}')
    return [
        *findings_of('error', f'segments of {{}} images lack one of {", ".join(sorted(SEGMENT_KEYS))}', incomplete),
        *findings_of('error', '{} segments have a category that the file does not list', unknown),
        *findings_of('error', '{} images have two segments with the same id', duplicates),
    ]


def _map_findings(folder: Path, records: list[dict], segments: dict) -> tuple[list[Finding], str]:
    """Return the findings about the PNG files, and how many of them were decoded."""
    names = {record['id']: record['file_name'].replace('.jpg', '.png') for record in records}  # as mmdet does
    without = (record['file_name'] for record in records if record['id'] not in segments)
    findings = findings_of('warning', '{} images have no annotation', without)
    files = existing_files(folder, names.values())
    missing = (name for name in names.values() if name not in files)
    findings += findings_of('error', f'{{}} of the {len(names):,} maps are not in {folder}', missing)
    wrong_size, unseen = [], []
    chosen, checked = sample([r for r in records if names[r['id']] in files and r['id'] in segments], 'maps')
    for record in chosen:
        name = names[record['id']]
        colours = read_pixels(folder / name, 'RGB').astype(np.int64)
        if colours.shape[:2] != (record['height'], record['width']):
            wrong_size.append(name)
        ids = set(np.unique(colours @ np.array([1, 256, 65536])).tolist())
        listed = [s['id'] for s in segments[record['id']] if isinstance(s, dict) and isinstance(s.get('id'), ID)]
        unseen += [f'{name}: {number}' for number in listed if number not in ids]
    findings += findings_of('error', '{} maps do not have the size of their image', wrong_size)
    findings += findings_of('error', '{} segments have no pixel in their map', unseen)
    return findings, checked
