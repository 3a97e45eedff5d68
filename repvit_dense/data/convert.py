"""Folders in YOLO and Pascal VOC layout as COCO annotations.

The label files are read by `supervision` (MIT licence), an optional package; what it gives is written down as COCO.
Polygons pass through the pixels they cover, so a mask agrees with its polygon to within a pixel.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.data.checks import image_size, read_text
from repvit_dense.data.reading import images_in, run_lengths
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from supervision import Detections

MISSING = 'reading this layout needs one more package: pip install repvit_dense[convert]'


def yolo(root: Path, listing: Path) -> dict[str, dict]:
    """A YOLO data set: a YAML file with `names`, `train` and `val`, and a text file with boxes or polygons per image.

    Labels are looked for where the last folder `images` of an image's path is called `labels`, else beside the image.
    An image without a label file has no objects.

    Args:
        root: what file names are relative to.
        listing: the YAML file. It is read safely: nothing in it is executed.

    Returns:
        split ('train', and 'val' where the file names one) -> content of a COCO annotation file. Category ids are
        YOLO's class numbers. Masks are there where labels are polygons.

    Raises:
        InputError: the package is missing, or a file is not what it should be.
    """
    settings = _read_yaml(listing)
    names = _class_names(listing, settings)
    if 'kpt_shape' in settings:
        raise InputError(f'{listing}: a data set of poses (kpt_shape); boxes or polygons are expected')
    base = listing.parent / str(settings.get('path') or '')
    base = base if base.is_dir() else listing.parent
    contents = {}
    for split, keys in (('train', ('train',)), ('val', ('val', 'valid'))):
        entry = next((settings[key] for key in keys if settings.get(key)), None)
        if entry is not None:
            images = [path for part in _as_list(entry) for path in _yolo_images(listing, base, part)]
            contents[split] = _to_coco(root, ((path, _yolo_labels(path), []) for path in images), names)
    if 'train' not in contents:
        raise InputError(f"{listing}: names no training images; say where they are: 'train: images/train'")
    return contents


def voc(root: Path) -> dict[str, dict]:
    """A Pascal VOC data set: `JPEGImages/`, `Annotations/*.xml` and, where there are splits, `ImageSets/Main/*.txt`.

    Returns:
        split -> content of a COCO annotation file; one split 'train' where `ImageSets/Main` names none. Categories are
        the names in the files of all splits, sorted; difficult objects are crowds, which neither training nor
        evaluation counts.

    Raises:
        InputError: the package is missing, or a file is not what it should be.
    """
    images = {path.stem: path for path in _listed(root / 'JPEGImages')}
    lists = {split: root / f'ImageSets/Main/{split}.txt' for split in ('train', 'val')}
    if lists['train'].is_file():
        stems = {split: _first_words(path) for split, path in lists.items() if path.is_file()}
    else:
        stems = {'train': sorted(images)}
    names, samples = [], {}
    for split in stems:
        samples[split] = []
        for stem in stems[split]:
            if stem not in images:
                raise InputError(f'{lists[split]}: names {stem}, which is not in {root / "JPEGImages"}')
            detections, names, difficult = _voc_labels(images[stem], root / f'Annotations/{stem}.xml', names)
            samples[split].append((images[stem], detections, difficult))
    contents = {split: _to_coco(root, samples[split], names) for split in samples}
    for content in contents.values():
        content['categories'].sort(key=lambda category: category['name'])
    return contents


def _read_yaml(file: Path) -> dict:
    import yaml

    try:
        settings = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise InputError(f'{file}: cannot be read as YAML ({" ".join(str(error).split())})') from error
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


def _as_list(entry) -> list:
    return entry if isinstance(entry, list) else [entry]


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f'{folder}: no such folder of images')
    return images_in(folder)


def _first_words(file: Path) -> list[str]:
    return [line.split()[0] for line in read_text(file).splitlines() if line.strip()]


def _yolo_images(listing: Path, base: Path, entry) -> list[Path]:
    """The images of a folder, or those a text file lists; exports often write `../train` for `train`."""
    text = str(entry)
    candidates = [base / text, base / text.removeprefix('../')]
    place = next((path for path in candidates if path.exists()), None)
    if place is None:
        raise InputError(f'{listing}: {candidates[0]} is not there')
    if place.is_dir():
        return _listed(place)
    return [(place.parent / line).resolve() for line in _first_words(place)]


def _yolo_labels(image: Path) -> 'Detections | None':
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
        raise InputError(f'{file}: {MISSING}') from error
    lines = [line for line in read_text(file).splitlines() if line.strip()]
    polygons = any(len(line.split()) > 6 for line in lines)  # five numbers are a box, a sixth its confidence
    try:
        return yolo_annotations_to_detections(lines, image_size(image), with_masks=polygons)
    except ValueError as error:
        raise InputError(f'{file}: {error}') from error


def _voc_labels(image: Path, file: Path, names: list[str]) -> tuple['Detections | None', list[str], list[bool]]:
    """The objects of an image, the names known so far, and which of the objects are difficult."""
    if not file.is_file():
        return None, names, []
    try:
        from defusedxml.ElementTree import ParseError, parse
        from supervision.dataset.formats.pascal_voc import detections_from_xml_obj
    except ImportError as error:
        raise InputError(f'{file}: {MISSING}') from error
    try:
        tree = parse(file).getroot()
        detections, names = detections_from_xml_obj(tree, names, image_size(image))
    except (ParseError, ValueError) as error:
        raise InputError(f'{file}: {error}') from error
    return detections, names, [item.findtext('difficult', '0').strip() == '1' for item in tree.findall('object')]


def _to_coco(root: Path, samples: Iterable, names: list[str]) -> dict:
    """COCO content of (image, objects or None, which of them are crowds) of each sample."""
    images, annotations = [], []
    for path, detections, crowds in samples:
        width, height = image_size(path)
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.absolute().as_posix()
        images.append({'id': len(images) + 1, 'file_name': name, 'height': height, 'width': width})
        for number, entry in enumerate(_objects(detections)):
            entry |= {'id': len(annotations) + 1, 'image_id': len(images)}
            entry['iscrowd'] = int(bool(crowds) and crowds[number])
            annotations.append(entry)
    categories = [{'id': number, 'name': name} for number, name in enumerate(names)]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def _objects(detections: 'Detections | None') -> Iterator[dict]:
    if detections is None:
        return
    for number, (box, label) in enumerate(zip(detections.xyxy.tolist(), detections.class_id.tolist(), strict=True)):
        left, top, right, bottom = box
        bbox = [left, top, right - left, bottom - top]
        entry = {'category_id': label, 'bbox': [round(value, 3) for value in bbox], 'area': bbox[2] * bbox[3]}
        if detections.mask is not None:
            mask = detections.mask[number]
            entry |= {'segmentation': run_lengths(mask), 'area': int(mask.sum())}
        yield entry
