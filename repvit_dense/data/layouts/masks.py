"""Semantic masks: folders of images and of masks whose pixel values are class numbers.

The folders are `images/{train,val}*` and `annotations/` (or `masks/`, `labels/`) with the same subfolders; or
`train*/images` and `train*/masks`, and the same for `val`. The class names are in `classes.txt`, one per line, or in
`classes.json`, a list or an object that maps values to names. The values begin at 0, or at 1 in the JSON object; then 0
is ignored. 255 is ignored, and so are the values of classes whose name is one of `IGNORED_NAMES`.
"""

import os
import re
from bisect import bisect_left
from collections import Counter
from pathlib import Path
from typing import Any

from repvit_dense.data.lookup import child, split_of
from repvit_dense.data.reading import SUFFIXES, images_in, read_json, read_text
from repvit_dense.data.source import SPLITS, Source, metainfo
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, is_folder, walk, write_text

TASKS: tuple[str, ...] = ('semantic',)
EXPECTED = (
    'images/train and masks/train, or train/images and train/masks, and the same for val (annotations or labels may '
    'replace masks), with the class names in classes.txt, one per line (semantic masks)'
)

CLASS_FILES = ('classes.txt', 'classes.json')
MASK_FOLDERS = ('annotations', 'masks', 'labels')
IGNORED = 255  # label that the losses and the scores leave out
IGNORED_NAMES = ('void', 'ignore', 'ignored', 'unlabeled', 'unlabelled')
MOST = 5  # examples in a message


def recognise(root: Path) -> bool:
    """Return whether the folder has a class list or, for one split, images with masks."""
    return bool(_class_files(root)) or any(_image_and_mask_folders(root, split) for split in SPLITS)


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set; lists of images are written to `store` if there are links to folders."""
    files = _class_files(root)
    if not files:
        raise InputError(
            f'{root}: a folder with semantic masks needs its class names in classes.txt, one per line, in the order of '
            "the masks' values"
        )
    values = _read_values(files[0])
    classes, reduce_zero_label, label_map = _labels(files[0], values)
    notes = _notes(root, files, values)
    splits = []
    for split in SPLITS:
        folders = _image_and_mask_folders(root, split)
        if folders is None:
            raise InputError(
                f'{root}: this config trains semantic labels, and there is no {split} split with masks. Expected: '
                f'{EXPECTED}'
            )
        images, masks = (folder.relative_to(root) for folder in folders)
        stems, suffixes, more = _pairs(*folders)
        notes += more
        if _has_linked_folders(folders[0]):  # mmseg would follow a link to a folder above until its path is too long
            suffixes['ann_file'] = str(_write_list(store / f'{split}.txt', stems))
        splits.append(folder_arguments(root, images, masks, **suffixes, reduce_zero_label=reduce_zero_label))
    train, val = splits
    meta, names = metainfo(classes), tuple(notes)
    return Source('BaseSegDataset', classes, len(classes), train, val, meta, notes=names, label_map=label_map)


def folder_arguments(root: str | Path, images: str | Path, masks: str | Path, **arguments: Any) -> dict:
    """Return the arguments with which mmseg reads a folder of images and one of masks, both relative to `root`."""
    return {'data_root': str(root), 'data_prefix': {'img_path': str(images), 'seg_map_path': str(masks)}, **arguments}


def _class_files(root: Path) -> list[Path]:
    return [file for name in CLASS_FILES if is_file(file := child(root, name))]


def _notes(root: Path, files: list[Path], values: dict[int, str]) -> list[str]:
    """Return messages about values that are ignored, and about files that are not used."""
    notes = [f'{other}: not used, because there is {files[0].name}' for other in files[1:]]
    if min(values) == 1:
        notes.append(f'{files[0]}: the names begin at the value 1, so pixels of value 0 are ignored')
    numbered = [re.match(r'(\d+)(?=[\s:.,=-]+\D)', name) for name in values.values()]
    numbers = [int(match[1]) for match in numbered if match]
    if len(numbers) == len(values) > 1 and sorted(numbers) in (
        list(range(len(values))),
        list(range(1, len(values) + 1)),
    ):
        value, name = next(iter(values.items()))
        notes.append(f'{files[0]}: the numbers in the names are not used as values; the value {value} is {name!r}')
    ignored = [f"{value} ('{name}')" for value, name in values.items() if name.lower() in IGNORED_NAMES]
    if ignored:
        notes.append(f'{files[0]}: pixels of value {", ".join(ignored)} are ignored, because of the name')
    tests = [*_folders_of_split(root, 'test'), *_folders_of_split(child(root, 'images'), 'test')]
    return notes + [f'{folder}: a test split, which is not used' for folder in tests]


def _read_values(file: Path) -> dict[int, str]:
    """Return value in the masks -> class name, in ascending order."""
    if file.suffix.lower() == '.txt':
        pairs: dict[int, object] = dict(enumerate(map(str.strip, re.split('\r\n|[\r\n]', read_text(file).rstrip()))))
        for number, name in pairs.items():
            if len(pairs) > 1 and (not name or str(name).startswith('#')):
                raise InputError(f'{file}: line {number + 1} is {name!r}, but each line must be the name of a class')
    else:
        content = read_json(file)
        pairs = dict(enumerate(content)) if isinstance(content, list) else _numbered(file, content)
    values = {value: str(name).strip() for value, name in sorted(pairs.items()) if type(name) in (str, int)}
    if len(values) < len(pairs) or '' in values.values() or any('\t' in name for name in values.values()) or not values:
        raise InputError(f'{file}: expected class names, which are text without tabs')
    return values


def _numbered(file: Path, content: object) -> dict[int, object]:
    keys = list(content) if isinstance(content, dict) else ['']
    wrong = [key for key in keys if not (key.isascii() and key.isdecimal() and str(int(key[:9])) == key)]
    if wrong or not isinstance(content, dict):
        shown = f', but a key is {wrong[0]!r}' if isinstance(content, dict) else ''
        raise InputError(f'{file}: expected a list of names, or an object such as {{"0": "road"}}{shown}')
    return {int(key): name for key, name in content.items()}


def _labels(file: Path, values: dict[int, str]) -> tuple[tuple[str, ...], bool, tuple[tuple[int, int], ...]]:
    """Return the class names, whether the values begin at 1, and value and label where the order does not give it."""
    ignored = {value for value, name in values.items() if name.lower() in IGNORED_NAMES}
    classes = [name for value, name in values.items() if value not in ignored]
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise InputError(f"{file}: two values have the name '{repeated[0]}'; expected unique class names")
    first, numbers = min(values), [value for value in values if value not in ignored or value < IGNORED]
    if not classes or first > 1 or max(numbers) >= IGNORED or numbers != list(range(first, first + len(numbers))):
        raise InputError(
            f'{file}: expected unique class names for the values 0, 1, 2, ... or 1, 2, 3, ... up to 254 at most, '
            f'without a gap; it has names for {_some(list(map(str, values)))}'
        )
    labels = dict.fromkeys(ignored, IGNORED) | {v: n for n, v in enumerate(v for v in values if v not in ignored)}
    changed = sorted((value, label) for value, label in labels.items() if value != IGNORED and label != value - first)
    return tuple(classes), first == 1, tuple(changed)


def _folders_of_split(folder: Path, split: str) -> list[Path]:
    children = sorted(folder.iterdir()) if is_folder(folder) else []
    return [path for path in children if is_folder(path) and split_of(path.name) == split]


def _image_and_mask_folders(root: Path, split: str) -> tuple[Path, Path] | None:
    def subfolder(folder: Path) -> Path | None:
        folders = _folders_of_split(folder, split)
        if len(folders) > 1:
            raise InputError(f'{folder}: several folders for the {split} split: {_some([f.name for f in folders])}')
        return folders[0] if folders else None

    folder = subfolder(root)
    for kind in MASK_FOLDERS:
        for images, masks in (
            (subfolder(child(root, 'images')), subfolder(child(root, kind))),
            (folder and child(folder, 'images'), folder and child(folder, kind)),
        ):
            if images and masks and is_folder(images) and is_folder(masks):
                return images, masks
    return None


def _has_linked_folders(folder: Path) -> bool:
    return any(os.path.islink(f'{parent}/{name}') for parent, names, _ in os.walk(folder) for name in names)  # noqa: PTH114


def _write_list(file: Path, stems: list[str]) -> Path:
    """Write the names of the images without their suffix, one per line, as mmseg reads them."""
    wrong = [stem for stem in stems if stem != stem.strip() or len(stem.splitlines()) != 1 or not stem.isprintable()]
    if wrong:
        raise InputError(f'{wrong[0]!r}: such a name of an image needs a folder without links to folders')
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, '\n'.join(stems))
    return file


def _pairs(images: Path, masks: Path) -> tuple[list[str], dict[str, str], list[str]]:
    """Return the names of the images without suffix, the suffixes of images and masks, and messages for the user.

    mmseg pairs files by the part before the suffix. The suffix of the masks is the one that most images have a mask
    with, the shortest of several.
    """
    files = [path for path in images_in(images) if not path.name.startswith('.')]  # mmseg leaves hidden files out
    kinds = sorted({path.suffix for path in files})
    if len(kinds) != 1:
        content = ', '.join(kinds) if kinds else 'no images'
        raise InputError(f'{images}: holds {content}; expected images of one type, such as .jpg')
    stems = [path.relative_to(images).as_posix()[: -len(kinds[0])] for path in files]
    names = sorted(path.relative_to(masks).as_posix() for path in walk(masks) if path.suffix.lower() in SUFFIXES)
    endings: Counter[str] = Counter()
    for stem in stems:
        position = bisect_left(names, stem)
        while position < len(names) and names[position].startswith(stem):
            ending = names[position][len(stem) :]
            endings[ending] += '/' not in ending
            position += 1
    if not +endings:
        raise InputError(f'{masks}: no mask for {files[0].name}; its name must begin with {files[0].stem}')
    suffix = min(endings, key=lambda ending: (-endings[ending], len(ending)))
    expected = {f'{stem}{suffix}' for stem in stems}
    missing, unused = sorted(expected - set(names)), sorted(set(names) - expected)
    if missing:
        raise InputError(
            f'{masks}: {len(missing)} of the {len(stems)} images have no mask, whose names would be {_some(missing)}'
        )
    note = f'{masks}: {len(unused)} files are not the mask of an image and are not used: {_some(unused)}'
    return stems, {'img_suffix': kinds[0], 'seg_map_suffix': suffix}, [note] if unused else []


def _some(names: list[str]) -> str:
    """Return the first names, and the number of the others."""
    return ', '.join(names[:MOST]) + (f' and {len(names) - MOST:,} more' if len(names) > MOST else '')
