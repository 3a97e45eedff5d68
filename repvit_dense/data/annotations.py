"""COCO annotations on the way to a `Source`: written from other labels, split into training and validation, checked."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.data.reading import image_size, run_lengths
from repvit_dense.data.source import SPLITS, Source, metainfo
from repvit_dense.errors import InputError
from repvit_dense.files import write_text

if TYPE_CHECKING:
    from supervision import Detections

HELD_OUT = 10  # one image in ten is held out for evaluation if there is no val split
NEEDS_PACKAGE = 'reading this layout needs one more package: pip install repvit_dense[convert]'


def build_source(
    root: Path, store: Path, contents: dict[str, dict], files: dict[str, Path], folders: dict[str, str], masks: bool
) -> Source:
    """Return the `Source` of a data set with COCO annotations of objects.

    Without a `val` split, part of the training images is held out (see `hold_out`). Only then, or for a split that
    has no file, annotations are written to `store`.

    Args:
        root: folder of the data set.
        store: folder for the annotation files that have to be written.
        contents: split -> content of its annotation file; 'train' must be there, 'val' may be.
        files: split -> annotation file that holds exactly this content.
        folders: split -> folder relative to `root` that the file names of its images are relative to.
        masks: refuse objects that have boxes only.

    Raises:
        InputError: there are no categories, no masks although they are needed, or too few images to hold some out.
    """
    notes = []
    if 'val' not in contents:
        train, val = hold_out(root, contents['train'])
        contents, files, folders = {'train': train, 'val': val}, {}, dict.fromkeys(SPLITS, folders['train'])
        notes.append(f'{root}: there is no val split, so {len(val["images"])} images are held out for evaluation')
    files = {split: files.get(split) or _write(store / f'{split}.json', contents[split]) for split in SPLITS}
    classes = class_names(files['train'], contents['train'])
    objects = contents['train']['annotations']
    if masks and objects and not any(annotation.get('segmentation') for annotation in objects):
        raise InputError(f'{root}: its objects have boxes but no masks, so it suits detection configs, not this one')
    train, val = (
        {'data_root': str(root), 'ann_file': str(files[split]), 'data_prefix': {'img': folders[split]}}
        for split in SPLITS
    )
    evaluation = {'instances': str(files['val'])}
    return Source('CocoDataset', classes, len(classes), train, val, metainfo(classes), evaluation, notes=tuple(notes))


def hold_out(root: Path, content: dict) -> tuple[dict, dict]:
    """Split COCO content into training and validation data.

    A tenth of the images, at least one, is held out. A hash of the file name selects them, so they are the same in
    every run, on every machine. Frames of one video may end up in both splits.

    Raises:
        InputError: there are fewer than two images.
    """
    images = sorted(content['images'], key=lambda image: hashlib.sha256(str(image.get('file_name')).encode()).digest())
    number = max(1, len(images) // HELD_OUT)
    if number >= len(images):
        raise InputError(f'{root}: there is no val split, and too few images ({len(images)}) to hold one out')
    parts = []
    for part in (images[number:], images[:number]):
        ids = {image.get('id') for image in part}
        annotations = [annotation for annotation in content['annotations'] if annotation.get('image_id') in ids]
        parts.append({**content, 'images': part, 'annotations': annotations})
    return parts[0], parts[1]


def split_of(name: str) -> str | None:
    """Return the split that a file or folder name stands for: 'train' for `instances_train2017`, 'val' for `valid`."""
    for word in re.split('[^a-z]+', name.lower()):
        for split in SPLITS:
            if word.startswith(split):
                return split
    return None


def class_names(file: Path, content: dict) -> tuple[str, ...]:
    """Return the category names of an annotation file, in the order of the file.

    Raises:
        InputError: the file has no categories.
    """
    classes = tuple(category['name'] for category in content['categories'])
    if not classes:
        raise InputError(f'{file}: lists no categories, so there is nothing to train')
    return classes


def image_folder(root: Path, file: Path, content: dict, folder: Path | None = None) -> str:
    """Return the folder, relative to `root`, that the file names of an annotation file are relative to.

    It is the first candidate that holds one of the first fifty images: `folder` if the layout names one, else the
    folders named after the split, `images/`, `root` and the folder of the file; then every other folder in `root`.

    Raises:
        InputError: no candidate holds any of these images.
    """
    split = split_of(file.stem)
    children = [path for base in (root, root / 'images') if base.is_dir() for path in sorted(base.iterdir())]
    of_split = [path for path in children if split and split_of(path.name) == split]
    names = [str(image.get('file_name', '')) for image in content['images'][:50]]
    candidates = [folder] if folder else [*of_split, root / 'images', root, file.parent]
    candidates += [path for path in sorted(root.iterdir()) if path.is_dir()]
    for candidate in candidates:
        if any(name and (candidate / name).is_file() for name in names):
            return candidate.relative_to(root).as_posix()
    raise InputError(
        f'{file}: its images ({", ".join(map(str, names[:3]))}, ...) are in none of '
        f'{", ".join(str(path) for path in dict.fromkeys(candidates))}'
    )


def to_coco(root: Path, samples: Iterable[tuple[Path, 'Detections | None', list[bool]]], names: list[str]) -> dict:
    """Return COCO content for labels read by `supervision`; category ids are indices into `names`.

    A mask that was a polygon has been rasterised, so it agrees with the polygon to within a pixel.

    Args:
        root: folder that file names become relative to; an image outside it keeps its absolute path.
        samples: image, its objects or None, and for each object whether it is a crowd (empty: none is).
        names: class names in label order.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for path, detections, crowds in samples:
        width, height = image_size(path)
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.absolute().as_posix()
        images.append({'id': len(images) + 1, 'file_name': name, 'height': height, 'width': width})
        for number, entry in enumerate(_objects(detections)):
            entry |= {'id': len(annotations) + 1, 'image_id': len(images)}
            entry['iscrowd'] = int(bool(crowds) and crowds[number])
            annotations.append(entry)
    categories = [{'id': number, 'name': name} for number, name in enumerate(names)]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def _objects(detections: 'Detections | None') -> Iterator[dict]:
    if detections is None or detections.class_id is None:
        return
    for number, (box, label) in enumerate(zip(detections.xyxy.tolist(), detections.class_id.tolist(), strict=True)):
        left, top, right, bottom = box
        bbox = [left, top, right - left, bottom - top]
        entry = {'category_id': label, 'bbox': [round(value, 3) for value in bbox], 'area': bbox[2] * bbox[3]}
        if detections.mask is not None:
            mask = detections.mask[number]
            entry |= {'segmentation': run_lengths(mask), 'area': int(mask.sum())}
        yield entry


def _write(file: Path, content: dict) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content))  # atomic: several processes of a job may write it at once
    return file
