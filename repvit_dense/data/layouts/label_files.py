"""Images with label files anywhere in the folder, such as Pascal VOC, YOLO and LabelMe; see `label_formats`.

Images and label files are paired by their names. The splits are lists of images (`ImageSets/Main/train.txt` or
`train.txt`), else folders whose names stand for a split, in the order that `_splits` states.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from repvit_dense.data.annotations import Picture, build_source, describe, optional_test, refuse_faults, to_coco
from repvit_dense.data.image_lists import TEST_LISTS, TRAIN_LISTS, VAL_LISTS, find_lists, images_of_lists, some
from repvit_dense.data.label_formats import YOLO, Format, count_formats
from repvit_dense.data.lookup import in_test_folder, split_in_folders, split_of
from repvit_dense.data.pairing import KIND_WORD, Names, pair
from repvit_dense.data.reading import SUFFIXES, loaded_header, read_text
from repvit_dense.data.source import Source
from repvit_dense.errors import InputError
from repvit_dense.files import walk

TASKS: tuple[str, ...] = ('detection', 'instance')
EXPECTED = (
    'images and label files with their names, Annotations/*.xml (Pascal VOC) or labels/*.txt (YOLO) for example, or an '
    'export of LabelMe, CVAT, Label Studio, VIA or Supervisely beside its images'
)

LABEL_SUFFIXES = ('.txt', '.xml', '.json', '.names', '.labels')
CLASS_LISTS = ('classes.txt', 'obj.names', '_darknet.labels', 'predefined_classes.txt')  # of YOLO, and *.names

Splits = dict[str, list[Path]]


class Tree(NamedTuple):
    """The files in a folder.

    Attributes:
        images: the images.
        formats: the label files of each format.
        texts: other files that may be label files or name classes, by their suffix.
    """

    images: list[Path]
    formats: dict[Format, list[Path]]
    others: list[Path]


def recognise(root: Path) -> bool:
    """Return whether there are images and label files that belong to one data set, and not all in a folder below."""
    tree = _tree(root)
    if not tree.images or not tree.formats:
        return False
    return not _inner(root, tree)


def describe_formats(root: Path) -> str:
    """Return the formats of the label files that belong to images in a folder, with an example of each."""
    tree = _tree(root)
    return ', '.join(f'{format_.name} ({files[0].relative_to(root)})' for format_, files in tree.formats.items())


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set, with its labels converted to COCO annotations in `store`."""
    contents, notes = read_labels(root)
    notes[0] = f'{root}: {notes[0].replace(" labels:", f" labels, converted to {store}:", 1)}'
    return build_source(root, store, contents, {}, dict.fromkeys(contents, ''), task == 'instance', notes)


def _tree(root: Path) -> Tree:
    images: list[Path] = []
    others: list[Path] = []
    for path in walk(root, keep_unreadable=True):
        suffix = path.suffix.lower()
        if suffix in SUFFIXES or suffix in LABEL_SUFFIXES:
            (images if suffix in SUFFIXES else others).append(path)
    images = [path for path in images if not path.name.startswith('._')]
    others = [path for path in others if not path.name.startswith('._')]
    stems = {image.stem for image in images} if others else set()
    formats = count_formats(path for path in others if path.suffix.lower() != '.txt' or path.stem in stems)
    return Tree(images, formats, others)


def _inner(root: Path, tree: Tree) -> list[Path]:
    """Return folders in `root` that are data sets of their own; none if the files in `root` are one data set."""
    files = [file for files in tree.formats.values() for file in files]
    known = {*TRAIN_LISTS, *VAL_LISTS, *TEST_LISTS}
    if any(p.parent == root and (_names_classes(p) or p.stem.lower() in known) for p in tree.others):
        return []
    names = sorted({file.relative_to(root).parts[0] for file in files})
    with_images = {image.relative_to(root).parts[0] for image in tree.images}
    if any(f.parent == root for f in files) or any(split_of(name) or KIND_WORD.search(name) for name in names):
        return []
    if not with_images >= {*names}:
        return []
    formats = {
        name: {
            format_ for format_, paths in tree.formats.items() for p in paths if p.relative_to(root).parts[0] == name
        }
        for name in names
    }
    structured = any(KIND_WORD.search(path.name) for name in names for path in (root / name).iterdir())
    differ = len({frozenset(part) for part in formats.values()}) > 1
    return [root / name for name in names] if len(names) == 1 or differ or structured else []


def read_labels(root: Path) -> tuple[dict[str, dict], list[str]]:
    """Return split -> content of a COCO annotation file, and messages for the user.

    The categories are the names in the files that are trained or validated on, sorted; for YOLO, the names in the list
    of classes. A test split is left out if it cannot be read, or has other classes.
    Difficult objects become crowds, which neither training nor evaluation counts. An image without a label file has no
    objects if another image in its folder has one; else it is not used.

    Raises:
        InputError: a package is missing, or a file is not valid.
    """
    tree = _tree(root)
    format_, *unread = tree.formats
    notes: list[str] = []
    labels = _pair_files(root, tree, format_, notes) if format_.one_image else _pair_entries(root, tree, format_)
    splits = _splits(root, tree, labels, format_, notes)
    names = _yolo_names(root, tree, notes) if format_ is YOLO else None
    counts: Counter = Counter()
    tests = splits.pop('test', [])
    read = {split: list(_read(images, labels, format_, counts)) for split, images in splits.items()}
    refuse_faults([fault for part in read.values() for *_, faults in part for fault in faults])
    classes = sorted({name for part in read.values() for _, _, objects, _ in part for name, _ in objects})
    if not classes:
        raise InputError(f'{root}: no object in any of its {format_.name} label files')
    if format_ is YOLO:
        if names is None:
            names = [str(number) for number in range(max(map(int, classes)) + 1)]
            text = f'there is no classes.txt or obj.names, so the classes are called by their numbers, 0 to {names[-1]}'
            notes.append(f'{root}: {text}')
        classes = [str(number) for number in range(len(names))]
        _refuse_unnamed(labels, read, len(names))
    with optional_test(root, notes):
        if tests:
            read['test'] = _read_test(tests, labels, format_, classes)
    numbers = {name: number for number, name in enumerate(classes)}
    contents = {}
    for split, part in read.items():
        entries = (
            Picture(path, size, [{**entry, 'category_id': numbers[name]} for name, entry in objects])
            for path, size, objects, _ in part
        )
        contents[split] = to_coco(root, entries, names or classes)
    others = [
        f'{other.name} ({files[0].relative_to(root)})' for other, files in tree.formats.items() if other in unread
    ]
    if others:
        notes.append(f'{root}: also has labels of {", ".join(others)}, which are not used')
    return contents, [f'{format_.name} labels: {_summary(format_, counts)}', *notes]


def _pair_files(root: Path, tree: Tree, format_: Format, notes: list[str]) -> dict[Path, tuple[Path, Any]]:
    """Return image -> its label file, and None, because the file is read later."""
    foreign = {file for other, files in tree.formats.items() if other != format_ for file in files}
    files = [file for file in tree.others if file.suffix.lower() == format_.suffix and file not in foreign]
    pairs = pair(root, tree.images, files)
    if not pairs:
        raise InputError(
            f'{root}: has no label file for any of the {len(tree.images)} images; they need the same names'
        )
    unused = sorted(file.name for file in {*tree.formats[format_]} - {*pairs.values()})
    if unused:
        notes.append(f'{root}: {len(unused)} label files have no image and are not used: {some(unused)}')
    return {image: (file, None) for image, file in pairs.items()}


def _pair_entries(root: Path, tree: Tree, format_: Format) -> dict[Path, tuple[Path, Any]]:
    """Return image -> the file that lists it, and its labels there."""
    names = Names(root, tree.images)
    labels: dict[Path, tuple[Path, Any]] = {}
    for file in tree.formats[format_]:
        parts = format_.parts(file)
        paths = [names.find_end(name) if name else None for name, _ in parts]
        missing = [str(name) for (name, _), path in zip(parts, paths, strict=True) if path is None]
        if missing:
            raise InputError(
                f'{file}: {len(missing)} of its {len(parts)} images are not in {root}, or several have their name: '
                f'{some(missing)}'
            )
        for path, (_, part) in zip(filter(None, paths), parts, strict=True):
            if path in labels:
                raise InputError(f'{path}: is labelled twice, in {labels[path][0]} and in {file}; leave one of them')
            labels[path] = file, part
    return labels


def _splits(root: Path, tree: Tree, labels: dict, format_: Format, notes: list[str]) -> Splits:
    """Return split -> its images.

    If there are lists, they decide, see `image_lists`. Else folders do; if one stands for the validation or test split,
    images in no folder of a split are not used.
    """
    lists = find_lists(root, notes)
    if lists:
        return images_of_lists(lists, Names(root, tree.images), root, notes)
    texts = [path for path in tree.others if path.suffix.lower() == '.txt']
    nested = [path for path in texts if 'imagesets' in map(str.lower, path.relative_to(root).parts[:-1])]
    if nested:
        raise InputError(f'{root}: has lists of images in a folder below, {nested[0]}; name the folder with ImageSets')
    tests = [image for image in tree.images if in_test_folder(image.relative_to(root))]
    rest = sorted({*tree.images} - {*tests})
    folders = {image.parent for image in labels}
    used = [image for image in rest if (image.parent in folders if format_.one_image else image in labels)]
    if len(used) < len(rest):
        reason = 'have no labels, nor has any image in their folder,' if format_.one_image else 'are in no label file'
        others = sorted({*rest} - {*used})
        notes.append(f'{root}: {len(others)} images {reason} and are not used: {_some_paths(root, others)}')
    groups: dict[str, list[Path]] = {}
    for image in used:
        file = labels[image][0] if image in labels else image
        split = split_in_folders(image.relative_to(root)) or split_in_folders(file.relative_to(root))
        groups.setdefault(split or (not format_.one_image and split_of(file.stem)) or '', []).append(image)
    tests += groups.pop('test', [])
    loose = groups.pop('', [])
    if 'train' not in groups or ('val' not in groups and not tests):
        groups['train'], loose = sorted([*groups.get('train', []), *loose]), []
    if loose:
        notes.append(
            f'{root}: {len(loose)} images are in no folder of a split and are not used: {_some_paths(root, loose)}'
        )
    if not groups['train']:
        raise InputError(f'{root}: has no images to train on, only {len(tests)} of a test split')
    return {**groups, 'test': tests}


def _names_classes(file: Path) -> bool:
    return file.name.lower() in CLASS_LISTS or file.suffix.lower() == '.names'


def _yolo_names(root: Path, tree: Tree, notes: list[str]) -> list[str] | None:
    """Return the class names of YOLO labels, one per line of a file, or None if there is no such file."""
    files = filter(_names_classes, tree.others)
    lists = {
        file: [name.strip() for name in re.split('\r\n|[\r\n]', read_text(file).rstrip())] for file in sorted(files)
    }
    if not lists:
        return None
    file, names = next(iter(lists.items()))
    other = next((other for other in lists if lists[other] != names), None)
    if other is not None:
        raise InputError(f'{other}: lists other classes than {file}; leave one of them')
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated or not all(names):
        raise InputError(f'{file}: has {f"the class {repeated[0]!r} twice" if repeated else "an empty line"}')
    notes.append(f'{file}: names the {len(names)} classes')
    return names


def _refuse_unnamed(labels: dict, read: dict, number: int) -> None:
    beyond = [
        f'{labels[path][0]}: class {name}, but the classes are 0 to {number - 1}'
        for part in read.values()
        for path, _, objects, _ in part
        for name in dict.fromkeys(name for name, _ in objects)
        if int(name) >= number
    ]
    refuse_faults(beyond)


def _read_test(images: list[Path], labels: dict, format_: Format, classes: list[str]) -> list[tuple]:
    part = list(_read(images, labels, format_, Counter()))
    refuse_faults([fault for *_, faults in part for fault in faults])
    others = sorted({name for _, _, objects, _ in part for name, _ in objects} - {*classes})
    if others:
        raise InputError(f'it has objects of {some(others)}, a class that nothing is trained on')
    return part


def _read(
    images: list[Path], labels: dict[Path, tuple[Path, Any]], format_: Format, counts: Counter
) -> Iterator[tuple[Path, tuple[int, int], list[tuple[str, dict]], list[str]]]:
    """Yield path, size, class names and entries of the objects, and faults of the labels, of each image."""
    for image in images:
        try:
            header = loaded_header(image)
        except InputError as error:
            yield image, (0, 0), [], [str(error)]
            continue
        counts['turned'] += header.orientation > 1
        file, part = labels.get(image, (None, None))
        counts['labelled' if file else 'unlabelled'] += 1
        if file and format_.one_image:
            [(_, part)] = format_.parts(file)
        objects, faults = format_.parse(part, header.size, counts) if file else ([], [])
        counts['objects'] += len(objects)
        yield image, header.size, objects, [f'{file}: {fault}' for fault in faults]


def _summary(format_: Format, counts: Counter) -> str:
    """Describe the labels that were read, and everything that was assumed or changed."""
    texts = {
        'polygons': '{} have polygons',
        'masks': '{} have masks',
        'joined': '{} polygons belong to an object with others of their group',
        'rotated': '{} boxes are rotated, the upright box around each is taken',
        'no area': '{} points, lines and other labels without an area are left out',
        'several': '{} images have several annotations, of which the first one is taken',
        'difficult': '{} are difficult, which count neither in training nor in evaluation',
        'confidences': '{} lines have a sixth number, which is taken as a confidence and ignored',
        'repeated': '{} repeated lines are left out',
        'cut': '{} reach outside their image and are cut off at its border',
    }
    parts = [f'{counts["objects"]:,} objects{f", {format_.remark}" if format_.remark else ""}']
    return '; '.join([*parts, *describe(counts, texts)])


def _some_paths(root: Path, paths: list[Path]) -> str:
    return some([path.relative_to(root).as_posix() for path in paths])
