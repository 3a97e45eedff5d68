"""Semantic masks: folders of images and of masks whose pixel values are class numbers.

The folders are `images/{train,val}*` and `annotations/` (or `masks/`, `labels/`) with the same subfolders; or
`train*/images` and `train*/masks`, and the same for `val`. The class names are in `classes.txt`, one per line, or in
`classes.json`, a list or an object that maps values to names. 255 is ignored. If the values in the JSON object begin at
1, then 0 is ignored too.
"""

import json
from pathlib import Path
from typing import Any

from repvit_dense.data.annotations import split_of
from repvit_dense.data.reading import images_in, read_text
from repvit_dense.data.source import SPLITS, Source, metainfo
from repvit_dense.errors import InputError

TASKS: tuple[str, ...] = ('semantic',)
EXPECTED = (
    'images/train and masks/train, or train/images and train/masks, and the same for val (annotations or labels may '
    'replace masks), with the class names in classes.txt, one per line (semantic masks)'
)

CLASS_FILES = ('classes.txt', 'classes.json')
MASK_FOLDERS = ('annotations', 'masks', 'labels')


def recognise(root: Path) -> bool:
    """Return whether the folder has a class list or, for one split, images with masks."""
    return _class_file(root) is not None or any(_image_and_mask_folders(root, split) for split in SPLITS)


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set; nothing is written to `store`."""
    classes, reduce_zero_label = _read_classes(root)
    splits = []
    for split in SPLITS:
        folders = _image_and_mask_folders(root, split)
        if folders is None:
            raise InputError(
                f'{root}: this config trains semantic labels, and there is no {split} split with masks. Expected: '
                f'{EXPECTED}'
            )
        images, masks = (folder.relative_to(root) for folder in folders)
        arguments = folder_arguments(root, images, masks, **_suffixes(*folders), reduce_zero_label=reduce_zero_label)
        splits.append(arguments)
    train, val = splits
    return Source('BaseSegDataset', classes, len(classes), train, val, metainfo=metainfo(classes))


def folder_arguments(root: str | Path, images: str | Path, masks: str | Path, **arguments: Any) -> dict:
    """Return the arguments with which mmseg reads a folder of images and one of masks, both relative to `root`."""
    return {'data_root': str(root), 'data_prefix': {'img_path': str(images), 'seg_map_path': str(masks)}, **arguments}


def _class_file(root: Path) -> Path | None:
    return next((root / name for name in CLASS_FILES if (root / name).is_file()), None)


def _read_classes(root: Path) -> tuple[tuple[str, ...], bool]:
    """Return the class names, and whether the value 0 is ignored and the classes begin at 1."""
    file = _class_file(root)
    if file is None:
        raise InputError(
            f'{root}: a folder with semantic masks needs its class names in classes.txt, one per line, in the order of '
            "the masks' values"
        )
    text = read_text(file)
    if file.suffix == '.txt':
        names = [line.strip() for line in text.splitlines() if line.strip()]
        values = list(range(len(names)))
    else:
        values, names = _parse_json(file, text)
    from_one = list(range(1, len(names) + 1))
    if not names or len(set(names)) != len(names) or values not in (list(range(len(names))), from_one):
        raise InputError(f'{file}: expected unique class names for the values 0, 1, 2, ... or 1, 2, 3, ...')
    return tuple(names), values == from_one


def _parse_json(file: Path, text: str) -> tuple[list[int], list[str]]:
    try:
        content = json.loads(text)
        pairs = enumerate(content) if isinstance(content, list) else sorted((int(v), n) for v, n in content.items())
        values, names = zip(*pairs, strict=True)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f'{file}: expected a list of names, or an object such as {{"0": "road"}}') from error
    return list(values), [str(name) for name in names]


def _image_and_mask_folders(root: Path, split: str) -> tuple[Path, Path] | None:
    def subfolder(folder: Path) -> Path | None:
        children = sorted(folder.iterdir()) if folder.is_dir() else []
        return next((path for path in children if path.is_dir() and split_of(path.name) == split), None)

    folder = subfolder(root)
    for kind in MASK_FOLDERS:
        for images, masks in (
            (subfolder(root / 'images'), subfolder(root / kind)),
            (folder and folder / 'images', folder and folder / kind),
        ):
            if images and masks and images.is_dir() and masks.is_dir():
                return images, masks
    return None


def _suffixes(images: Path, masks: Path) -> dict[str, str]:
    """Return the suffixes of image and mask names; mmseg pairs files by the part before them."""
    files = images_in(images)
    suffixes = sorted({path.suffix for path in files})
    if len(suffixes) != 1:
        content = ', '.join(suffixes) if suffixes else 'no images'
        raise InputError(f'{images}: holds {content}; expected images of one type, such as .jpg')
    first = files[0].relative_to(images)
    candidates = sorted((masks / first.parent).glob(f'{first.stem}*'), key=lambda path: len(path.name))
    if not candidates:
        raise InputError(f'{masks}: no mask for {files[0].name}; its name must begin with {first.stem}')
    return {'img_suffix': suffixes[0], 'seg_map_suffix': candidates[0].name[len(first.stem) :]}
