"""YOLO: a YAML file with `names`, `train` and `val`, and a text file with boxes or polygons for each image.

`supervision`, an optional package, parses the label files.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.data.annotations import NEEDS_PACKAGE, build_source, to_coco
from repvit_dense.data.reading import image_size, images_in, read_text, read_yaml
from repvit_dense.data.source import SPLITS, Source
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from supervision import Detections

TASKS: tuple[str, ...] = ('detection', 'instance')
EXPECTED = 'data.yaml with names, train and val (YOLO)'


def recognise(root: Path) -> bool:
    """Return whether the folder has a `data.yaml` or exactly one YAML file."""
    return _yaml_file(root) is not None


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set, with its labels converted to COCO annotations in `store`."""
    source = build_source(root, store, read_labels(root), {}, dict.fromkeys(SPLITS, ''), masks=task == 'instance')
    return replace(source, notes=(f'{root}: YOLO labels, converted to {store}', *source.notes))


def read_labels(root: Path) -> dict[str, dict]:
    """Return split -> content of a COCO annotation file: 'train', and 'val' if the YAML file names one.

    The label file of an image is in the folder `labels` that replaces the last folder `images` in its path, else beside
    the image. An image without a label file has no objects. Category ids are YOLO's class numbers. Objects have masks
    if the labels are polygons.

    Raises:
        InputError: `supervision` is missing, or a file is not valid.
    """
    file = _yaml_file(root)
    if file is None:
        raise InputError(f'{root}: there is no data.yaml')
    settings = _read_yaml(file)
    names = _class_names(file, settings)
    if 'kpt_shape' in settings:
        raise InputError(f'{file}: a data set of poses (kpt_shape); boxes or polygons are expected')
    base = file.parent / str(settings.get('path') or '')
    base = base if base.is_dir() else file.parent
    contents = {}
    for split, keys in (('train', ('train',)), ('val', ('val', 'valid'))):
        entry = next((settings[key] for key in keys if settings.get(key)), None)
        if entry is not None:
            entries = entry if isinstance(entry, list) else [entry]
            images = [path for entry in entries for path in _images(file, base, str(entry))]
            contents[split] = to_coco(root, ((path, _objects(path), []) for path in images), names)
    if 'train' not in contents:
        raise InputError(f"{file}: names no training images; add the path of their folder: 'train: images/train'")
    return contents


def _yaml_file(root: Path) -> Path | None:
    files = sorted([*root.glob('*.yaml'), *root.glob('*.yml')])
    preferred = [file for file in files if file.stem == 'data']
    if preferred or len(files) == 1:
        return (preferred or files)[0]
    return None


def _read_yaml(file: Path) -> dict:
    settings = read_yaml(file)
    if not isinstance(settings, dict):
        raise InputError(f'{file}: not the description of a YOLO data set, which has names, train and val')
    return settings


def _class_names(file: Path, settings: dict) -> list[str]:
    names = settings.get('names')
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(f"{file}: 'names' must list the classes, or map 0, 1, ... to them")
    return [str(name) for name in names]


def _images(file: Path, base: Path, entry: str) -> list[Path]:
    """Return the images in a folder or in a list of files; some exports write `../train` for `train`."""
    candidates = [base / entry, base / entry.removeprefix('../')]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        raise InputError(f'{file}: {candidates[0]} does not exist')
    if path.is_dir():
        return images_in(path)
    lines = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    return [(path.parent / line).resolve() for line in lines]


def _objects(image: Path) -> 'Detections | None':
    parts = list(image.parts)
    if 'images' in parts:
        parts[len(parts) - 1 - parts[::-1].index('images')] = 'labels'
    candidates = [Path(*parts).with_suffix('.txt'), image.with_suffix('.txt')]
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        return None
    try:
        from supervision.dataset.formats.yolo import yolo_annotations_to_detections
    except ImportError as error:
        raise InputError(f'{file}: {NEEDS_PACKAGE}') from error
    lines = [line for line in read_text(file).splitlines() if line.strip()]
    has_polygons = any(len(line.split()) > 6 for line in lines)  # a box is 5 numbers, 6 with its confidence
    try:
        return yolo_annotations_to_detections(lines, image_size(image), with_masks=has_polygons)
    except ValueError as error:
        raise InputError(f'{file}: {error}') from error
