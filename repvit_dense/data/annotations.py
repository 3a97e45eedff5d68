"""COCO annotations on the way to a `Source`: written from other labels, split into training and validation, checked."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from repvit_dense.data.lookup import in_test_folder
from repvit_dense.data.source import NOUNS, SPLITS, Source, metainfo
from repvit_dense.errors import InputError
from repvit_dense.files import write_text

HELD_OUT = 10  # one image in ten is held out for evaluation if there is no val split
ROBOFLOW = re.compile(r'\.rf\.[0-9a-zA-Z]+(?=\.[a-z]+$)')  # in the names of images made of one image
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

    Without a `val` split, part of the training images is held out (see `choose_held_out`). Only then, or for a split
    that has no file, annotations are written to `store`.

    Args:
        root: folder of the data set.
        store: folder for the annotation files that have to be written.
        contents: split -> content of its annotation file; 'train' must be there, 'val' and 'test' may be. A test split
            that does not suit the others is left out.
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
        folders = {'val': folders['train'], 'test': folders['train'], **folders}
        contents = _make_val(root, contents, folders['train'], notes)
        files = {split: file for split, file in files.items() if split == 'test'}
    _note_shared_names(root, contents, folders, notes)
    test = contents.get('test')
    contents = {split: contents[split] for split in SPLITS}
    classes = _common_classes(contents, {split: files.get(split, store / f'{split}.json') for split in SPLITS})
    if masks:
        _require_masks(root, contents, files)
    if test is not None:
        with optional_test(root, notes):
            _check_test(root, test, classes, masks and 'test' not in files)
            contents['test'] = test
    paths = {split: str(files.get(split) or _write(store / f'{split}.json', contents[split])) for split in contents}
    arguments = {
        split: {'data_root': str(root), 'ann_file': path, 'data_prefix': {'img': folders[split]}}
        for split, path in paths.items()
    }
    if 'test' in paths:
        note_test(root, len(contents['test']['images']), notes)
    return Source(
        *('CocoDataset', classes, len(classes), arguments['train'], arguments['val'], metainfo(classes)),
        ann_files={'instances': paths['val']},
        notes=tuple(notes),
        test=arguments.get('test'),
        test_files={'instances': paths['test']} if 'test' in paths else {},
    )


def _common_classes(contents: dict[str, dict], files: dict[str, Path]) -> tuple[str, ...]:
    classes, others = (class_names(files[split], contents[split]) for split in SPLITS)
    if others != classes:
        raise InputError(
            f'{files["val"]}: has the classes {", ".join(others)}, but {files["train"]} has {", ".join(classes)}; both '
            'must list the same ones in the same order'
        )
    return classes


def _make_val(root: Path, contents: dict[str, dict], folder: str, notes: list[str]) -> dict[str, dict]:
    """Return contents with a part of the training data as 'val', and images in folders of a test split as 'test'."""
    content, tests = _without_test_folders(root, contents['train'])
    parts = dict(zip(SPLITS, hold_out(root, content, folder, notes), strict=True))
    test = contents.get('test', tests)
    return {**parts, 'test': test} if test['images'] else parts


def note_test(root: Path, number: int, notes: list[str]) -> None:
    """Say that there is a test split."""
    notes.append(f'{root}: {number:,} images of a test split are not trained on; `test --split test` scores them')


@contextmanager
def optional_test(root: Path, notes: list[str]) -> Iterator[None]:
    """Go on without the test split if it cannot be read, because a training does not need it; say so."""
    try:
        yield
    except InputError as error:
        notes.append(f'{root}: its test split is left out: {error}')


def _check_test(root: Path, content: dict, classes: tuple[str, ...], masks: bool) -> None:
    names = class_names(root, content)
    if names != classes:
        raise InputError(f'it has the classes {", ".join(names)}, not {", ".join(classes)}')
    if not content['annotations']:
        raise InputError(f'none of its {len(content["images"]):,} images has labels')
    if masks:
        _require_masks(root, {'test': content}, {})


def _note_shared_names(root: Path, contents: dict[str, dict], folders: dict[str, str], notes: list[str]) -> None:
    """Note validation images that are training images, and test images that are either."""
    names = {
        split: {f'{folders[split]}/{image.get("file_name")}' for image in content['images']}
        for split, content in contents.items()
    }
    for first, second in combinations(names, 2):
        if both := len(names[first] & names[second]):
            total = len(names[second])
            notes.append(f'{root}: {both:,} of the {total:,} {NOUNS[second]} images are {NOUNS[first]} images, too')


def _require_masks(root: Path, contents: dict[str, dict], files: dict[str, Path]) -> None:
    """Refuse objects without masks; those of files that are used as they are are checked with the files."""
    objects = next(iter(contents.values()))['annotations']
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


def hold_out(root: Path, content: dict, folder: str = '', notes: list[str] | None = None) -> tuple[dict, dict]:
    """Split COCO content into training and validation data, see `choose_held_out`."""
    images = sorted(content['images'], key=lambda image: _digest(image.get('file_name')))
    names = [image.get('file_name') for image in images]
    chosen = choose_held_out(root, names, [str(Path(root, folder, str(name))) for name in names], notes)
    parts = ([image for index, image in enumerate(images) if (index in chosen) == held] for held in (False, True))
    train, val = (select(content, part) for part in parts)
    return train, val


def choose_held_out(root: Path, names: list, paths: list[str], notes: list[str] | None = None) -> set[int]:
    """Return the indices of the images to hold out for evaluation, because there is no validation split.

    They are a tenth, at least one. A hash of the name selects them, so they are the same in every run, on every
    machine. Images with the same content, and those that Roboflow made of one image, stay together. Frames of one video
    may end up in both splits.

    Args:
        root: for messages.
        names: names of the images.
        paths: the images; those that cannot be read have no copies.
        notes: receives a message.

    Raises:
        InputError: there are fewer than two different images.
    """
    from repvit_dense.data.checks.leakage import copies  # imports numpy

    same = copies(paths)
    groups: dict[object, list[int]] = {}
    for index, path in enumerate(paths):
        original = ROBOFLOW.sub('', path)
        groups.setdefault(same.get(path) or (original if original != path else index), []).append(index)
    number = max(1, len(names) // HELD_OUT)
    if number >= len(names):
        raise InputError(f'{root}: there is no val split, and too few images ({len(names)}) to hold one out')
    if max(map(len, groups.values())) > len(names) - number:
        groups = {index: [index] for index in range(len(names))}  # nearly all of them are copies of one
    digests = list(map(_digest, names))
    chosen: set[int] = set()
    for group in sorted(groups.values(), key=lambda group: min(digests[index] for index in group)):
        if len(chosen) < number and len(chosen) + len(group) < len(names):
            chosen |= {*group}
    text = f'{root}: there is no val split, so {len(chosen):,} images are held out for evaluation'
    together = sum(len(group) for group in groups.values() if len(group) > 1)
    if notes is not None:
        notes.append(f'{text}; {together:,} copies stay with their originals' if together else text)
    return chosen


def _without_test_folders(root: Path, content: dict) -> tuple[dict, dict]:
    """Return the content without the images whose file name has a folder of a test split, and that of those images."""
    start = f'{root.as_posix()}/'
    names = [str(image.get('file_name')).removeprefix(start).replace('\\', '/') for image in content['images']]
    pairs = [(image, in_test_folder(PurePosixPath(name))) for image, name in zip(content['images'], names, strict=True)]
    rest, tests = ([image for image, in_test in pairs if in_test == wanted] for wanted in (False, True))
    return select(content, rest), select(content, tests)


def select(content: dict, images: list[dict]) -> dict:
    """Return content with these images and their annotations only. The ids may be anything that JSON can hold."""
    ids = {_hashable(image.get('id')) for image in images}
    annotations = [entry for entry in content['annotations'] if _hashable(entry.get('image_id')) in ids]
    return {**content, 'images': images, 'annotations': annotations}


def _hashable(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _digest(name: object) -> bytes:
    return hashlib.sha256(str(name).encode('utf-8', 'surrogatepass')).digest()


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
