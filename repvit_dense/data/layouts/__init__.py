"""Find a data set by its name or by the layout of a folder.

To add a layout, write a module of this package with the members of `Layout` and add it to `LAYOUTS`. To add a data set
that is found by name, add it to `named.NAMES`.

Class names and their order come from the files. A test split is not used: evaluation is on `val`, or on a tenth of the
images if there is no `val`. Annotations that have to be converted or split are written to the folder `coco` of the work
dir, never to the data. `--help` imports this package, so no layout may import numpy or heavier packages at its top.
"""

import os
from pathlib import Path
from typing import Protocol

from repvit_dense.data.layouts import coco, masks, named, panoptic, voc, yolo
from repvit_dense.data.layouts.named import NAMES
from repvit_dense.data.source import Source
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, is_folder


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
LAYOUTS: tuple[Layout, ...] = (yolo, voc, coco, panoptic, masks)


def find(data: str, task: str, work_dir: str | os.PathLike) -> Source:
    """Return the data set with this name, or in this folder, for a task.

    Args:
        data: a name in `NAMES`, or the path of a folder; `./coco` is the folder and `coco` the name.
        task: one of `source.TASKS`.
        work_dir: converted annotations are written to its folder `coco`.

    Raises:
        InputError: there is no such data set, or it lacks the labels of this task; the message lists alternatives.
    """
    if data in NAMES:
        return named.read(data, task)
    if is_file(data):
        raise InputError(f'--data {data}: a file; name the folder of the data set')
    if not is_folder(data):
        raise InputError(f'--data {data}: no such folder and no data set of this name; known: {", ".join(NAMES)}')
    root, store = Path(data).absolute(), Path(work_dir).absolute() / 'coco'
    layouts = [layout for layout in LAYOUTS if task in layout.TASKS]
    try:
        for layout in layouts:
            if layout.recognise(root):
                return layout.read(root, task, store)
        inner = [path for path in sorted(root.iterdir()) if is_folder(path) and _is_recognised(path, layouts)]
    except PermissionError as error:
        raise InputError(f'{error.filename}: cannot be read or written ({error.strerror})') from error
    expected = '; or '.join(layout.EXPECTED for layout in layouts)
    hint = f'. If {inner[0]} is the data set, name that folder' if len(inner) == 1 else ''
    raise InputError(f'{root}: no data set for this {task} config in this folder. Expected: {expected}{hint}')


def _is_recognised(folder: Path, layouts: list[Layout]) -> bool:
    try:
        return any(layout.recognise(folder) for layout in layouts)
    except (InputError, OSError):
        return False
