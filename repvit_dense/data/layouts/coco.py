"""COCO: annotation files with boxes or masks of objects.

The files are `annotations/*.json` with `train` and `val` in their names; or one JSON file in each of the image folders
`train*/` and `val*/`, as Roboflow exports it; or a single JSON file beside its images.
"""

from pathlib import Path

from repvit_dense.data.annotations import build_source, image_folder, split_of
from repvit_dense.data.reading import read_coco
from repvit_dense.data.source import SPLITS, Source
from repvit_dense.errors import InputError

TASKS: tuple[str, ...] = ('detection', 'instance')
EXPECTED = 'annotations/*train*.json and annotations/*val*.json, or a single JSON file beside its images (COCO)'

OTHER_LABELS = ('captions', 'image_info', 'panoptic', 'person_keypoints', 'stuff')  # annotation files without instances


def recognise(root: Path) -> bool:
    """Return whether the folder has a JSON file that may hold COCO annotations."""
    return bool(_files_in_image_folders(root) or _files_beside_images(root))


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set; annotations are written to `store` only if a category is dropped or images are held out."""
    files = _files_in_image_folders(root)
    folders = {split: file.parent for split, file in files.items()}
    files = files or _choose(root, _files_beside_images(root))
    contents = {split: read_coco(file) for split, file in files.items()}
    prefixes = {split: image_folder(root, files[split], contents[split], folders.get(split)) for split in files}
    if _drop_placeholder(contents):
        files = {}
    return build_source(root, store, contents, files, prefixes, masks=task == 'instance')


def _files_in_image_folders(root: Path) -> dict[str, Path]:
    """Return split -> the only JSON file in its image folder; empty if the training images have none."""
    files: dict[str, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        jsons = sorted(folder.glob('*.json'))
        split = split_of(folder.name)
        if split and len(jsons) == 1:
            files.setdefault(split, jsons[0])
    return files if 'train' in files else {}


def _files_beside_images(root: Path) -> list[Path]:
    files = [file for file in sorted(root.glob('annotations/*.json')) if not file.name.startswith(OTHER_LABELS)]
    return files or sorted(root.glob('*.json'))


def _choose(root: Path, files: list[Path]) -> dict[str, Path]:
    """Return split -> annotation file; a single file is that of 'train'."""
    if len(files) == 1:
        return {'train': files[0]}
    return {split: _choose_one(root, split, [f for f in files if split_of(f.stem) == split]) for split in SPLITS}


def _choose_one(root: Path, split: str, files: list[Path]) -> Path:
    preferred = [file for file in files if file.name.startswith('instances')]
    files = preferred if len(preferred) == 1 else files
    if len(files) == 1:
        return files[0]
    if files:
        names = ', '.join(file.name for file in files)
        raise InputError(f'{root}: several files for the {split} split: {names}. Leave one annotation file per split')
    raise InputError(f'{root}: no annotations of a {split} split. Expected: {EXPECTED}')


def _drop_placeholder(contents: dict[str, dict]) -> bool:
    """Remove the category without objects that Roboflow puts first (supercategory 'none'); return whether it existed.

    Keeping it would shift every label by one.
    """
    used = {a.get('category_id') for content in contents.values() for a in content['annotations']}
    dropped = False
    for content in contents.values():
        categories = [c for c in content['categories'] if c.get('supercategory') != 'none' or c['id'] in used]
        if categories and len(categories) < len(content['categories']):
            content['categories'], dropped = categories, True
    return dropped
