"""Find a data set by its name or by the layout of a folder.

To add a layout, write a module of this package with the members of `Layout` and add it to `LAYOUTS`. To add a data set
that is found by name, add it to `named.NAMES`.

Class names and their order come from the files. Without a `val` split a tenth of the images is held out for it. A test
split is never trained on and does not change the classes; one that cannot be read is left out. Annotations that have to
be converted or split are written to the folder `coco` of the work dir, never to the data. `--help` imports this
package, so no layout may import numpy or heavier packages at its top.
"""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from repvit_dense.data.layouts import coco, label_files, masks, named, object_masks, panoptic, yolo
from repvit_dense.data.layouts.named import NAMES
from repvit_dense.data.lookup import split_of
from repvit_dense.data.pairing import KIND_WORD
from repvit_dense.data.source import Source
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, is_folder

ARCHIVE = re.compile(r'\.(zip|tar|tgz|7z|rar|(tar\.)?(gz|bz2|xz|zst))$', re.IGNORECASE)
DEEPEST = 2  # levels of folders in which a data set is searched
MOST_FOLDERS = 100  # of one folder that are searched


class Layout(Protocol):
    """The members of a layout module.

    Attributes:
        TASKS: the labels that the layout can hold, of `source.TASKS`.
        EXPECTED: the files that make up the layout, for the message that no layout was recognised.
    """

    TASKS: tuple[str, ...]
    EXPECTED: str

    def recognise(self, root: Path) -> bool:
        """Return whether a folder has this layout; the files need not be complete or valid."""

    def read(self, root: Path, task: str, store: Path) -> Source:
        """Return the data set in a folder that `recognise` accepts.

        Args:
            root: absolute path of the folder, which is not written to.
            task: one of `TASKS`.
            store: folder for annotation files that have to be written; it need not exist.

        Raises:
            InputError: the data set cannot be read, or it lacks the labels of this task.
        """


# Layouts are tried in this order.
LAYOUTS: tuple[Layout, ...] = (yolo, coco, object_masks, label_files, panoptic, masks)


def find(data: str, task: str, work_dir: str | os.PathLike) -> Source:
    """Return the data set with this name, or in this folder, for a task.

    Args:
        data: a name in `NAMES`, or the path of a folder; `./coco` is the folder and `coco` the name.
        task: one of `source.TASKS`.
        work_dir: converted annotations are written to its folder `coco`.

    Raises:
        InputError: there is no such data set, or it lacks the labels of this task; the message lists alternatives.
    """
    check_name(data)
    if data in NAMES:
        return named.read(data, task)
    root, store = Path(data).absolute(), Path(work_dir).absolute() / 'coco'
    layouts = [layout for layout in LAYOUTS if task in layout.TASKS]
    try:
        folder, layout = _search(root, layouts)
        if layout is not None:
            source = layout.read(folder, task, store)
            note = f'{root}: the data set in its folder {folder.relative_to(root)} is read'
            return source if folder == root else replace(source, notes=(note, *source.notes))
    except PermissionError as error:
        raise InputError(f'{error.filename}: cannot be read or written ({error.strerror})') from error
    expected = '; or '.join(layout.EXPECTED for layout in layouts)
    others = [layout for layout in LAYOUTS if task not in layout.TASKS]
    suited = [other.TASKS for other in others if _recognised(root, [other]) or _inside(root, [other], DEEPEST)]
    tasks = list(dict.fromkeys(name for names in suited for name in names))
    hint = f'. It has labels for {" and ".join(tasks)} configs' if tasks else ''
    raise InputError(f'{root}: no data set for this {task} config in this folder. Expected: {expected}{hint}')


def check_name(data: str) -> None:
    """Refuse a name that is neither in `NAMES` nor a folder.

    Raises:
        InputError: lists the names.
    """
    if data in NAMES or is_folder(data):
        return
    if is_file(data):
        remedy = 'unpack it and name the folder' if ARCHIVE.search(data) else 'name the folder of the data set'
        raise InputError(f'--data {data}: a file; {remedy}')
    raise InputError(f'--data {data}: no such folder and no data set of this name; known: {", ".join(NAMES)}')


def _search(root: Path, layouts: list[Layout]) -> tuple[Path, Layout | None]:
    """Return the folder that has one of the layouts, and the layout: `root`, else the only one in it.

    Folders that stand for a split or for a kind of file are parts of a data set, so they are not searched.

    Raises:
        InputError: there are several.
    """
    layout = next((layout for layout in layouts if layout.recognise(root)), None)
    matches = _inside(root, layouts, DEEPEST) if layout is None else {}
    if len(matches) > 1:
        names = ', '.join(str(path.relative_to(root)) for path in matches)
        raise InputError(f'{root}: holds {len(matches)} data sets, in {names}; name one of these folders')
    return next(iter(matches.items()), (root, layout))


def _inside(folder: Path, layouts: list[Layout], depth: int) -> dict[Path, Layout]:
    """Return the data sets in a folder and their layouts."""
    matches: dict[Path, Layout] = {}
    for path in _parts(folder)[:MOST_FOLDERS] if depth else ():
        layout = _recognised(path, layouts)
        matches |= {path: layout} if layout else _inside(path, layouts, depth - 1)
    return matches


def _parts(folder: Path) -> list[Path]:
    try:
        paths = [path for path in sorted(folder.iterdir()) if is_folder(path) and not path.name.startswith('.')]
    except OSError:
        return []
    paths = [path for path in paths if not folder.resolve().is_relative_to(path.resolve())]  # a link to a folder above
    return [path for path in paths if not split_of(path.name) and not KIND_WORD.fullmatch(path.name)]


def _recognised(folder: Path, layouts: list[Layout]) -> Layout | None:
    try:
        return next((layout for layout in layouts if layout.recognise(folder)), None)
    except (InputError, OSError):
        return None
