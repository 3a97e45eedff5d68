"""Class names and values of semantic masks: from lists of names, lists of colours, or the masks themselves."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from repvit_dense.data.image_lists import some
from repvit_dense.data.lookup import child
from repvit_dense.data.reading import read_json, read_pixels, read_text
from repvit_dense.errors import InputError
from repvit_dense.files import encode_image, is_file, replacing

CLASS_FILES = ('classes.txt', 'classes.json')
COLOUR_FILES = ('labelmap.txt', 'class_dict.csv', 'label_colors.txt')  # of CVAT, of Kaggle's data sets, of CamVid
VALUE_FILE = '_classes.csv'  # of Roboflow, beside the training images
IGNORED = 255  # label that the losses and the scores leave out
IGNORED_NAMES = ('void', 'ignore', 'ignored', 'unlabeled', 'unlabelled')
THREADS = 8
FEW_VALUES = 12  # of masks without a list of classes, if there are gaps between the values
CAMVID = re.compile('(0001TP|0006R0|0016E5|Seq05VD)_f?[0-9]+')  # names of all images of CamVid
CAMVID_CLASSES = (
    *('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist'),
    'void',
)

Colours = dict[tuple[int, ...], int]  # colour (red, green, blue) -> value


class Classes(NamedTuple):
    """The classes of semantic masks.

    Attributes:
        names: in label order.
        from_one: the values begin at 1, and 0 is ignored.
        label_map: value and label where the order of the names does not give it.
        notes: messages for the user.
        colours: the value of each colour, if a list of colours names the classes.
    """

    names: tuple[str, ...]
    from_one: bool
    label_map: tuple[tuple[int, int], ...]
    notes: list[str]
    colours: Colours


def class_files(root: Path) -> list[Path]:
    """Return the files in a folder that list the classes; the first one counts."""
    names = [*CLASS_FILES, *COLOUR_FILES]
    return [file for name in names if is_file(file := child(root, name))]


def read_classes(root: Path, files: list[Path], masks: Sequence[Path], stems: Sequence[str]) -> Classes:
    """Return the classes in the first of the files; without any, the values in the masks.

    Args:
        root: for messages.
        files: lists of classes, see `class_files`.
        masks: all masks.
        stems: names of all images without suffix.

    Raises:
        InputError: a list is not valid, or the masks have colours or too many values for class numbers.
    """
    colours: Colours = {}
    if files and files[0].name.lower() in COLOUR_FILES:
        values, colours = _read_colours(files[0])
    elif files:
        values = _read_values(files[0])
    elif all(CAMVID.fullmatch(stem.rpartition('/')[2]) for stem in stems):
        values = dict(enumerate(CAMVID_CLASSES))
    else:
        return _numbered_classes(root, masks)
    file = files[0] if files else root
    names, from_one, label_map = _labels(file, values)
    notes = [] if files else [f'{root}: recognised as CamVid in 11 classes by the names of its images; void is 11']
    notes += _notes(files, values)
    if len(names) == 2 and not label_map and not from_one and not colours and _is_black_and_white(masks):
        label_map = ((IGNORED, 1),)
        notes.append(f"{root}: the masks are black and white, so the value 255 is taken as '{names[1]}'")
    return Classes(names, from_one, label_map, notes, colours)


def _is_black_and_white(masks: Iterable[Path]) -> bool:
    seen: set[int] = set()
    for mask in masks:
        try:
            seen |= _values(mask)
        except InputError:
            return False  # the checks say why
        if not seen <= {0, IGNORED}:
            return False
    return IGNORED in seen


def _values(mask: Path) -> set[int]:
    import numpy as np

    pixels = read_pixels(mask)
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.bool_):
        raise InputError(f'{mask}: has colours instead of class numbers')
    return set(np.flatnonzero(np.bincount(pixels.astype(np.uint8).ravel(), minlength=256)).tolist())


def _numbered_classes(root: Path, masks: Sequence[Path]) -> Classes:
    """Return one class for each value in the masks, called by its number; 255 is ignored unless there is 0 only."""
    remedy = (
        "a folder with semantic masks needs its class names in classes.txt, one per line, in the order of the masks' "
        'values; masks in colours need labelmap.txt, with a line NAME:RED,GREEN,BLUE for each class'
    )
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            seen = set[int]().union(*pool.map(_values, masks))
    except InputError as error:
        raise InputError(f'{root}: {remedy} ({error})') from error
    values = sorted(seen if seen == {0, IGNORED} else seen - {IGNORED})
    dense = max(values, default=0) < 1.25 * len(values) + 1  # class numbers; shades of grey at an edge are not
    few = len(values) <= FEW_VALUES and IGNORED not in seen
    if len(values) < 2 or not (dense or few or IGNORED in values):
        raise InputError(f'{root}: {remedy}; the masks have the values {some(list(map(str, sorted(seen))))}')
    shown = some(list(map(str, values)))
    text = f'there is no classes.txt, so each of the {len(values)} values in the masks is a class: {shown}'
    if len(values) > 2:
        text += "; if one stands for pixels without a class, call it 'void' in a classes.txt"
    label_map = tuple((value, label) for label, value in enumerate(values) if value != label)
    return Classes(tuple(map(str, values)), False, label_map, [f'{root}: {text}'], {})


def _read_colours(file: Path) -> tuple[dict[int, str], Colours]:
    """Return value -> class name, and colour -> value, of a list with a name and a colour in each line."""
    lines = [line.strip() for line in re.split('[\r\n]+', read_text(file))]
    names: dict[int, str] = {}
    colours: Colours = {}
    for line in lines:
        match = re.fullmatch(r'(?P<a>[^#:,][^:,]*?)[\s:,]+(\d+)[\s,]+(\d+)[\s,]+(\d+)(:.*)?', line) or re.fullmatch(
            r'(\d+)\s+(\d+)\s+(\d+)\s+(?P<a>\S.*)', line
        )
        if match is None:
            if line and not line.startswith('#') and any(c.isdigit() for c in line):
                raise InputError(f'{file}: the line {line!r} is not a class name with a colour')
            continue  # a heading
        colour = tuple(int(number) for number in match.groups() if number is not None and number.isdigit())[:3]
        if colour in colours:
            raise InputError(f"{file}: '{match['a']}' has the colour of '{names[colours[colour]]}'")
        colours[colour] = len(names)
        names[len(names)] = match['a'].strip()
    if not names:
        raise InputError(f'{file}: expected lines with a class name and its colour, such as road:128,64,128')
    return names, colours


def convert_colours(masks: Sequence[Path], targets: Sequence[Path], colours: Colours) -> None:
    """Write masks whose colours are replaced by values.

    Raises:
        InputError: a mask has another colour.
    """
    import numpy as np

    codes = {red << 16 | green << 8 | blue: value for (red, green, blue), value in colours.items()}

    def convert(paths: tuple[Path, Path]) -> None:
        mask, target = paths
        pixels = read_pixels(mask, 'RGB').astype(np.uint32)
        seen, places = np.unique(pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2], return_inverse=True)
        unknown = [f'{code >> 16},{code >> 8 & 255},{code & 255}' for code in seen.tolist() if code not in codes]
        if unknown:
            raise InputError(f'{mask}: has colours that the list of classes lacks: {some(unknown)}')
        values = np.array([codes[code] for code in seen.tolist()], np.uint8)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, flush=False) as partial:
            partial.write_bytes(encode_image(values[places.reshape(pixels.shape[:2])], '.png'))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(convert, zip(masks, targets, strict=True)))


def _notes(files: list[Path], values: dict[int, str]) -> list[str]:
    """Return messages about values that are ignored, and about files that are not used."""
    if not files:
        return []
    notes = [f'{other}: not used, because there is {files[0].name}' for other in files[1:]]
    if min(values) == 1:
        notes.append(f'{files[0]}: the names begin at the value 1, so pixels of value 0 are ignored')
    numbered = [re.match(r'(\d+)(?=[\s:.,=-]+\D)', name) for name in values.values()]
    numbers = [int(match[1]) for match in numbered if match]
    if len(numbers) == len(values) > 1 and sorted(numbers) in (
        list(range(len(values))),
        list(range(1, len(values) + 1)),
    ):
        value, name = next(iter(values.items()))
        notes.append(f'{files[0]}: the numbers in the names are not used as values; the value {value} is {name!r}')
    ignored = [f"{value} ('{name}')" for value, name in values.items() if name.lower() in IGNORED_NAMES]
    if ignored:
        notes.append(f'{files[0]}: pixels of value {", ".join(ignored)} are ignored, because of the name')
    return notes


def _read_values(file: Path) -> dict[int, str]:
    """Return value in the masks -> class name, in ascending order."""
    pairs: dict[int, object]
    if file.name.lower() == VALUE_FILE:
        rows = [line.partition(',') for line in re.split('[\r\n]+', read_text(file)) if line.strip()]
        pairs = {int(value): name.strip() for value, _, name in rows if value.strip().isdecimal()}
    elif file.suffix.lower() == '.txt':
        pairs = dict(enumerate(map(str.strip, re.split('\r\n|[\r\n]', read_text(file).rstrip()))))
        for number, name in pairs.items():
            if len(pairs) > 1 and (not name or str(name).startswith('#')):
                raise InputError(f'{file}: line {number + 1} is {name!r}, but each line must be the name of a class')
    else:
        content = read_json(file)
        pairs = dict(enumerate(content)) if isinstance(content, list) else _numbered(file, content)
    values = {value: str(name).strip() for value, name in sorted(pairs.items()) if type(name) in (str, int)}
    if len(values) < len(pairs) or '' in values.values() or any('\t' in name for name in values.values()) or not values:
        raise InputError(f'{file}: expected class names, which are text without tabs')
    return values


def _numbered(file: Path, content: object) -> dict[int, object]:
    keys = list(content) if isinstance(content, dict) else ['']
    wrong = [key for key in keys if not (key.isascii() and key.isdecimal() and str(int(key[:9])) == key)]
    if wrong or not isinstance(content, dict):
        shown = f', but a key is {wrong[0]!r}' if isinstance(content, dict) else ''
        raise InputError(f'{file}: expected a list of names, or an object such as {{"0": "road"}}{shown}')
    return {int(key): name for key, name in content.items()}


def _labels(file: Path, values: dict[int, str]) -> tuple[tuple[str, ...], bool, tuple[tuple[int, int], ...]]:
    """Return the class names, whether the values begin at 1, and value and label where the order does not give it."""
    ignored = {value for value, name in values.items() if name.lower() in IGNORED_NAMES}
    classes = [name for value, name in values.items() if value not in ignored]
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise InputError(f"{file}: two values have the name '{repeated[0]}'; expected unique class names")
    first, numbers = min(values), [value for value in values if value not in ignored or value < IGNORED]
    if not classes or first > 1 or max(numbers) >= IGNORED or numbers != list(range(first, first + len(numbers))):
        raise InputError(
            f'{file}: expected unique class names for the values 0, 1, 2, ... or 1, 2, 3, ... up to 254 at most, '
            f'without a gap; it has names for {some(list(map(str, values)))}'
        )
    labels = dict.fromkeys(ignored, IGNORED) | {v: n for n, v in enumerate(v for v in values if v not in ignored)}
    changed = sorted((value, label) for value, label in labels.items() if value != IGNORED and label != value - first)
    return tuple(classes), first == 1, tuple(changed)
