"""Checks that COCO instance and panoptic files share: classes, values, ids, references and image files."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from repvit_dense.data.checks.report import Finding, ImageEntry, findings_of
from repvit_dense.data.reading import is_id, remedy_for_float
from repvit_dense.errors import InputError, shorten
from repvit_dense.files import is_file
from repvit_dense.image_header import MAX_PIXELS

LARGEST = 1e15  # of the numbers in an annotation file, except for ids


class Kind(NamedTuple):
    """The values that a key may have.

    Attributes:
        text: description for a message.
        holds: returns whether a value is one of them; it gets None for a missing key.
        remedy: for a missing key.
    """

    text: str
    holds: Callable[[Any], bool]
    remedy: str = ''


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a finite number; NaN, infinity and booleans are not."""
    return type(value) in (int, float) and -LARGEST < value < LARGEST


def is_side(value: Any) -> bool:
    """Return whether a JSON value is a possible width or height."""
    return type(value) is int and 1 <= value <= MAX_PIXELS


def is_box(value: Any) -> bool:
    """Return whether a JSON value is a list of four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def is_flag(value: Any) -> bool:
    """Return whether loaders read a JSON value as it is meant; the text '0' would count as true."""
    return value is None or (not isinstance(value, str) and value in (0, 1))


ID = Kind('a whole number or text', is_id)
SIDE = Kind('a positive whole number of pixels', is_side)
BOX = Kind('four numbers x, y, width, height in pixels', is_box)
FLAG = Kind('0 or 1', is_flag)
AREA = Kind('a number of square pixels', is_number, ' (--data PATH adds it)')
FILE = Kind('a file name', lambda value: isinstance(value, str) and value.strip() != '')
IMAGE = {'id': ID, 'file_name': FILE, 'height': SIDE, 'width': SIDE}


def check_classes(file: Path, in_file: list[str], in_config: list[str]) -> None:
    """Refuse class names of a file that differ from those of the config, or have another order.

    mmdet numbers the classes in the order of the file, so another order would shift the labels.

    Raises:
        InputError: the message names the first difference.
    """
    duplicates = [name for name, count in Counter(in_file).items() if count > 1]
    if duplicates:
        raise InputError(f'{file}: two categories are called {duplicates[0]}; labels would shift. Rename or merge them')
    missing = [name for name in in_config if name not in in_file]
    if missing:
        raise InputError(
            f'{file} has no class {", ".join(missing[:5])}{", ..." if len(missing) > 5 else ""}; it has '
            f'{", ".join(in_file[:10])}{", ..." if len(in_file) > 10 else ""}. Name the classes of your data in '
            "the config, for train, val and test: dataset=dict(metainfo=dict(classes=('...', ...)))"
        )
    shared = [name for name in in_file if name in in_config]
    if shared != in_config:
        first = next(i for i, (a, b) in enumerate(zip(shared, in_config, strict=True)) if a != b)
        raise InputError(
            f"{file} and the config order the classes differently (number {first}: '{shared[first]}' in the file, "
            f"'{in_config[first]}' in the config), so labels would shift. Use the order of the file."
        )


def similar_names(names: list[str]) -> list[Finding]:
    """Return a finding about class names that differ only in spaces, in upper and lower case, or invisibly."""
    groups: dict[str, list[str]] = {}
    for name in names:
        shown = (c for c in unicodedata.normalize('NFKC', name) if not c.isspace() and unicodedata.category(c) != 'Cf')
        groups.setdefault(''.join(shown).casefold(), []).append(name)
    pairs = (' and '.join(map(repr, group)) for group in groups.values() if len(group) > 1)
    return findings_of(
        'warning', '{} class names differ only in spaces, capitals or invisibly; are they one class?', pairs
    )


def complete_entries(name: str, entries: list[dict], kinds: dict[str, Kind]) -> tuple[list[dict], list[Finding]]:
    """Return the entries in which all keys have a value of their kind, and a finding about the others.

    Args:
        name: plural noun for the entries.
        entries: a list of the annotation file.
        kinds: key -> kind of its value.
    """
    faulty = {number: faults for number, entry in enumerate(entries) if (faults := faults_of(entry, kinds))}
    offenders = (f'{_label(number, entries[number])}: {"; ".join(faults)}' for number, faults in faulty.items())
    findings = findings_of('error', f'{{}} of the {len(entries):,} {name} have missing or impossible values', offenders)
    return [entry for number, entry in enumerate(entries) if number not in faulty] if faulty else entries, findings


def _label(number: int, entry: dict) -> str:
    return f'id {entry["id"]}' if 'id' in entry else f'number {number}'


def faults_of(entry: dict, kinds: dict[str, Kind]) -> list[str]:
    """Return a description of each key whose value is not of its kind."""
    return [
        f'{key} is {_shown(entry[key])}, not {kind.text}{_remedy(entry[key], kind)}'
        if key in entry
        else f'{key} is missing{kind.remedy}'
        for key, kind in kinds.items()
        if not kind.holds(entry.get(key))
    ]


def _remedy(value: Any, kind: Kind) -> str:
    text = remedy_for_float(value)
    return text if text and kind.holds(int(value)) else ''


def _shown(value: Any) -> str:
    try:
        return shorten(repr(value), 40)
    except RecursionError:
        return 'nested too deeply'


def duplicate_ids(name: str, ids: list) -> list[Finding]:
    """Return a finding about ids that occur more than once, 1 and '1' among them; `name` is a noun for their owners."""
    ids = list(map(str, ids))
    if len(set(ids)) == len(ids):
        return []
    duplicates = (number for number, count in Counter(ids).items() if count > 1)
    return findings_of('error', f'{{}} {name} ids are used more than once', duplicates)


def unlisted(annotations: list[dict], noun: str, entries: list[dict], level: str, result: str = '') -> list[Finding]:
    """Return findings about annotations that refer to an image or a category that does not exist.

    Args:
        annotations: complete entries.
        noun: 'image' or 'category'.
        entries: all images or categories.
        level: of the finding.
        result: effect of the fault, for the message.
    """
    key = f'{noun}_id'
    known = {entry['id'] for entry in entries if 'id' in entry}
    unknown = [entry for entry in annotations if entry[key] not in known]
    texts = set(map(str, known)) if unknown else set()
    twins: list[str] = []
    orphans: list[str] = []
    for entry in unknown:
        name = f'annotation {entry["id"]}: ' if 'id' in entry else f'{key} '
        (twins if str(entry[key]) in texts else orphans).append(f'{name}{entry[key]!r}')
    alike = f'{{}} annotations have a text as {key}, and the {noun} has a number as id, or vice versa'
    return [
        *findings_of('error', alike, twins),
        *findings_of(level, f'{{}} annotations have an unknown {key}, which no {noun} has{result}', orphans),
    ]


def image_findings(records: list[dict], min_size: int = 0) -> list[Finding]:
    """Return findings about images that are listed twice, impossibly large, or too small to be used.

    Args:
        records: complete entries of the images.
        min_size: the data set drops images whose shorter side is below this, in pixels.
    """
    repeated = (name for name, count in Counter(record['file_name'] for record in records).items() if count > 1)
    huge = (r['file_name'] for r in records if r['width'] * r['height'] > MAX_PIXELS)
    small = [r['file_name'] for r in records if min(r['height'], r['width']) < min_size]
    left_out = f'{{}} images have a side under {min_size} pixels and are left out (filter_cfg.min_size)'
    return [
        *findings_of('warning', '{} image files are listed more than once, as different images', repeated),
        *findings_of('error', f'{{}} images have more than {MAX_PIXELS:,} pixels', huge),
        *findings_of('error' if len(small) == len(records) else 'warning', left_out, small),
    ]


def existing_files(folder: Path, names: Iterable[str]) -> set[str]:
    """Return those of the names that exist below `folder`, of whatever kind of file.

    One listing of each folder takes less time than a query for each name.

    Raises:
        InputError: a folder cannot be read.
    """
    existing: set[str] = set()
    by_folder: defaultdict[str, list] = defaultdict(list)
    for name in names:
        below, last = os.path.split(name)
        by_folder[below].append((name, last))
    for below, children in by_folder.items():
        try:
            listed = set(os.listdir(folder / below))  # noqa: PTH208  names are enough
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no folder can have this name
            continue
        except OSError as error:
            raise InputError(f'{folder / below}: cannot be read ({error.strerror})') from error
        existing |= {name for name, last in children if last in listed or is_file(folder / name)}
    return existing


def missing_images(folder: Path, records: list[dict]) -> list[Finding]:
    """Return a finding about images of an annotation file that do not exist in `folder`."""
    names = [record['file_name'] for record in records]
    files = existing_files(folder, names)
    message = f'{{}} of the {len(names):,} images that it lists are not in {folder}; is the download complete?'
    return findings_of('error', message, (name for name in names if name not in files))


def listed_images(folder: Path, records: list[dict], maps: Path | None = None) -> list[ImageEntry]:
    """Return the images of an annotation file, with the sizes that it gives and their panoptic maps."""
    entries = []
    for record in records:
        name = record['file_name']
        path = os.path.join(folder, name)  # noqa: PTH118  thousands of Path objects take seconds
        mask = os.path.join(maps, name.replace('.jpg', '.png')) if maps else ''  # noqa: PTH118  named as in mmdet
        entries.append(ImageEntry(name, path, (record['width'], record['height']), mask))
    return entries
