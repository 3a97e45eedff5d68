"""YOLO: a YAML file with `names`, `train`, `val` and `test`, and a text file with boxes or polygons for each image."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from repvit_dense.data.annotations import Picture, build_source, describe, optional_test, refuse_faults, to_coco
from repvit_dense.data.lookup import DEEPEST, child, in_test_folder, locate, read_lines, shortened
from repvit_dense.data.reading import SUFFIXES, images_in, loaded_header, read_text, read_yaml
from repvit_dense.data.source import Source
from repvit_dense.data.yolo_labels import parse_labels
from repvit_dense.errors import InputError
from repvit_dense.files import is_folder

TASKS: tuple[str, ...] = ('detection', 'instance')
EXPECTED = 'data.yaml with names, train and val (YOLO)'

EMPTY = ('', '~', 'null', 'Null', 'NULL')  # YAML's words for no value
KEYS = {'train': ('train',), 'val': ('val', 'valid', 'validation'), 'test': ('test',)}


def recognise(root: Path) -> bool:
    """Return whether the folder has a `data.yaml`, or exactly one YAML file, which has the key `names` or `train`."""
    return _yaml_file(root) is not None


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set, with its labels converted to COCO annotations in `store`."""
    contents, notes = read_labels(root)
    notes[0] = f'{root}: YOLO labels, converted to {store}: {notes[0]}'
    return build_source(root, store, contents, {}, dict.fromkeys(contents, ''), task == 'instance', notes)


def read_labels(root: Path) -> tuple[dict[str, dict], list[str]]:
    """Return split -> content of a COCO annotation file, and messages for the user.

    The splits are 'train', and 'val' and 'test' if the YAML file names them; a test split that cannot be read is left
    out. The label file of an image is in the folder `labels`
    that replaces the last folder `images` in its path, else beside the image; if the image is reached through a link,
    it is looked for from its real path too. An image without a label file has no objects. Category ids are YOLO's class
    numbers. An object has a mask if its label is a polygon.

    Raises:
        InputError: a file is not valid.
    """
    file = _yaml_file(root)
    if file is None:
        raise InputError(f'{root}: there is no data.yaml')
    settings = _read_yaml(file)
    names = _class_names(file, settings)
    base, notes = _base_folder(file, settings)
    images: dict[str, list[Path]] = {}
    for split, keys in KEYS.items():
        entry = next((settings[key] for key in keys if settings.get(key, '') not in EMPTY), None)
        with optional_test(root, notes) if split == 'test' else nullcontext():
            if entry is not None:
                images[split] = _images_of(file, base, split, entry, notes)
    if 'train' not in images:
        raise InputError(f"{file}: names no training images; add the path of their folder: 'train: images/train'")
    labels = _LabelFiles()
    counts: Counter = Counter()
    contents = {
        split: to_coco(root, _pictures(images[split], labels, len(names), counts), names)
        for split in images
        if split != 'test'
    }
    refuse_faults(labels.faults)
    if not labels.used:
        raise InputError(f'{root}: none of the {counts["unlabelled"]} images has a label file, in labels/ or beside it')
    with optional_test(root, notes):
        if 'test' in images:
            tests = _LabelFiles()
            content = to_coco(root, _pictures(images['test'], tests, len(names), Counter()), names)
            refuse_faults(tests.faults)
            contents['test'] = content
    return contents, [_summary(counts), *notes, *labels.unused()]


def _images_of(file: Path, base: Path, split: str, entry: object, notes: list[str]) -> list[Path]:
    """Return the images of an entry of the YAML file, which may be a list of folders and files, each image once."""
    entries = entry if entry and isinstance(entry, list) else [entry]
    listed = [path for part in entries for path in _images(file, base, split, part, notes)]
    images = list(dict.fromkeys(listed))
    if len(images) < len(listed):
        notes.append(f"{file}: '{split}' names {len(listed) - len(images)} images twice; they count once")
    return images


def _yaml_file(root: Path) -> Path | None:
    files = [path for path in sorted(root.iterdir()) if path.suffix.lower() in ('.yaml', '.yml')]
    files = [path for path in files if not path.name.startswith('.')]
    preferred = [path for path in files if path.stem.lower() == 'data']
    if preferred:
        return preferred[0]
    return files[0] if len(files) == 1 and _describes_data(files[0]) else None


def _describes_data(file: Path) -> bool:
    try:
        return re.search(r"""^\s*['"]?(names|train)['"]?\s*:""", read_text(file), re.MULTILINE) is not None
    except InputError:
        return True  # the message of the layout says why it cannot be read


def _read_yaml(file: Path) -> dict:
    """Return the values of the YAML file as they are written: YAML would read `yes` and `no` as truth values."""
    import yaml

    read_yaml(file)  # refuses what is not safe to read
    settings = yaml.load(read_text(file), yaml.BaseLoader)  # noqa: S506  which returns text, lists and dictionaries only
    if not isinstance(settings, dict):
        raise InputError(f'{file}: not the description of a YOLO data set, which has names, train and val')
    if 'kpt_shape' in settings:
        raise InputError(f'{file}: a data set of poses (kpt_shape); boxes or polygons are expected')
    return settings


def _class_names(file: Path, settings: dict) -> list[str]:
    names = settings.get('names')
    if isinstance(names, dict) and set(names) == {str(number) for number in range(len(names))}:
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{file}: 'names' must list the classes, or map 0, 1, ... to them")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated or not all(map(str.strip, names)):
        raise InputError(f"{file}: 'names' has {f'{repeated[0]!r} twice' if repeated else 'an empty name'}")
    number = settings.get('nc', str(len(names)))
    if number not in (str(len(names)), *EMPTY):
        raise InputError(f"{file}: 'nc' is {number}, but 'names' has {len(names)} classes")
    return names


def _base_folder(file: Path, settings: dict) -> tuple[Path, list[str]]:
    """Return the folder that the paths of the YAML file are relative to, and messages for the user."""
    path = settings.get('path', '')
    if not isinstance(path, str):
        raise InputError(f"{file}: 'path' must be a folder")
    if path in EMPTY or is_folder(file.parent / path):
        return (file.parent if path in EMPTY else file.parent / path), []
    return file.parent, [f"{file}: its 'path' {path} does not exist, so paths are relative to {file.parent}"]


def _images(file: Path, base: Path, split: str, entry: object, notes: list[str]) -> list[Path]:
    """Return the images in a folder or in a list of files; some exports write `../train` for `train`."""
    if not isinstance(entry, str) or entry in EMPTY:
        raise InputError(f"{file}: '{split}' must be a folder, a text file with a list of images, or a list of them")
    if '://' in entry:
        raise InputError(f"{file}: '{split}' is a URL; download the data and name its folder")
    entry = entry.replace('\\', '/')
    candidates = [base / entry, base / entry.removeprefix('../')]
    folders = [path for path in candidates if is_folder(path)]
    if candidates[0] != candidates[1] and folders:
        notes.append(f"{file}: '{split}: {entry}' is taken as {folders[0].resolve()}")
    path = folders[0] if folders else locate([base], entry)
    if path is None and not os.path.lexists(candidates[0]):
        raise InputError(f'{file}: {candidates[0]} does not exist')
    if path is None or not is_folder(path):
        return _listed(path or candidates[0], [(path or candidates[0]).parent, base], notes)
    images = images_in(path)
    used = [image for image in images if not in_test_folder(image.relative_to(path))]
    if len(used) < len(images):
        notes.append(f'{path}: {len(images) - len(used)} images in folders of a test split are not used')
    if not used:
        raise InputError(f"{file}: '{split}' is {path}, which has no images")
    return used


def _listed(file: Path, folders: list[Path], notes: list[str]) -> list[Path]:
    """Return the images that a text file lists, one path per line; a line that begins with `#` may be a comment.

    If none of them exists, the paths are tried without one, two, ... leading folders, which may be of another machine.
    """
    lines = read_lines(file)
    located = [(line, locate(folders, line)) for line in lines]
    listed = [line for line in lines if not line.startswith('#')]
    for number in range(1, DEEPEST) if listed and not any(path for _, path in located) else ():
        names = [shortened(line, number) for line in listed]
        if locate(folders, names[0]) and len(set(names)) == len(set(listed)):
            notes.append(f'{file}: its images are found as {names[0]} for {listed[0]}, and so on')
            located = [(line, locate(folders, name)) for line, name in zip(listed, names, strict=True)]
            break
    missing = [line for line, path in located if path is None and not line.startswith('#')]
    if missing:
        raise InputError(f'{file}: lists {len(missing)} images that do not exist ({", ".join(missing[:3])}, ...)')
    images = [path for _, path in located if path is not None]
    others = [path for path in images if path.suffix.lower() not in SUFFIXES]
    if others or not images:
        raise InputError(f'{file}: {f"lists {others[0]}, which is not an image" if others else "lists no images"}')
    return images


def _pictures(images: list[Path], labels: '_LabelFiles', classes: int, counts: Counter) -> Iterator[Picture]:
    for image in images:
        try:
            header = loaded_header(image)
        except InputError as error:
            labels.faults.append(str(error))
            continue
        size, file = header.size, labels.find(image)
        counts['turned'] += header.orientation > 1
        objects: list[dict] = []
        if file is None:
            counts['unlabelled'] += 1
        else:
            objects, faults = parse_labels(read_text(file), size, classes, counts)
            labels.faults += [f'{file}: {fault}' for fault in faults]
        yield Picture(image, size, objects)


class _LabelFiles:
    """The label files of a data set: finds those of images, and remembers those without an image.

    Attributes:
        used: label files of images.
        faults: descriptions of lines that are not valid, and of images that cannot be read.
    """

    def __init__(self) -> None:
        self.used: set[Path] = set()
        self.faults: list[str] = []
        self._folders: dict[Path, dict[str, Path]] = {}
        self._images: dict[Path, set[str]] = {}

    def find(self, image: Path) -> Path | None:
        """Return the label file of an image, or None."""
        for real in (False, True):
            path = image.resolve() if real else image
            for folder in self._candidates(path.parent):
                if path.stem in (files := self._text_files(folder)):
                    self.used.add(files[path.stem])
                    return files[path.stem]
        return None

    def unused(self) -> list[str]:
        """Return a note if folders of label files have some without an image; a folder with images is left out."""
        folders = {folder for folder in {file.parent for file in self.used} if folder not in self._images}
        stems = {stem for stems in self._images.values() for stem in stems}
        files = sorted(
            file for folder in folders for stem, file in self._text_files(folder).items() if stem not in stems
        )
        files = [file for file in files if file.stem != 'classes']  # some annotation tools write it beside the labels
        return [f'{len(files)} label files have no image and are not used ({files[0]}, ...)'] if files else []

    def _candidates(self, folder: Path) -> list[Path]:
        if folder not in self._images:
            paths = folder.iterdir()
            self._images[folder] = {path.stem for path in paths if path.suffix.lower() in SUFFIXES}
        parts = folder.parts
        for index in reversed(range(len(parts))):
            if parts[index].lower() == 'images':
                return [child(Path(*parts[:index]), 'labels').joinpath(*parts[index + 1 :]), folder]
        return [folder]

    def _text_files(self, folder: Path) -> dict[str, Path]:
        """Return stem -> text file of a folder."""
        if folder not in self._folders:
            paths = sorted(folder.iterdir()) if is_folder(folder) else []
            texts = {path.stem: path for path in paths if path.suffix.lower() == '.txt' and not is_folder(path)}
            self._folders[folder] = texts
        return self._folders[folder]


def _summary(counts: Counter) -> str:
    """Describe the labels that were read, and everything that was assumed or changed."""
    texts = {
        'confidences': '{} lines have a sixth number, which is taken as a confidence and ignored',
        'repeated': '{} repeated lines are left out',
        'cut': '{} objects reach outside their image and are cut off at its border',
    }
    parts = [f'{counts["boxes"]:,} boxes and {counts["polygons"]:,} polygons']
    if counts['boxes'] and counts['polygons']:
        parts.append('detection configs take the box around a polygon, instance configs need polygons only')
    return '; '.join([*parts, *describe(counts, texts)])
