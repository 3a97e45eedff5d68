"""COCO annotations on the way to a `Source`: written from other labels, split into training and validation, checked."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from repvit_dense.data.lookup import in_test_folder
from repvit_dense.data.source import SPLITS, Source, metainfo
from repvit_dense.errors import InputError
from repvit_dense.files import write_text

HELD_OUT = 10  # one image in ten is held out for evaluation if there is no val split
NAMED = 10  # faults that a message names


class Picture(NamedTuple):
    """An image with its objects, read from labels in another format than COCO's.

    Attributes:
        path: the image.
        size: its width and height in pixels.
        objects: `category_id`, `bbox` (x, y, width, height), `area`, `iscrowd` and, if there is a mask, `segmentation`.
    """

    path: Path
    size: tuple[int, int]
    objects: list[dict]


def build_source(
    root: Path,
    store: Path,
    contents: dict[str, dict],
    files: dict[str, Path],
    folders: dict[str, str],
    masks: bool,
    notes: Iterable[str] = (),
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
        notes: messages for the user.

    Raises:
        InputError: there are no categories, the splits have different ones, no masks although they are needed, or too
            few images to hold some out.
    """
    notes = list(notes)
    if 'val' not in contents:
        content, left_out = _without_test_folders(root, contents['train'])
        if left_out:
            notes.append(f'{root}: {left_out} images in folders of a test split are not used')
        train, val = hold_out(root, content)
        contents, files, folders = {'train': train, 'val': val}, {}, dict.fromkeys(SPLITS, folders['train'])
        notes.append(f'{root}: there is no val split, so {len(val["images"])} images are held out for evaluation')
    train_file, val_file = (files.get(split, store / f'{split}.json') for split in SPLITS)
    classes = class_names(train_file, contents['train'])
    if class_names(val_file, contents['val']) != classes:
        raise InputError(
            f'{val_file}: has the classes {", ".join(class_names(val_file, contents["val"]))}, but {train_file} has '
            f'{", ".join(classes)}; both must list the same ones in the same order'
        )
    if masks:
        _require_masks(root, contents, files)
    files = {split: files.get(split) or _write(store / f'{split}.json', contents[split]) for split in SPLITS}
    train, val = (
        {'data_root': str(root), 'ann_file': str(files[split]), 'data_prefix': {'img': folders[split]}}
        for split in SPLITS
    )
    evaluation = {'instances': str(files['val'])}
    return Source('CocoDataset', classes, len(classes), train, val, metainfo(classes), evaluation, notes=tuple(notes))


def _require_masks(root: Path, contents: dict[str, dict], files: dict[str, Path]) -> None:
    """Refuse objects without masks; those of files that are used as they are are checked with the files."""
    objects = contents['train']['annotations']
    if objects and not any(entry.get('segmentation') for entry in objects):
        raise InputError(f'{root}: its objects have boxes but no masks, so it suits detection configs, not this one')
    for split, content in contents.items():
        names = {_hashable(image.get('id')): image.get('file_name') for image in content['images']}
        objects = content['annotations'] if split not in files else []
        owners = [names.get(_hashable(e.get('image_id'))) for e in objects if not e.get('segmentation')]
        if owners:
            shown = ', '.join(map(str, dict.fromkeys(owners[:NAMED])))
            raise InputError(
                f'{root}: {len(owners):,} of the {len(objects):,} objects of {split} have boxes but no masks, which '
                f'this config trains; use a detection config, or label them with polygons (images {shown})'
            )


def hold_out(root: Path, content: dict) -> tuple[dict, dict]:
    """Split COCO content into training and validation data.

    A tenth of the images, at least one, is held out. A hash of the file name selects them, so they are the same in
    every run, on every machine. Frames of one video may end up in both splits.

    Raises:
        InputError: there are fewer than two images.
    """
    images = sorted(content['images'], key=lambda image: hashlib.sha256(_bytes(image.get('file_name'))).digest())
    number = max(1, len(images) // HELD_OUT)
    if number >= len(images):
        raise InputError(f'{root}: there is no val split, and too few images ({len(images)}) to hold one out')
    return _select(content, images[number:]), _select(content, images[:number])


def _without_test_folders(root: Path, content: dict) -> tuple[dict, int]:
    """Return the content without the images whose file name has a folder of a test split, and their number."""
    start = f'{root.as_posix()}/'
    names = [str(image.get('file_name')).removeprefix(start).replace('\\', '/') for image in content['images']]
    pairs = zip(content['images'], names, strict=True)
    images = [image for image, name in pairs if not in_test_folder(PurePosixPath(name))]
    return _select(content, images), len(content['images']) - len(images)


def _select(content: dict, images: list[dict]) -> dict:
    """Return content with these images and their annotations only. The ids may be anything that JSON can hold."""
    ids = {_hashable(image.get('id')) for image in images}
    annotations = [entry for entry in content['annotations'] if _hashable(entry.get('image_id')) in ids]
    return {**content, 'images': images, 'annotations': annotations}


def _hashable(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _bytes(name: object) -> bytes:
    return str(name).encode('utf-8', 'surrogatepass')


def class_names(file: Path, content: dict) -> tuple[str, ...]:
    """Return the category names of an annotation file, in the order of the file.

    Raises:
        InputError: the file has no categories.
    """
    classes = tuple(category['name'] for category in content['categories'])
    if not classes:
        raise InputError(f'{file}: lists no categories, so there is nothing to train')
    return classes


def to_coco(root: Path, pictures: Iterable[Picture], names: list[str]) -> dict:
    """Return COCO content; category ids are indices into `names`.

    Args:
        root: folder that file names become relative to; an image outside it keeps its absolute path.
        pictures: the images with their objects.
        names: class names in label order.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for path, (width, height), objects in pictures:
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.absolute().as_posix()
        images.append({'id': len(images) + 1, 'file_name': name, 'height': height, 'width': width})
        for entry in objects:
            annotations.append({**entry, 'id': len(annotations) + 1, 'image_id': len(images)})
    categories = [{'id': number, 'name': name} for number, name in enumerate(names)]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def describe(counts: Counter, texts: dict[str, str]) -> list[str]:
    """Return the texts whose count is not 0, with the number in place of `{}`, and those that all label files share."""
    shared = {
        'turned': '{} images are turned or mirrored by their EXIF orientation, labels are for the image as it is shown',
        'unlabelled': '{} images without a label file count as images without objects',
    }
    return [text.format(f'{counts[key]:,}') for key, text in {**texts, **shared}.items() if counts[key]]


def refuse_faults(faults: list[str]) -> None:
    """Raise InputError if there are faults; the message names the first ones and the number of the others."""
    if faults:
        rest = f'; and {len(faults) - NAMED:,} more faults' if len(faults) > NAMED else ''
        raise InputError('; '.join(faults[:NAMED]) + rest)


def _write(file: Path, content: dict) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content))  # atomic: several processes of a job may write it at once
    return file
