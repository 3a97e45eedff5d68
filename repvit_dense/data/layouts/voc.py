"""Pascal VOC: `JPEGImages/`, `Annotations/*.xml` and, optionally, `ImageSets/Main/{train,val}.txt`.

`supervision`, an optional package, parses the label files.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.data.annotations import NEEDS_PACKAGE, build_source, to_coco
from repvit_dense.data.reading import image_size, images_in, read_text
from repvit_dense.data.source import SPLITS, Source
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from supervision import Detections

TASKS: tuple[str, ...] = ('detection', 'instance')
EXPECTED = 'Annotations/*.xml and JPEGImages (Pascal VOC)'


def recognise(root: Path) -> bool:
    """Return whether the folder has both `Annotations` and `JPEGImages`."""
    return (root / 'Annotations').is_dir() and (root / 'JPEGImages').is_dir()


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set, with its labels converted to COCO annotations in `store`."""
    source = build_source(root, store, read_labels(root), {}, dict.fromkeys(SPLITS, ''), masks=task == 'instance')
    return replace(source, notes=(f'{root}: Pascal VOC labels, converted to {store}', *source.notes))


def read_labels(root: Path) -> dict[str, dict]:
    """Return split -> content of a COCO annotation file; only 'train' if `ImageSets/Main` has no `train.txt`.

    The categories are the names in the files of all splits, sorted. Difficult objects become crowds, which neither
    training nor evaluation counts.

    Raises:
        InputError: `supervision` is missing, or a file is not valid.
    """
    images = {path.stem: path for path in images_in(root / 'JPEGImages')}
    lists = {split: root / f'ImageSets/Main/{split}.txt' for split in SPLITS}
    if lists['train'].is_file():
        stems = {split: _first_words(path) for split, path in lists.items() if path.is_file()}
    else:
        stems = {'train': sorted(images)}
    names: list[str] = []
    samples: dict[str, list] = {}
    for split in stems:
        samples[split] = []
        for stem in stems[split]:
            if stem not in images:
                raise InputError(f'{lists[split]}: names {stem}, which is not in {root / "JPEGImages"}')
            detections, names, difficult = _objects(images[stem], root / f'Annotations/{stem}.xml', names)
            samples[split].append((images[stem], detections, difficult))
    contents = {split: to_coco(root, samples[split], names) for split in samples}
    for content in contents.values():
        content['categories'].sort(key=lambda category: category['name'])
    return contents


def _first_words(file: Path) -> list[str]:
    return [line.split()[0] for line in read_text(file).splitlines() if line.strip()]


def _objects(image: Path, file: Path, names: list[str]) -> tuple['Detections | None', list[str], list[bool]]:
    """Return the objects of an image, all class names up to now, and for each object whether it is difficult."""
    if not file.is_file():
        return None, names, []
    try:
        from defusedxml.ElementTree import ParseError, parse
        from supervision.dataset.formats.pascal_voc import detections_from_xml_obj
    except ImportError as error:
        raise InputError(f'{file}: {NEEDS_PACKAGE}') from error
    try:
        tree = parse(file).getroot()
        detections, names = detections_from_xml_obj(tree, names, image_size(image))
    except (ParseError, ValueError) as error:
        raise InputError(f'{file}: {error}') from error
    return detections, names, [item.findtext('difficult', '0').strip() == '1' for item in tree.findall('object')]
