"""The formats of label files that are paired with images wherever they are: one row each."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from repvit_dense.data import cvat_labels, json_labels, voc_labels, yolo_labels
from repvit_dense.data.json_labels import Objects, Parts
from repvit_dense.data.reading import read_text
from repvit_dense.errors import InputError
from repvit_dense.files import open_regular

HEAD = 2**16  # bytes at each end of a file that tell its format
MOST_CLASSES = 10_000  # of YOLO labels without class names, whose highest number counts


class Format(NamedTuple):
    """A format of label files.

    Attributes:
        name: for messages.
        suffix: of the files.
        marks: occurs in the first or last bytes of a file.
        remark: what the numbers mean, for messages.
        parse: returns the objects of one part for an image of a size, adds to counts, and lists faults.
        parts: returns the images that a file is about, and their labels; a name of None stands for the image with the
            name of the file.
        one_image: a file is about one image, the one with its name.
    """

    name: str
    suffix: str
    marks: re.Pattern
    remark: str
    parse: Callable[[Any, tuple[int, int], Counter], Objects]
    parts: Callable[[Path], Parts] = lambda file: [(None, file)]
    one_image: bool = True


def _parse_yolo(file: Path, size: tuple[int, int], counts: Counter) -> Objects:
    entries, faults = yolo_labels.parse_labels(read_text(file), size, MOST_CLASSES, counts)
    return [(str(entry['category_id']), entry) for entry in entries], faults


YOLO = Format('YOLO', '.txt', re.compile(r'\A\ufeff?\s*\d+(\.0*)?([ \t]+[-+.\deE]+){4,}[ \t]*$', re.M), '', _parse_yolo)
# If there are files of several formats, the first one is read.
FORMATS = (
    Format(
        'Pascal VOC',
        '.xml',
        re.compile('<annotation[\\s>]'),
        'the first pixel has the coordinate 1',
        voc_labels.parse_labels,
    ),
    Format(
        'LabelMe',
        '.json',
        re.compile(r'"shapes"\s*:\s*\['),
        '',
        json_labels.parse_labelme,
        json_labels.labelme_parts,
    ),
    Format(
        'Supervisely',
        '.json',
        re.compile(r'\A(?=[\s\S]*"objects"\s*:\s*\[)(?=[\s\S]*"size"\s*:\s*\{)'),
        '',
        json_labels.parse_supervisely,
        json_labels.supervisely_parts,
    ),
    YOLO,
    Format(
        'CVAT',
        '.xml',
        re.compile(r'<annotations[\s>]'),
        '',
        cvat_labels.parse_cvat,
        cvat_labels.cvat_parts,
        one_image=False,
    ),
    Format(
        'VGG Image Annotator',
        '.json',
        re.compile(r'"_via_img_metadata"|"region_attributes"|\A\s*\{\s*"[^"]*"\s*:\s*\{[^{}]*"regions"\s*:'),
        '',
        partial(json_labels.parse_items, json_labels.via_region),
        json_labels.via_parts,
        one_image=False,
    ),
    Format(
        'Label Studio',
        '.json',
        re.compile(r'\A\s*\[[\s\S]*("original_width"|"(rectangle|polygon|brush|ellipse)labels"|"file_upload")'),
        '',
        json_labels.parse_label_studio,
        json_labels.label_studio_parts,
        one_image=False,
    ),
)


def format_of(file: Path) -> Format | None:
    """Return the format of a file by its suffix and its content."""
    formats = [format_ for format_ in FORMATS if file.suffix.lower() == format_.suffix]
    if not formats or file.name.startswith('.'):
        return None
    text = read_head(file)
    return next((format_ for format_ in formats if format_.marks.search(text)), None)


def read_head(file: Path) -> str:
    """Return the first and the last characters of a text file; none if it cannot be read."""
    try:
        with open_regular(file) as stream:
            content = stream.read(HEAD)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(len(content), size - HEAD))
            return (content + stream.read(HEAD)).decode('utf-8', 'replace')
    except (InputError, OSError):
        return ''


def count_formats(files: Iterable[Path]) -> dict[Format, list[Path]]:
    """Return the files of each format, in the order of `FORMATS`; those of no format are left out."""
    groups: dict[Format, list[Path]] = {}
    for file in files:
        if (format_ := format_of(file)) is not None:
            groups.setdefault(format_, []).append(file)
    return dict(sorted(groups.items(), key=lambda group: FORMATS.index(group[0])))
