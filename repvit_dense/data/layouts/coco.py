"""COCO: annotation files with boxes or masks of objects.

The files are `annotations/*.json` with `train`, `val` and `test` in their names; or one JSON file in each of the image
folders `train*/`, `val*/` and `test*/`, as Roboflow exports it; or a single JSON file beside its images.
"""

import re
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

from repvit_dense.data.annotations import build_source, optional_test, select
from repvit_dense.data.geometry import polygon_area
from repvit_dense.data.label_formats import format_of, read_head
from repvit_dense.data.layouts.label_files import describe_formats
from repvit_dense.data.lookup import child, image_folder, shortened, split_in_folders, split_of
from repvit_dense.data.reading import COCO_LISTS, IDS, check_coco, read_json
from repvit_dense.data.source import SPLITS, Source
from repvit_dense.errors import InputError
from repvit_dense.files import is_folder

TASKS: tuple[str, ...] = ('detection', 'instance')
EXPECTED = 'annotations/*train*.json and annotations/*val*.json, or a single JSON file beside its images (COCO)'

NAMES = re.compile('(^|[^a-z])(train|val|instances|annotations|coco)', re.IGNORECASE)
LISTS = re.compile('"(images|annotations|categories)"\\s*:')
COMPRESSED = re.compile('([P-o]*[0-O])+')  # the run lengths of a compressed RLE mask
EXACT = 2**53  # larger numbers with a fraction may have lost digits
OTHER_LABELS = (
    'captions',
    'image_info',
    'notes',
    'panoptic',
    'person_keypoints',
    'stuff',
)  # annotation files without instances


def recognise(root: Path) -> bool:
    """Return whether the folder has a JSON file that is called like COCO annotations or begins like them."""
    folders = [path for path in sorted(root.iterdir()) if is_folder(path) and split_of(path.name)]
    folders += [child(folder, 'annotations') for folder in folders]
    files = [*_files_beside_images(root), *(file for folder in folders for file in _json_files(folder))]
    return any(NAMES.search(file.name) or LISTS.search(read_head(file)) for file in files)


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set; annotations are written to `store` only if they are changed or images are held out."""
    files = _files_in_image_folders(root)
    folders = {s: f.parent.parent if f.parent.name.lower() == 'annotations' else f.parent for s, f in files.items()}
    notes: list[str] = []
    if not files:
        files = _choose(root, _files_beside_images(root), notes)
    contents: dict[str, dict] = {}
    prefixes: dict[str, str] = {}
    changed: dict[str, list[str]] = {}
    for split, file in files.items():
        with optional_test(root, notes) if split == 'test' else nullcontext():
            content, prefixes[split], changed[split] = _read_file(root, file, folders.get(split))
            contents[split] = content
    files = {split: files[split] for split in contents}
    placeholder = _drop_placeholder(contents)
    if placeholder:
        notes.append(f"{root}: the category '{placeholder}', Roboflow's placeholder without objects, is left out")
    notes += [f'{files[split]}: {change}' for split in files for change in changed[split]]
    if 'val' not in contents and (parts := _by_folders(root, contents['train'], prefixes['train'], notes)):
        contents, prefixes = {**contents, **parts}, {**prefixes, **dict.fromkeys(parts, prefixes['train'])}
        files = {split: file for split, file in files.items() if split not in parts}
    unchanged = {split: file for split, file in files.items() if not placeholder and not changed[split]}
    if others := describe_formats(root):
        notes.append(f'{root}: also has labels of {others}, which are not used')
    if len(unchanged) < len(files):
        notes.append(f'{root}: the changed annotations are written to {store}')
    return build_source(root, store, contents, unchanged, prefixes, task == 'instance', notes)


def _read_file(root: Path, file: Path, folder: Path | None) -> tuple[dict, str, list[str]]:
    """Return the content of an annotation file, the folder of its images, and descriptions of the changes to it."""
    content = read_json(file)
    changes = _without_fractions(content)
    check_coco(file, content)
    changes += _complete(content)
    prefix, number = image_folder(root, file, content, folder)
    if number is not None:
        changes.append(_rename(file, content, number))
    return content, prefix, changes


def _by_folders(root: Path, content: dict, folder: str, notes: list[str]) -> dict[str, dict] | None:
    """Return split -> its content if the images are in folders of a training and a validation split, else None."""
    groups: dict[str | None, list[dict]] = {}
    for image in content['images']:
        path = PurePosixPath(folder, str(image.get('file_name')).replace('\\', '/'))
        groups.setdefault(split_in_folders(path), []).append(image)
    if not groups.keys() >= {*SPLITS}:
        return None
    unused = groups.pop(None, [])
    used = [f'{len(groups[split]):,} images of {split}' for split in (*SPLITS, 'test') if split in groups]
    rest = f'; {len(unused):,} others are not used' if unused else ''
    notes.append(f'{root}: the folders of the images tell the splits, {", ".join(used)}{rest}')
    return {split: select(content, groups[split]) for split in groups if split}


def _json_files(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir()) if is_folder(folder) else []
    files = [f for f in files if f.suffix.lower() == '.json' and not f.name.startswith(('.', *OTHER_LABELS))]
    return [file for file in files if format_of(file) is None]


def _files_in_image_folders(root: Path) -> dict[str, Path]:
    """Return split -> the only JSON file in its image folder; empty if the training images have none."""
    files: dict[str, list[Path]] = {}
    for folder in sorted(path for path in root.iterdir() if is_folder(path)):
        split, jsons = split_of(folder.name), _json_files(folder) or _json_files(child(folder, 'annotations'))
        if split and jsons:
            files.setdefault(split, []).extend(jsons)
    if len(files.get('train', ())) != 1:
        return {}
    return {split: _choose_one(root, split, paths) for split, paths in files.items()}


def _files_beside_images(root: Path) -> list[Path]:
    return _json_files(child(root, 'annotations')) or _json_files(root)


def _choose(root: Path, files: list[Path], notes: list[str]) -> dict[str, Path]:
    """Return split -> annotation file; a single file is that of 'train'."""
    by_split = {split: [file for file in files if split_of(file.stem) == split] for split in (*SPLITS, 'test', None)}
    if len(files) == 1 and not by_split['test']:
        if by_split['val']:
            notes.append(f'{files[0]}: the only annotation file, so it is used for training too')
        return {'train': files[0]}
    splits = SPLITS[:1] if by_split['train'] and not by_split['val'] and not by_split[None] else SPLITS
    chosen = {split: _choose_one(root, split, by_split[split]) for split in splits}
    with optional_test(root, notes):
        if by_split['test']:
            chosen['test'] = _choose_one(root, 'test', by_split['test'])
    return chosen


def _choose_one(root: Path, split: str, files: list[Path]) -> Path:
    preferred = [file for file in files if file.name.startswith('instances')]
    files = preferred if len(preferred) == 1 else files
    if len(files) == 1:
        return files[0]
    if files:
        names = ', '.join(file.name for file in files)
        raise InputError(f'{root}: several files for the {split} split: {names}. Leave one annotation file per split')
    raise InputError(f'{root}: no annotations of a {split} split. Expected: {EXPECTED}')


def _drop_placeholder(contents: dict[str, dict]) -> str | None:
    """Remove the category that Roboflow puts first; return its name if there is one.

    It has the supercategory 'none', its name is the supercategory of all other categories, and no object to learn
    belongs to it. Keeping it would shift every label by one.
    """
    first, *others = contents['train']['categories'] or [{}]
    used = [e.get('category_id') for split in contents if split != 'test' for e in contents[split]['annotations']]
    if first.get('supercategory') != 'none' or not others or first['id'] in used:
        return None
    if any(category.get('supercategory') != first['name'] for category in others):
        return None
    for content in contents.values():
        content['categories'] = [
            category
            for category in content['categories']
            if (category['name'], category.get('supercategory')) != (first['name'], 'none')
        ]
    return first['name']


def _rename(file: Path, content: dict, number: int) -> str:
    """Replace backslashes in file names, and leave out leading folders; return a description of the change."""
    old = [image.get('file_name') for image in content['images']]
    new = [shortened(name, number) if isinstance(name, str) else name for name in old]
    if len({str(name) for name in new}) < len({str(name) for name in old}):
        raise InputError(
            f'{file}: its images are only found without the first {number} folders of their names, but then several '
            'have the same name'
        )
    for image, name in zip(content['images'], new, strict=True):
        image['file_name'] = name
    return f'its images are found as {new[0]} for {old[0]}, and so on'


def _without_fractions(content: Any) -> list[str]:
    """Write ids and sizes such as 640.0 as whole numbers, in content that may be anything; describe the changes."""
    count = 0
    for list_name in COCO_LISTS if isinstance(content, dict) else ():
        entries = content.get(list_name)
        for entry in entries if isinstance(entries, list) else ():
            for key in (*IDS, 'width', 'height') if isinstance(entry, dict) else ():
                value = entry.get(key)
                if type(value) is float and value.is_integer() and abs(value) < EXACT:
                    entry[key] = int(value)
                    count += 1
    return [f'{count:,} ids and sizes such as 1.0 are taken as whole numbers such as 1'] if count else []


def _complete(content: dict) -> list[str]:
    """Add `iscrowd` and `area` where they are missing, which mmdet or pycocotools require; describe the changes.

    A missing `iscrowd` is 0, a missing `area` that of the mask, else of the box.
    """
    crowds = areas = 0
    for entry in content['annotations']:
        if entry.get('iscrowd') is None:
            entry['iscrowd'] = 0
            crowds += 1
        if entry.get('area') is None and (area := _area(entry)) is not None:
            entry['area'] = area
            areas += 1
    changes = ((crowds, "no 'iscrowd', which is taken as 0"), (areas, "no 'area', which is computed"))
    return [f'{count:,} annotations have {text}' for count, text in changes if count]


def _area(entry: dict) -> float | None:
    """Return the area of an object in square pixels; None if neither its mask nor its box are numbers."""
    for key, measure in (('segmentation', _mask_area), ('bbox', lambda box: box[2] * box[3])):
        try:
            if entry.get(key):
                return float(measure(entry[key]))
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
            continue  # the checks say what is wrong with it
    return None


def _mask_area(mask: Any) -> float:
    """Return the area of a mask as polygons, run lengths or compressed run lengths."""
    if isinstance(mask, list):
        return sum(polygon_area(polygon) for polygon in mask)
    if isinstance(mask['counts'], list):
        return sum(mask['counts'][1::2])
    from pycocotools import mask as codec

    if not COMPRESSED.fullmatch(mask['counts']):  # pycocotools reads on behind the end of an incomplete text
        raise ValueError('incomplete run lengths')
    return codec.area({'size': mask['size'], 'counts': mask['counts'].encode()})
