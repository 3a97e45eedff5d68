"""Semantic masks: images, and masks with the same names in another folder, whose pixel values are class numbers.

The folders are `images/{train,val}*` and `annotations/` (or `masks/`, `labels/`, ...) with the same subfolders; or
`train*/images` and `train*/masks`; or `train` and `trainannot`, `train_images` and `train_masks`; or `images` and
`masks` without splits. The classes are those of `class_lists`. 255 is ignored, and so are the values of classes whose
name is one of `IGNORED_NAMES`.
"""

import os
import re
from bisect import bisect_left
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from repvit_dense.data.annotations import choose_held_out, note_test, optional_test
from repvit_dense.data.class_lists import VALUE_FILE, class_files, convert_colours, read_classes
from repvit_dense.data.image_lists import find_lists, images_of_lists, some
from repvit_dense.data.lookup import child, in_test_folder, split_of
from repvit_dense.data.pairing import Names
from repvit_dense.data.reading import SUFFIXES, images_in, is_image_name
from repvit_dense.data.source import SPLITS, Source, metainfo
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, is_folder, walk, write_text

TASKS: tuple[str, ...] = ('semantic',)
EXPECTED = (
    'images/train and masks/train, or train/images and train/masks, or train and trainannot, and the same for val, or '
    'images and masks (annotations or labels may replace masks), with the class names in classes.txt, one per line '
    '(semantic masks)'
)

MASK_FOLDERS = ('annotations', 'masks', 'labels')  # if images have masks in several folders, the first one is read
MASK_WORD = re.compile('annot|mask|label|ground.?truth|segment|semantic|(^|[-_ ])gt(fine)?($|[-_ ])', re.IGNORECASE)
OTHER_MASKS = re.compile('instance|object|panoptic', re.IGNORECASE)
IMAGE_WORD = re.compile('ima?ge?s?|photo|picture|leftimg|rgb|input', re.IGNORECASE)
LIST_FOLDERS = ('Segmentation', '.', 'Main')  # of ImageSets


class Pair(NamedTuple):
    """A folder of images and one of masks, and the names of the images without suffix, which may be a part of them."""

    images: Path
    masks: Path
    stems: list[str]
    suffixes: dict[str, str]
    listed: bool


def recognise(root: Path) -> bool:
    """Return whether the folder has a class list or images with masks, at least for one split."""
    return bool(class_files(root)) or any(_image_and_mask_folders(root, split) for split in (*SPLITS, ''))


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set; lists of images and converted masks are written to `store`."""
    notes: list[str] = []
    pairs = _find_pairs(root, notes)
    masks = {
        split: [p.masks / f'{stem}{p.suffixes["seg_map_suffix"]}' for stem in p.stems] for split, p in pairs.items()
    }
    files = class_files(root) or list(filter(is_file, [child(pairs['train'].images, VALUE_FILE)]))
    stems = [stem for split in SPLITS for stem in pairs[split].stems]
    classes = read_classes(root, files, [mask for split in SPLITS for mask in masks[split]], stems)
    notes = classes.notes + notes
    splits = {}
    for split, pair in pairs.items():
        images, folder = (path.relative_to(root) for path in pair[:2])
        suffixes = dict(pair.suffixes)
        with optional_test(root, notes) if split == 'test' else nullcontext():
            if classes.colours and _has_colours(masks[split][0]):
                folder, suffixes['seg_map_suffix'] = store / 'masks' / split, '.png'
                convert_colours(masks[split], [folder / f'{stem}.png' for stem in pair.stems], classes.colours)
                text = f'colours are replaced by class numbers, in masks that are written to {folder}'
                notes.append(f'{pair.masks}: {text}')
            if pair.listed or _has_linked_folders(pair.images):  # mmseg would follow a link to a folder above forever
                suffixes['ann_file'] = str(_write_list(store / f'{split}.txt', pair.stems))
            splits[split] = folder_arguments(root, images, folder, **suffixes, reduce_zero_label=classes.from_one)
            if split == 'test':
                note_test(root, len(pair.stems), notes)
    return Source(
        *('BaseSegDataset', classes.names, len(classes.names), splits['train'], splits['val']),
        metainfo=metainfo(classes.names),
        notes=tuple(notes),
        label_map=classes.label_map,
        test=splits.get('test'),
    )


def folder_arguments(root: str | Path, images: str | Path, masks: str | Path, **arguments: Any) -> dict:
    """Return the arguments with which mmseg reads a folder of images and one of masks, both relative to `root`."""
    return {'data_root': str(root), 'data_prefix': {'img_path': str(images), 'seg_map_path': str(masks)}, **arguments}


def _find_pairs(root: Path, notes: list[str]) -> dict[str, Pair]:
    """Return split -> its images and masks.

    Without folders of a training split, lists of images tell the splits. Without a validation split, training images
    are held out.
    """
    folders = {split: _image_and_mask_folders(root, split) for split in SPLITS}
    whole = _image_and_mask_folders(root, '') if not any(folders.values()) else None
    train = whole or folders['train']
    if train is None or (folders['val'] is None and _folders_of(root, 'val')):
        missing = f'no {"train" if train is None else "val"} split with masks'
        raise InputError(f'{root}: this config trains semantic labels, and there is {missing}. Expected: {EXPECTED}')
    tests = _find_test(root, notes)
    if folders['val'] is not None:
        return {split: _pair(*pair, notes) for split, pair in folders.items() if pair} | tests
    lists = find_lists(root, notes, LIST_FOLDERS) if whole else {}
    if lists:
        images = [path for path in images_in(train[0]) if not path.name.startswith('.')]
        listed = images_of_lists(lists, Names(root, images), root, notes)
        pairs = {}
        for split, files in listed.items():
            with optional_test(root, notes) if split == 'test' else nullcontext():
                pairs[split] = _pair(*train, notes, files)
    else:
        pairs = {'train': _pair(*train, notes)}
    if 'val' not in pairs:
        pair = pairs['train']
        paths = [f'{train[0]}/{stem}{pair.suffixes["img_suffix"]}' for stem in pair.stems]
        chosen = choose_held_out(root, pair.stems, paths, notes)
        for split in SPLITS:
            stems = [stem for index, stem in enumerate(pair.stems) if (index in chosen) == (split == 'val')]
            pairs[split] = pair._replace(stems=stems, listed=True)
    return tests | pairs


def _find_test(root: Path, notes: list[str]) -> dict[str, Pair]:
    """Return 'test' -> its images and masks, if it is in folders of its own."""
    with optional_test(root, notes):
        pair = _image_and_mask_folders(root, 'test')
        if pair:
            return {'test': _pair(*pair, notes)}
        for folder in _folders_of(root, 'test'):
            if not any(map(MASK_WORD.search, folder.relative_to(root).parts)):
                notes.append(f'{folder}: a test split without masks, which is not used')
    return {}


def _subfolders(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir()) if is_folder(folder) else []
    return [path for path in paths if is_folder(path) and not path.name.startswith('.')]


def _folders_of(root: Path, split: str) -> list[Path]:
    """Return folders of a split, in `root` and in the folders of images and masks."""
    parents = [root, *(path for path in _subfolders(root) if _kind(path.name) and not split_of(path.name))]
    return [path for parent in parents for path in _subfolders(parent) if split_of(path.name) == split]


def _kind(name: str) -> str:
    """Return 'masks' or 'images' if the name of a folder says that it holds them, else nothing."""
    if OTHER_MASKS.search(name):
        return ''
    return 'masks' if MASK_WORD.search(name) else 'images' if IMAGE_WORD.search(name) else ''


def _image_and_mask_folders(root: Path, split: str) -> tuple[Path, Path] | None:
    """Return the folder of the images of a split, and that of their masks; '' stands for folders of no split."""
    candidates: dict[str, list[Path]] = {'images': [], 'masks': []}
    for folder in _subfolders(root):
        own, children = split_of(folder.name) or '', _subfolders(folder)
        if OTHER_MASKS.search(folder.name):
            continue
        if own and own == split:
            inner = [path for path in children if _kind(path.name)]
            for path in inner:
                candidates[_kind(path.name)].append(path)
            if not inner:
                candidates[_kind(folder.name) or 'images'].append(folder)
        elif not own and (kind := _kind(folder.name)):
            parts = [path for path in children if split_of(path.name) and not OTHER_MASKS.search(path.name)]
            candidates[kind] += (
                [path for path in parts if split_of(path.name) == split] if parts else [folder][bool(split) :]
            )
    images, masks = (_first(candidates[kind], kind, split) for kind in ('images', 'masks'))
    if images and not masks and any(re.search('[-_](mask|label)s?[.]png$', path.name) for path in walk(images)):
        masks = images
    return (images, masks) if images and masks else None


def _first(folders: list[Path], kind: str, split: str) -> Path | None:
    """Return the folder that is read, of those that have pictures."""
    folders = [folder for folder in folders if any(map(is_image_name, walk(folder)))]

    def rank(folder: Path) -> int:
        names = [folder.name.lower(), folder.parent.name.lower()]
        known = MASK_FOLDERS if kind == 'masks' else ('images',)
        return min((known.index(name) for name in names if name in known), default=len(known))

    first = sorted(folders, key=rank)
    same = [folder for folder in first if folder.parent == first[0].parent and rank(folder) == rank(first[0])]
    if len(same) > 1:
        name = f'the {split} split' if split else kind
        raise InputError(f'{same[0].parent}: several folders for {name}: {some([path.name for path in same])}')
    return first[0] if first else None


def _has_colours(mask: Path) -> bool:
    """Return whether a mask has colours, as pixels or as a palette."""
    from PIL import Image

    try:
        with Image.open(mask) as image:
            return image.mode not in ('1', 'L', 'I', 'I;16', 'F')
    except Exception:  # the checks say why it cannot be read
        return False


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


def _pair(images: Path, masks: Path, notes: list[str], files: list[Path] | None = None) -> Pair:
    """Return images with their masks.

    mmseg pairs files by the part before the suffix. The suffix of the masks is the one that most images have a mask
    with, the shortest of several.
    """
    listed = files is not None or images == masks
    if files is None:
        every = [path for path in images_in(images) if not path.name.startswith('.')]  # mmseg leaves those out
        files = [path for path in every if not in_test_folder(path.relative_to(images))]
        if len(files) < len(every):
            listed = True
            notes.append(f'{images}: {len(every) - len(files)} images in folders of a test split are not used')
    if images == masks:
        files = [path for path in files if not re.search('[-_](mask|label)s?$', path.stem)]
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
            f'{masks}: {len(missing)} of the {len(stems)} images have no mask, whose names would be {some(missing)}'
        )
    if unused and not listed:
        notes.append(f'{masks}: {len(unused)} files are not the mask of an image and are not used: {some(unused)}')
    return Pair(images, masks, stems, {'img_suffix': kinds[0], 'seg_map_suffix': suffix}, listed)
