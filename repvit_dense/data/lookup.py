"""Find files by names that were written elsewhere: other capitals, backslashes, folders of another machine."""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from urllib.parse import unquote

from repvit_dense.data.reading import SUFFIXES, read_text
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, is_folder, walk

SAMPLED = 50  # file names of an annotation file that are looked up to find its image folder
DEEPEST = 20  # leading folders that are removed from a file name to find it
TEST_FOLDER = re.compile(
    '(images?[-_ ]?)?test(s|ing)?([-_ ]?(images?|set|data|dev|split|annot[a-z]*|labels?|masks?|[0-9]+))*', re.IGNORECASE
)
SPLIT_WORD = re.compile('(train|test)[a-z]*|(val)(id[a-z]*|set|split|data|images|annot[a-z]*|labels?|masks?)?')


def split_of(name: str) -> str | None:
    """Return the split that a file or folder name stands for: 'train', 'val', 'test' or None.

    The last word counts: 'train' for `test_project_train2017`, 'val' for `valid`. `train_val` is 'train' as `trainval`.
    """
    matches = [match for word in re.split('[^a-z]+', name.lower()) if (match := SPLIT_WORD.fullmatch(word))]
    splits = [match[1] or match[2] for match in matches]
    if splits[-2:] == ['train', 'val']:
        return 'train'
    return splits[-1] if splits else None


def in_test_folder(path: PurePath) -> bool:
    """Return whether a folder of a relative path belongs to a test split: `test/1.jpg`, `images/test2017/1.jpg`."""
    return not path.is_absolute() and any(TEST_FOLDER.fullmatch(part) for part in path.parts[:-1])


def split_in_folders(path: PurePath) -> str | None:
    """Return the split that the folders of a relative path name; 'test' if any does, else the innermost one's."""
    splits = [split for part in path.parts[:-1] if (split := split_of(part)) in ('train', 'val')]
    return 'test' if in_test_folder(path) else splits[-1] if splits else None


def child(folder: Path, name: str) -> Path:
    """Return `folder/name`; if it does not exist, the first entry whose name differs from it in capitals only."""
    path = folder / name
    if os.path.lexists(path) or not is_folder(folder):
        return path
    return next((entry for entry in sorted(folder.iterdir()) if entry.name.lower() == name.lower()), path)


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file without spaces around them; empty lines are left out.

    Raises:
        InputError: see `read_text`.
    """
    lines = (line.strip() for line in re.split('[\r\n]+', read_text(file)))
    return [line for line in lines if line]


def locate(folders: Iterable[Path], name: str) -> Path | None:
    """Return the file of this name in the first folder that has it, else with `/` for every backslash, else None."""
    names = dict.fromkeys([name, name.replace('\\', '/')])
    return next((folder / n for n in names for folder in folders if is_file(folder / n)), None)


def image_folder(root: Path, file: Path, content: dict, folder: Path | None = None) -> tuple[str, int | None]:
    """Find the folder, relative to `root`, that the file names of an annotation file are relative to.

    Candidates are `folder` and the folders in it if the layout names one, else the folders named after the split,
    `images/`, `root` and the folder of the file; then every other folder in `root` or `images/` that does not belong to
    a test split. The first one that has the most of fifty images is taken; a folder of the other split only if no
    candidate has any. If none has any, the file names are tried with slashes for backslashes, and without one, two, ...
    leading folders, see `shortened`.

    Returns:
        The folder; and None if the file names fit as they are, else the number of leading folders to leave out.

    Raises:
        InputError: no candidate holds any of these images, or there are none.
    """
    split = split_of(folder.name if folder else file.stem)
    children = [path for base in (root, child(root, 'images')) for path in _folders_in(base)]
    of_split = [path for path in children if split and split_of(path.name) == split]
    candidates = [folder, *_folders_in(folder)] if folder else [*of_split, child(root, 'images'), root, file.parent]
    candidates += [path for path in children if not TEST_FOLDER.fullmatch(path.name)]
    candidates = [path for path in dict.fromkeys(candidates) if is_folder(path)]
    last = [path for path in candidates if split and split_of(path.name) not in (split, None) and path != root]
    first = [path for path in candidates if path not in last]
    names = [name for image in content['images'][:SAMPLED] if isinstance(name := image.get('file_name'), str) and name]
    for number in (None, *range(min(DEEPEST, max(map(_depth, names), default=0)) + 1)):
        variants = [name if number is None else shortened(name, number) for name in names]
        best = _fullest(first, variants) or _fullest(last, variants)
        if best is not None:
            return best.relative_to(root).as_posix(), number
    if not names:
        fault = "none of its images has a text as 'file_name'" if content['images'] else 'lists no images'
        raise InputError(f'{file}: {fault}')
    raise InputError(
        f'{file}: its images ({", ".join(names[:3])}, ...) are in none of '
        f'{", ".join(str(path) for path in candidates)}{_similar_file(root, names[0])}'
    )


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted; entries are asked for their kind, which does not query each image."""
    if not is_folder(folder):
        return []
    with os.scandir(folder) as entries:
        paths = [Path(e.path) for e in entries if e.is_symlink() or e.is_dir()]
    return sorted(path for path in paths if is_folder(path))


def _similar_file(root: Path, name: str) -> str:
    """Return the end of a message: an image elsewhere, or whose name differs only in capitals, spaces or its suffix."""

    def stem(path: PurePath) -> str:
        return unquote(path.name).removesuffix(path.suffix).strip().lower()

    wanted = {stem(PurePath(name.strip())), unquote(PurePath(name).name).strip().lower()}
    images = (path for path in walk(root, keep_unreadable=True) if path.suffix.lower() in SUFFIXES)
    found = next((path for path in images if stem(path) in wanted), None)
    return f'; rename the images or correct the file names: there is {found}' if found else ''


def _fullest(candidates: list[Path], names: list[str]) -> Path | None:
    """Return the first of the folders that have the most of these files; None if no folder has any."""
    best, most = None, 0
    for candidate in candidates:
        count = sum(is_file(candidate / name) for name in names)
        if count > most:
            best, most = candidate, count
        if most == len(names):
            break
    return best


def shortened(name: str, number: int) -> str:
    """Return a file name with slashes, without so many leading folders; the name itself always remains."""
    parts = [part for part in name.replace('\\', '/').split('/') if part not in ('', '.')]
    return '/'.join(parts[min(number, len(parts) - 1) :]) if parts else name


def _depth(name: str) -> int:
    return len(re.split(r'[/\\]', name)) - 1
