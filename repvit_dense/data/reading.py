"""Read images, text and annotation files, and encode masks.

`--help` imports this module, so numpy and Pillow are imported inside the functions that need them.
"""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.errors import InputError, shorten
from repvit_dense.files import open_regular, read_bytes, walk
from repvit_dense.image_header import Header, read_header
from repvit_dense.memory import no_collector

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree.ElementTree import Element

    import numpy as np

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
YAML_BYTES, YAML_NODES = 1_000_000, 100_000
UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')  # control characters, halves of characters
NEEDS_PACKAGE = 'reading this layout needs one more package: pip install repvit_dense[convert]'
COCO_LISTS = ('images', 'annotations', 'categories')
IDS = ('id', 'image_id', 'category_id')  # keys of ids in them


def images_in(folder: Path) -> list[Path]:
    """Return all images in a folder and its subfolders, sorted by path; links are followed, see `files.walk`.

    Files named `._*`, which macOS writes beside the real ones, are left out.
    """
    return sorted(filter(is_image_name, walk(folder)))


def is_image_name(path: Path) -> bool:
    """Return whether a file has the suffix of an image and is not one that macOS writes beside the real ones."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith('._')


def read_text(file: Path, limit: int | None = None) -> str:
    """Return the content of a UTF-8 text file, without a byte order mark.

    Raises:
        InputError: the file does not exist, cannot be opened, is not UTF-8 or has more than `limit` bytes.
    """
    try:
        return read_bytes(file, limit).decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise InputError(f'{file}: cannot be read as text ({error})') from error


def read_json(file: Path, limit: int | None = None) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: the file cannot be read, has more than `limit` bytes or is not valid JSON, or an object has the same
            key twice.
    """
    text = read_text(file, limit)
    try:
        with no_collector():  # JSON has no reference cycles; parsing takes half the time without the collector
            return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{file}: not valid JSON ({error})') from error


def read_xml(file: Path) -> 'Element':
    """Return the first element of an XML file; entities are refused.

    Raises:
        InputError: a package is missing, or the file cannot be read.
        ValueError: the file is not valid XML.
    """
    try:
        from defusedxml.ElementTree import ParseError, fromstring
    except ImportError as error:
        raise InputError(f'{file}: {NEEDS_PACKAGE}') from error
    content = read_bytes(file)
    try:
        return fromstring(content)
    except (ParseError, LookupError, RecursionError, ValueError) as error:  # LookupError: an unknown encoding
        raise ValueError(f'cannot be read as XML ({error})') from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raise ValueError if a key occurs twice, of which Python would take the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f'the key {key!r} occurs twice in one object')
    return content


def read_yaml(file: Path) -> Any:
    """Return the content of a YAML file; tags of Python objects are refused.

    Raises:
        InputError: the file cannot be read, has more than a megabyte, is not valid YAML, has the same key twice in a
            mapping, or its aliases stand for more than `YAML_NODES` nodes.
    """
    import yaml

    text = read_text(file, YAML_BYTES)
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is not None and _count_nodes(root, {}) > YAML_NODES:
            raise ValueError(f'its aliases stand for more than {YAML_NODES:,} nodes')
        return yaml.safe_load(text)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, RecursionError) as error:
        # PyYAML raises all of them, for an impossible date for example
        raise InputError(f'{file}: cannot be read as YAML ({" ".join(str(error).split())})') from error


def _count_nodes(node: Any, counts: dict[int, int]) -> int:
    """Return the number of nodes after all aliases are replaced; raise ValueError for a duplicate key or a cycle."""
    if id(node) not in counts:
        counts[id(node)] = YAML_NODES + 1  # found again inside itself
        children: Any = [node.value] if isinstance(node.value, str) else node.value
        if node.id == 'mapping':
            keys = [key.value for key, _ in children if isinstance(key.value, str)]
            if len(set(keys)) < len(keys):
                raise ValueError(f'the key {max(keys, key=keys.count)!r} occurs twice in one mapping')
            children = [part for pair in children for part in pair]
        counts[id(node)] = 1 + sum(_count_nodes(part, counts) for part in children if not isinstance(part, str))
    return counts[id(node)]


def read_coco(file: Path) -> dict:
    """Return the content of a COCO annotation file.

    The lists `images`, `annotations` and `categories` hold dictionaries. Every category has an id and a name that can
    be printed. The ids in the other lists are missing, or whole numbers or text. All other values are not checked.

    Raises:
        InputError: the file cannot be read, is not JSON or is not a COCO annotation file.
    """
    content = read_json(file)
    check_coco(file, content)
    return content


def check_coco(file: Path, content: Any) -> None:
    """Raise InputError unless this is the content of a COCO annotation file, see `read_coco`."""
    missing = [key for key in COCO_LISTS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise InputError(f'{file}: not COCO annotations, it lacks the lists {", ".join(missing)}')
    for key in COCO_LISTS:
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise InputError(f'{file}: not COCO annotations, an entry of {key} is not a JSON object')
    for key, list_name in (('id', 'categories'), *((k, n) for n in COCO_LISTS[:2] for k in IDS)):
        entries = content[list_name]
        wrong = [number for number, entry in enumerate(entries) if key in entry and not is_id(entry[key])]
        if wrong:
            value = entries[wrong[0]][key]
            raise InputError(
                f'{file}: {len(wrong):,} of the {len(entries):,} {list_name} have neither a whole number nor text '
                f'as {key}; number {wrong[0]} has {shorten(value)}{remedy_for_float(value)}'
            )
    for number, category in enumerate(content['categories']):
        name = category.get('name')
        if 'id' not in category or not isinstance(name, str):
            fault = 'no id' if 'id' not in category else f'{shorten(repr(name))} as name, which must be text'
            raise InputError(f'{file}: category number {number} has {fault}')
        if not name.strip() or UNPRINTABLE.search(name):
            raise InputError(f'{file}: the category {category["id"]} is called {name!r}; give it a name of plain text')


def remedy_for_float(value: Any) -> str:
    """Return what to do about a whole number that is written with a fraction; nothing for any other value."""
    if type(value) is not float or not value.is_integer():
        return ''
    return f'; write {value:.0f} without a fraction (--data FOLDER does so in a copy, for objects with boxes or masks)'


def is_id(value: Any) -> bool:
    """Return whether a value of a JSON file can be an id: a whole number or text; booleans are neither."""
    return type(value) in (int, str)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return width and height of an image in pixels as the loaders of mmdet and mmseg see them; see `loaded_header`."""
    return loaded_header(path).size


def loaded_header(path: str | Path) -> Header:
    """Return the size of an image as the image loaders decode it; it is decoded only if its header leaves a doubt.

    Raises:
        InputError: the loaders cannot read the file.
    """
    header = read_header(path)
    if not header.doubt:
        return header
    import cv2
    import numpy as np

    content = read_bytes(path)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError):
        pixels = None
    # Some builds of OpenCV fill the missing part of a truncated JPEG with grey: its end follows its last scan.
    if pixels is None or (content[:2] == b'\xff\xd8' and content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda')):
        raise InputError(f'{path}: cannot be read as an image (OpenCV cannot decode it; {header.doubt})')
    height, width = pixels.shape[:2]
    turned = header.orientation > 4 and (width, height) == header.size
    return Header(width, height, header.orientation if turned or header.orientation <= 4 else 1)


def read_pixels(path: Path, mode: str | None = None) -> 'np.ndarray':
    """Return the pixels of an image, `(H, W)` or `(H, W, C)`; for an image with a palette, the palette indices.

    Args:
        path: the image file.
        mode: Pillow mode to convert to, such as 'RGB'.

    Raises:
        InputError: the file is not an image.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with open_regular(path) as file, Image.open(file) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        read_header(path)  # says more
        raise InputError(f'{path}: cannot be read as an image (of a format that Pillow does not know)') from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f'{path}: has too many pixels, at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} are read'
        ) from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise InputError(f'{path}: cannot be read as an image ({error})') from error


def mask_window(mask: 'np.ndarray', box: 'Sequence[float] | None' = None) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a part of a mask `(H, W)` bool that holds all its pixels.

    Args:
        mask: zero outside the part.
        box: x1 y1 x2 y2 of the object; the part is this box if it holds all pixels, which is found fastest.
    """
    import cv2
    import numpy as np

    if box is not None and all(map(math.isfinite, box)):
        height, width = mask.shape
        left, top = (min(max(0, math.floor(side) - 1), end) for side, end in zip(box[:2], (width, height), strict=True))
        right, bottom = (
            max(0, min(end, math.ceil(side) + 1)) for side, end in zip(box[2:], (width, height), strict=True)
        )
        if np.count_nonzero(mask) == np.count_nonzero(mask[top:bottom, left:right]):
            return left, top, max(left, right), max(top, bottom)
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return left, top, left + width, top + height


def run_lengths(mask: 'np.ndarray', box: 'Sequence[float] | None' = None) -> dict:
    """Encode a binary mask `(H, W)` as COCO's compressed RLE, ready for JSON: `size` and `counts`.

    Only a box around the mask is searched for runs; pycocotools' own encoder goes through the whole image. `box` is one
    that probably holds the mask.
    """
    import numpy as np

    height, width = mask.shape
    mask = np.asarray(mask, bool)
    left, top, right, bottom = mask_window(mask, box)
    columns, rows = right - left, bottom - top
    bordered = np.zeros((columns, rows + 2), bool)  # runs go down the columns
    bordered[:, 1:-1] = mask[top:bottom, left:right].T
    column, row = np.divmod(np.flatnonzero(bordered[:, 1:] != bordered[:, :-1]), rows + 1)
    ends = (left + column) * height + top + row
    joined = np.flatnonzero(ends[1:-1:2] == ends[2::2])  # a run that goes on at the top of the next column
    ends = np.delete(ends, [2 * joined + 1, 2 * joined + 2])
    counts = np.diff(ends, prepend=0, append=height * width)
    counts = counts[: len(counts) - (counts[-1] == 0 and len(counts) > 1)]
    return {'size': [height, width], 'counts': _compress(counts)}


def _compress(counts: 'np.ndarray') -> str:
    """Return run lengths in COCO's letters of 5 bits; from the fourth on, each is the change from the last but one."""
    import numpy as np

    rest, letters = counts.astype(np.int64), []
    rest[3:] -= counts[1:-2]
    goes_on = np.ones(len(rest), bool)
    while goes_on.any():
        low, rest = rest & 31, rest >> 5
        more = goes_on & np.where(low & 16, rest != -1, rest != 0)
        letters.append(np.where(goes_on, 48 + low + 32 * more, 0))
        goes_on = more
    text = np.stack(letters, axis=1).astype(np.uint8).ravel()
    return text[text > 0].tobytes().decode()
