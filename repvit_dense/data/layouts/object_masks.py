"""One mask per object: a folder for each image, with the image in its `images/` and binary masks in its `masks/`.

This is the layout of the Data Science Bowl 2018. Its folder `stage1_train` is split by the position of an image in the
sorted folder, so that everybody has the same splits; see `BOWL_SPLITS`. In other data, the folders `train/`, `val/` and
`test/` hold the splits.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.data.annotations import Picture, build_source, optional_test, refuse_faults, to_coco
from repvit_dense.data.lookup import split_of
from repvit_dense.data.reading import is_image_name, loaded_header, run_lengths
from repvit_dense.data.source import Source
from repvit_dense.errors import InputError
from repvit_dense.files import is_folder, open_regular, read_bytes

if TYPE_CHECKING:
    import numpy as np

TASKS: tuple[str, ...] = ('detection', 'instance')
EXPECTED = 'ID/images/ID.png and ID/masks/*.png for each image, one mask per object (Data Science Bowl 2018)'

BOWL, BOWL_IMAGES = 'stage1_train', 664  # with corrected masks; without the six images that were withdrawn
BOWL_SPLITS = ('val', 'test', 'train', 'train', 'train')  # of positions 0, 1, 2, 3, 4, modulo 5
TRIED = 20  # folders that may not be complete
THREADS = 4

Groups = dict[str, list[Path]]


def recognise(root: Path) -> bool:
    """Return whether the folder, or one in it that stands for a split, has folders of an image with its masks."""
    return any(_holds_images(folder) for folder in (root, *_split_folders(root).values()))


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set, with its masks converted to COCO annotations in `store`."""
    notes: list[str] = []
    groups, name = _groups(root, notes)
    counts: Counter = Counter()
    tests = groups.pop('test', [])
    contents = {split: _content(root, folders, name, counts) for split, folders in groups.items()}
    if not contents['train']['annotations']:
        raise InputError(f'{root}: none of the masks to train on has a pixel')
    with optional_test(root, notes):
        if tests:
            contents['test'] = _content(root, tests, name, counts)
    summary = '; '.join([f'{counts["objects"]:,} masks of objects', *_describe(counts)])
    notes.insert(0, f"{root}: one mask per object, converted to {store}: {summary}; the class is called '{name}'")
    return build_source(root, store, contents, {}, dict.fromkeys(contents, ''), task == 'instance', notes)


def _groups(root: Path, notes: list[str]) -> tuple[Groups, str]:
    """Return split -> folders of its images, and the name of the only class."""
    folders = {} if _holds_images(root) else _split_folders(root)
    train = folders.get('train', root)
    images = _image_folders(train)
    if not images:
        raise InputError(f'{root}: has no images to train on. Expected: {EXPECTED}')
    groups: Groups = {'train': images}
    for split in ('val', 'test'):
        parts = _image_folders(folders[split]) if split in folders else []
        if any(is_folder(part / 'masks') for part in parts):
            groups[split] = parts
        elif parts:
            notes.append(f'{folders[split]}: a {split} split without masks, which is not used')
    if train.name.lower() != BOWL:
        return groups, 'object'
    groups = {
        split: [p for i, p in enumerate(images) if BOWL_SPLITS[i % len(BOWL_SPLITS)] == split]
        for split in ('train', 'val', 'test')
    }
    notes.append(
        f'{train}: the images are split by their position in the sorted folder, modulo 5: 0 is val, 1 is test, 2 to 4 '
        'are train'
    )
    if len(images) != BOWL_IMAGES:
        notes.append(
            f'{train}: has {len(images)} images, not {BOWL_IMAGES}, so these are other splits than those of published '
            'results of this package; get the data with corrected masks'
        )
    return {split: part for split, part in groups.items() if part}, 'nucleus'


def _split_folders(root: Path) -> dict[str, Path]:
    """Return split -> the first folder of it that has images with masks, else that has images."""
    folders: dict[str, Path] = {}
    for folder in _subfolders(root):
        split = split_of(folder.name)
        if split and split not in folders and _image_folders(folder, TRIED):
            folders[split] = folder
    return folders


def _subfolders(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir()) if is_folder(folder) else []
    return [path for path in paths if is_folder(path) and not path.name.startswith('.')]


def _image_folders(folder: Path, most: int | None = None) -> list[Path]:
    """Return the folders in a folder that have a folder `images` or `masks`, sorted by name."""
    return [path for path in _subfolders(folder)[:most] if is_folder(path / 'images') or is_folder(path / 'masks')]


def _holds_images(folder: Path) -> bool:
    """Return whether one of the first folders has one image, and masks, unless it stands for a split."""
    for part in _image_folders(folder, TRIED):
        images = _images(part / 'images')
        if len(images) == 1 and is_folder(part / 'masks'):
            return split_of(part.name) is None or images[0].stem == part.name
    return False


def _images(folder: Path) -> list[Path]:
    return sorted(filter(is_image_name, folder.iterdir())) if is_folder(folder) else []


def _content(root: Path, folders: list[Path], name: str, counts: Counter) -> dict:
    """Return the COCO annotations of images; see `_read` for `counts`."""
    from tqdm import tqdm

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(tqdm(pool.map(_read, folders), 'reading masks', len(folders), delay=2, leave=False, disable=None))
    refuse_faults([fault for _, _, faults in parts for fault in faults])
    for _, part, _ in parts:
        counts.update(part)
    return to_coco(root, (picture for picture, _, _ in parts if picture), [name])


def _read(folder: Path) -> tuple[Picture | None, Counter, list[str]]:
    """Return an image with its objects, counts of what was assumed, and faults."""
    counts: Counter = Counter()
    images, masks = _images(folder / 'images'), folder / 'masks'
    if len(images) != 1:
        return None, counts, [f'{folder / "images"}: holds {len(images)} images; expected the image of {folder.name}']
    if not is_folder(masks):
        return None, counts, [f'{masks}: not found; an image without objects has an empty folder masks']
    faults: list[str] = []
    try:
        size = loaded_header(images[0]).size
    except InputError as error:
        return None, counts, [str(error)]
    objects = list(_objects(_images(masks), size, counts, faults))
    counts['objects'] += len(objects)
    counts['without'] += not objects
    counts['deep'] += _is_16_bit(images[0])
    return Picture(images[0], size, objects), counts, faults


def _objects(masks: list[Path], size: tuple[int, int], counts: Counter, faults: list[str]) -> Iterator[dict]:
    import numpy as np

    covered = np.zeros(size[::-1], bool)
    for file in masks:
        try:
            mask_size = loaded_header(file).size
            if mask_size != size:
                faults.append(f'{file}: is {"x".join(map(str, mask_size))}, its image {"x".join(map(str, size))}')
                continue
            levels = _levels(file)
        except InputError as error:
            faults.append(str(error))
            continue
        mask = levels > 0
        if not mask.any():
            counts['empty'] += 1
            continue
        counts['soft'] += bool((levels[mask] != levels.max()).any())
        counts['overlapping'] += bool((covered & mask).any())
        covered |= mask
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        area = float(np.count_nonzero(mask))
        entry = {'category_id': 0, 'bbox': list(map(float, box)), 'area': area, 'iscrowd': 0}
        yield {**entry, 'segmentation': run_lengths(mask)}


def _levels(file: Path) -> 'np.ndarray':
    """Return the grey levels of a mask `(H, W)`, the largest of its colours; transparency is left out."""
    import cv2
    import numpy as np

    try:
        pixels = cv2.imdecode(np.frombuffer(read_bytes(file), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(f'{file}: cannot be read as an image')
    return pixels if pixels.ndim == 2 else pixels[..., :3].max(2)


def _is_16_bit(image: Path) -> bool:
    with open_regular(image) as file:
        start = file.read(25)
    return start[12:16] == b'IHDR' and start[24] == 16  # of a PNG file


def _describe(counts: Counter) -> list[str]:
    """Return texts about everything that was assumed or left out."""
    texts = {
        'empty': '{} masks without a pixel are left out',
        'without': '{} images have no objects',
        'overlapping': '{} masks overlap another one, and both keep these pixels',
        'soft': '{} masks have several levels, of which all but 0 belong to the object',
        'deep': '{} images have 16 bits a channel, of which the image loaders keep the upper 8',
    }
    return [text.format(f'{counts[key]:,}') for key, text in texts.items() if counts[key]]
