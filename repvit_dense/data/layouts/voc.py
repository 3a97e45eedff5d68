"""Pascal VOC: `JPEGImages/`, `Annotations/*.xml` and, optionally, lists of images in `ImageSets/Main`."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from repvit_dense.data.annotations import Picture, build_source, describe, refuse_faults, to_coco
from repvit_dense.data.lookup import child, in_test_folder, read_lines
from repvit_dense.data.reading import SUFFIXES, images_in, loaded_header
from repvit_dense.data.source import SPLITS, Source
from repvit_dense.data.voc_labels import parse_labels
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, is_folder, walk

TASKS: tuple[str, ...] = ('detection', 'instance')
EXPECTED = 'Annotations/*.xml and JPEGImages (Pascal VOC)'

LIST_FOLDERS = ('Main', '.', 'Segmentation', 'Layout')  # of ImageSets; the first one that holds lists is read
TRAIN_LISTS = ('train', 'training', 'trainval', 'default')  # CVAT calls the only list default
VAL_LISTS = ('val', 'valid', 'validation')
MOST = 5  # examples in a message


def recognise(root: Path) -> bool:
    """Return whether the folder has both `Annotations`, with an XML file, and `JPEGImages`."""
    labels = child(root, 'Annotations')
    return is_folder(child(root, 'JPEGImages')) and is_folder(labels) and any(map(_is_xml, walk(labels)))


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set, with its labels converted to COCO annotations in `store`."""
    contents, notes = read_labels(root)
    notes[0] = f'{root}: Pascal VOC labels, converted to {store}: {notes[0]}'
    return build_source(root, store, contents, {}, dict.fromkeys(SPLITS, ''), task == 'instance', notes)


def read_labels(root: Path) -> tuple[dict[str, dict], list[str]]:
    """Return split -> content of a COCO annotation file, and messages for the user.

    The training images are those of the first list that exists of `TRAIN_LISTS`; images of the validation list are
    removed from `trainval`. Other lists are not used. If there is no list at all, all images are training images. The
    categories are the names in the files of all splits, sorted. Difficult objects become crowds, which neither training
    nor evaluation counts. An image without a label file has no objects.

    Raises:
        InputError: a package is missing, or a file is not valid.
    """
    folder, label_folder = child(root, 'JPEGImages'), child(root, 'Annotations')
    images = _by_name(folder, images_in(folder))
    files = _by_name(label_folder, filter(_is_xml, walk(label_folder)))
    splits, notes = _splits(root, folder, images)
    counts: Counter = Counter()
    pictures = {split: list(_read_files(files, images, counts)) for split, images in splits.items()}
    refuse_faults([fault for part in pictures.values() for *_, faults in part for fault in faults])
    if not counts['labelled']:
        raise InputError(f'{label_folder}: has no label file for any of the {counts["unlabelled"]} images')
    names = sorted({name for part in pictures.values() for _, _, objects, _ in part for name, _ in objects})
    numbers = {name: number for number, name in enumerate(names)}
    contents = {}
    for split, part in pictures.items():
        entries = (
            Picture(path, size, [{**entry, 'category_id': numbers[name]} for name, entry in objects])
            for path, size, objects, _ in part
        )
        contents[split] = to_coco(root, entries, names)
    bases = {name.rpartition('/')[2] for name in images}
    unused = [file.name for name, file in files.items() if name not in images and name not in bases]
    if unused:
        notes.append(f'{label_folder}: {len(unused)} label files have no image and are not used: {_some(unused)}')
    return contents, [_summary(counts), *notes]


def _splits(root: Path, folder: Path, images: dict[str, Path]) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """Return split -> its images, see `read_labels`, and messages for the user."""
    lists, notes = _lists(child(root, 'ImageSets'))
    splits = {split: _listed(file, folder, images, notes) for split, file in lists.items()}
    if not splits:
        splits = {'train': {name: path for name, path in images.items() if not in_test_folder(PurePosixPath(name))}}
        if len(splits['train']) < len(images):
            notes.append(
                f'{folder}: {len(images) - len(splits["train"])} images in folders of a test split are not used'
            )
    elif 'val' in splits and lists['train'].stem.lower() == 'trainval':
        train = {name: path for name, path in splits['train'].items() if name not in splits['val']}
        notes.append(f'{lists["train"]}: {len(splits["train"]) - len(train)} of its images are left for validation')
        splits['train'] = train
    if not splits['train']:
        raise InputError(f'{lists.get("train", folder)}: has no images to train on')
    return splits, notes


def _is_xml(path: Path) -> bool:
    return path.suffix.lower() == '.xml' and not path.name.startswith('._')


def _by_name(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """Return name, relative to the folder and without suffix, -> file."""
    names: dict[str, Path] = {}
    for path in sorted(files):
        name = path.relative_to(folder).with_suffix('').as_posix()
        if name in names:
            raise InputError(f'{path}: {names[name].name} has the same name but for its suffix; keep one of them')
        names[name] = path
    return names


def _lists(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return split -> its list of images, and messages for the user; empty if there are no lists at all."""
    for name in LIST_FOLDERS if is_folder(folder) else ():
        texts = sorted(file for file in child(folder, name).glob('*.[tT][xX][tT]') if is_file(file))
        if texts:
            break
    else:
        others = [path for path in walk(folder) if path.suffix.lower() == '.txt'] if is_folder(folder) else []
        if others:
            raise InputError(f'{folder}: has lists of images, {others[0]}, but not in its folder Main')
        return {}, []
    stems = {file.stem.lower(): file for file in texts}
    choices = (('train', TRAIN_LISTS), ('val', VAL_LISTS))
    found = {split: stems[stem] for split, known in choices for stem in reversed(known) if stem in stems}
    if 'train' not in found:
        raise InputError(
            f'{texts[0].parent}: has {_some([file.name for file in texts])}, but no list of training images; expected '
            f'{", ".join(f"{stem}.txt" for stem in TRAIN_LISTS)}, and {VAL_LISTS[0]}.txt for evaluation'
        )
    notes = [] if name == 'Main' else [f'{texts[0].parent}: its lists are used, because ImageSets/Main has none']
    unused = [file.name for file in texts if file not in found.values()]
    if unused:
        notes.append(f'{texts[0].parent}: {found["train"].name} is trained on; not used: {_some(unused)}')
    return found, notes


def _listed(file: Path, folder: Path, images: dict[str, Path], notes: list[str]) -> dict[str, Path]:
    """Return the images in a list, one name per line, with or without suffix; VOC's -1 or 1 may follow.

    A name without folder stands for an image in a subfolder if there is only one of this name.
    """
    bases = Counter(name.rpartition('/')[2] for name in images)
    names = {base: name for name in images if bases[base := name.rpartition('/')[2]] == 1}
    names |= {name: name for name in images}
    lines = [(line, next((names[r] for r in _readings(line) if r in names), None)) for line in read_lines(file)]
    missing = [line for line, name in lines if name is None and not line.startswith('#')]
    if missing:
        raise InputError(f'{file}: names {_some(missing)}, which is not in {folder}')
    listed = [name for _, name in lines if name is not None]
    chosen = {name: images[name] for name in listed}
    if not chosen:
        raise InputError(f'{file}: names no images')
    if len(chosen) < len(listed):
        notes.append(f'{file}: {len(listed) - len(chosen)} repeated lines are left out')
    return chosen


def _readings(line: str) -> list[str]:
    """Return the names that a line may stand for: the whole line, and all but its last word."""
    names = []
    for reading in (line, line.rsplit(maxsplit=1)[0]):
        name = reading.replace('\\', '/').rpartition('JPEGImages/')[2].removeprefix('./')
        names += [name, name.rpartition('.')[0]] if name.lower().endswith(SUFFIXES) else [name]
    return names


def _read_files(
    files: dict[str, Path], images: dict[str, Path], counts: Counter
) -> Iterator[tuple[Path, tuple[int, int], list[tuple[str, dict]], list[str]]]:
    """Yield path, size, class names and entries of the objects, and faults of the labels, of each image."""
    for name, image in images.items():
        try:
            header = loaded_header(image)
        except InputError as error:
            yield image, (0, 0), [], [str(error)]
            continue
        size, file = header.size, files.get(name) or files.get(name.rpartition('/')[2])
        counts['turned'] += header.orientation > 1
        objects, faults = parse_labels(file, size, counts) if file else ([], [])
        counts['labelled' if file else 'unlabelled'] += 1
        yield image, size, objects, [f'{file}: {fault}' for fault in faults]


def _summary(counts: Counter) -> str:
    """Describe the labels that were read, and everything that was assumed or changed."""
    texts = {
        'polygons': '{} have polygons',
        'difficult': '{} are difficult, which count neither in training nor in evaluation',
        'cut': '{} reach outside their image and are cut off at its border',
    }
    parts = [f'{counts["objects"]:,} objects, the first pixel has the coordinate 1']
    return '; '.join([*parts, *describe(counts, texts)])


def _some(names: list[str]) -> str:
    """Return the first names, and the number of the others."""
    rest = f' and {len(names) - MOST:,} more' if len(names) > MOST else ''
    return ', '.join(names[:MOST]) + rest
