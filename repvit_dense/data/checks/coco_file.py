"""Checks that COCO instance and panoptic files share: classes, incomplete entries, duplicate ids, image files."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from repvit_dense.data.checks.report import Finding, findings_of
from repvit_dense.data.reading import ID, missing_keys
from repvit_dense.errors import InputError

NUMBER = (int, float)
IMAGE_KEYS = {'id': ID, 'file_name': str, 'height': NUMBER, 'width': NUMBER}


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


def complete_entries(name: str, entries: list[dict], required: dict) -> tuple[list[dict], list[Finding]]:
    """Return the entries that have all required keys, and a finding about the others.

    Args:
        name: plural noun for the entries.
        entries: a list of the annotation file.
        required: key -> type or types of its value.
    """
    incomplete = {number: keys for number, entry in enumerate(entries) if (keys := missing_keys(entry, required))}
    offenders = (f'number {number} lacks {", ".join(keys)}' for number, keys in incomplete.items())
    findings = findings_of('error', f'{{}} of the {len(entries):,} {name} are incomplete', offenders)
    return [entry for number, entry in enumerate(entries) if number not in incomplete], findings


def duplicate_ids(name: str, ids: list) -> list[Finding]:
    """Return a finding about ids that occur more than once; `name` is a noun for their owners."""
    if len(set(ids)) == len(ids):
        return []
    duplicates = (number for number, count in Counter(ids).items() if count > 1)
    return findings_of('error', f'{{}} {name} ids are used more than once', duplicates)


def existing_files(folder: Path, names: Iterable[str]) -> set[str]:
    """Return the names of files below `folder`, at least of those of `names` that exist.

    One walk through the folder takes less time than a query for each file.
    """
    files = {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}
    return files | {name for name in names if name not in files and (folder / name).is_file()}


def missing_images(folder: Path, records: list[dict]) -> list[Finding]:
    """Return a finding about images of an annotation file that do not exist in `folder`."""
    names = [record['file_name'] for record in records]
    files = existing_files(folder, names)
    message = f'{{}} of the {len(names):,} images that it lists are not in {folder}; is the download complete?'
    return findings_of('error', message, (name for name in names if name not in files))
