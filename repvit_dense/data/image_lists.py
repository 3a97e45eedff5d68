"""Lists of the images of a split: text files with one name per line."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from repvit_dense.data.annotations import optional_test
from repvit_dense.data.lookup import child, read_lines
from repvit_dense.data.pairing import Names
from repvit_dense.data.reading import SUFFIXES
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, is_folder, walk

LIST_FOLDERS = ('Main', '.', 'Segmentation', 'Layout')  # of ImageSets
TRAIN_LISTS = ('train', 'training', 'trainval', 'default')  # CVAT calls the only list default
VAL_LISTS = ('val', 'valid', 'validation')
TEST_LISTS = ('test', 'testing')
MOST = 5  # examples in a message


def find_lists(root: Path, notes: list[str], folders: Sequence[str] = LIST_FOLDERS) -> dict[str, Path]:
    """Return split -> its list of images; empty if there are no lists at all.

    They are in a folder of `ImageSets`, the first one of `folders` that has any, else in `root`. The training images
    are those of the first one of `TRAIN_LISTS`.

    Raises:
        InputError: there are lists, but none of training images.
    """
    folder = child(root, 'ImageSets')
    for name in folders if is_folder(folder) else ():
        texts = sorted(file for file in child(folder, name).glob('*.[tT][xX][tT]') if is_file(file))
        if texts:
            break
    else:
        others = [path for path in walk(folder) if path.suffix.lower() == '.txt'] if is_folder(folder) else []
        if others:
            raise InputError(f'{folder}: has lists of images, {others[0]}, but not in its folder {folders[0]}')
        name, known = folders[0], (*TRAIN_LISTS, *VAL_LISTS, *TEST_LISTS)
        texts = [path for path in sorted(root.glob('*.[tT][xX][tT]')) if path.stem.lower() in known and is_file(path)]
        if not texts:
            return {}
    stems = {file.stem.lower(): file for file in texts}
    choices = (('train', TRAIN_LISTS), ('val', VAL_LISTS), ('test', TEST_LISTS))
    found = {split: stems[stem] for split, known in choices for stem in reversed(known) if stem in stems}
    if 'train' not in found:
        raise InputError(
            f'{texts[0].parent}: has {some([file.name for file in texts])}, but no list of training images; expected '
            f'{", ".join(f"{stem}.txt" for stem in TRAIN_LISTS)}, and {VAL_LISTS[0]}.txt for evaluation'
        )
    if name != folders[0]:
        notes.append(f'{texts[0].parent}: its lists are used, because ImageSets/{folders[0]} has none')
    unused = [file.name for file in texts if file not in found.values()]
    if unused:
        notes.append(f'{texts[0].parent}: {found["train"].name} is trained on; not used: {some(unused)}')
    return found


def images_of_lists(lists: dict[str, Path], names: Names, root: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Return split -> the images in its list. Those of other splits are not trained on, unless there are no others."""
    splits: dict[str, list[Path]] = {}
    for split, file in lists.items():
        with optional_test(root, notes) if split == 'test' else nullcontext():
            splits[split] = _images_of_list(file, names, root, notes)
    for split, purpose in (('val', 'validation'), ('test', 'the test')):
        held_out = {*splits.get(split, [])}
        train = [path for path in splits['train'] if path not in held_out]
        if not train:
            notes.append(f'{lists["train"]}: its images are all in {lists[split].name}, which is evaluated, too')
        elif len(train) < len(splits['train']):
            notes.append(f'{lists["train"]}: {len(splits["train"]) - len(train)} of its images are left for {purpose}')
        splits['train'] = train or splits['train']
    return splits


def _images_of_list(file: Path, names: Names, root: Path, notes: list[str]) -> list[Path]:
    """Return the images in a list, one name per line, with or without suffix; VOC's -1 or 1 may follow."""
    lines = read_lines(file)
    found, number = names.find_all([_readings(line) for line in lines])
    missing = [line for line, path in zip(lines, found, strict=True) if path is None and not line.startswith('#')]
    if missing:
        raise InputError(f'{file}: names {some(missing)}, which is not in {root}')
    listed = [path for path in found if path is not None]
    if not listed:
        raise InputError(f'{file}: names no images')
    if number:
        notes.append(f'{file}: its images are found as {listed[0].relative_to(root)} for {lines[0]}, and so on')
    if len({*listed}) < len(listed):
        notes.append(f'{file}: {len(listed) - len({*listed})} repeated lines are left out')
    return list(dict.fromkeys(listed))


def _readings(line: str) -> list[str]:
    """Return the names that a line may stand for: the whole line, and all but its last word."""
    readings = [line, line.rsplit(maxsplit=1)[0]]
    return [r for n in readings for r in ([n, n.rpartition('.')[0]] if n.lower().endswith(SUFFIXES) else [n])]


def some(names: list[str]) -> str:
    """Return the first names, and the number of the others."""
    rest = f' and {len(names) - MOST:,} more' if len(names) > MOST else ''
    return ', '.join(names[:MOST]) + rest
