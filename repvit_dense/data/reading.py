"""Read images, text and annotation files, and encode masks.

`--help` imports this module, so numpy and Pillow are imported inside the functions that need them.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.errors import InputError
from repvit_dense.files import read_bytes, walk
from repvit_dense.memory import no_collector

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
ID = (int, str)  # types of an id in an annotation file
YAML_BYTES, YAML_NODES = 1_000_000, 100_000
COCO_LISTS = ('images', 'annotations', 'categories')


def images_in(folder: Path) -> list[Path]:
    """Return all images in a folder and its subfolders, sorted by path; links are followed, see `files.walk`.

    Files named `._*`, which macOS writes beside the real ones, are left out.
    """
    return sorted(p for p in walk(folder) if p.suffix.lower() in SUFFIXES and not p.name.startswith('._'))


def read_text(file: Path, limit: int | None = None) -> str:
    """Return the content of a UTF-8 text file, without a byte order mark.

    Raises:
        InputError: the file does not exist, cannot be opened, is not UTF-8 or has more than `limit` bytes.
    """
    try:
        return read_bytes(file, limit).decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise InputError(f'{file}: cannot be read as text ({error})') from error


def read_json(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: the file cannot be read or is not valid JSON, or an object has the same key twice.
    """
    text = read_text(file)
    try:
        with no_collector():  # JSON has no reference cycles; parsing takes half the time without the collector
            return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{file}: not valid JSON ({error})') from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raise ValueError if a key occurs twice, of which Python would take the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'the key {max(keys, key=keys.count)!r} occurs twice in one object')
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

    The lists `images`, `annotations` and `categories` hold dictionaries, and every category has an id and a name. All
    other values are not checked.

    Raises:
        InputError: the file cannot be read, is not JSON or is not a COCO annotation file.
    """
    content = read_json(file)
    missing = [key for key in COCO_LISTS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise InputError(f'{file}: not COCO annotations, it lacks the lists {", ".join(missing)}')
    for key in COCO_LISTS:
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise InputError(f'{file}: not COCO annotations, an entry of {key} is not a JSON object')
    if any(missing_keys(category, {'id': ID, 'name': str}) for category in content['categories']):
        raise InputError(f'{file}: not COCO annotations, a category has no id or no name')
    return content


def missing_keys(entry: dict, required: dict[str, type | tuple[type, ...]]) -> list[str]:
    """Return the required keys that an entry lacks or holds with a value of another type."""
    return [key for key, types in required.items() if not isinstance(entry.get(key), types)]


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels after the EXIF rotation, which the image loaders apply. Only reads the header.

    Raises:
        InputError: the file is not an image.
    """
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as image:
            is_rotated = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return image.size[::-1] if is_rotated else image.size
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise InputError(f'{path}: cannot be read as an image ({error})') from error


def read_pixels(path: Path, mode: str | None = None) -> 'np.ndarray':
    """Return the pixels of an image, `(H, W)` or `(H, W, C)`; for an image with a palette, the palette indices.

    Args:
        path: the image file.
        mode: Pillow mode to convert to, such as 'RGB'.

    Raises:
        InputError: the file is not an image.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f'{path}: cannot be read as an image ({error})') from error


def run_lengths(mask: 'np.ndarray') -> dict:
    """Encode a binary mask `(H, W)` as COCO's compressed RLE, ready for JSON: `size` and `counts`."""
    import numpy as np
    from pycocotools import mask as codec

    encoded = codec.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {'size': list(encoded['size']), 'counts': encoded['counts'].decode()}
