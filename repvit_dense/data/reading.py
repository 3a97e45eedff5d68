"""Read images, text and annotation files, and encode masks.

`--help` imports this module, so numpy and Pillow are imported inside the functions that need them.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError
from repvit_dense.memory import no_collector

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
ID = (int, str)  # types of an id in an annotation file
COCO_LISTS = ('images', 'annotations', 'categories')


def images_in(folder: Path) -> list[Path]:
    """Return all images in a folder and its subfolders, sorted by path."""
    return sorted(path for path in folder.rglob('*') if path.suffix.lower() in SUFFIXES)


def read_text(file: Path) -> str:
    """Return the content of a UTF-8 text file.

    Raises:
        InputError: the file does not exist, cannot be opened or is not UTF-8.
    """
    try:
        return Path(file).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{file}: cannot be read as text ({error})') from error


def read_coco(file: Path) -> dict:
    """Return the content of a COCO annotation file.

    The lists `images`, `annotations` and `categories` hold dictionaries, and every category has an id and a name. All
    other values are not checked.

    Raises:
        InputError: the file cannot be read, is not JSON or is not a COCO annotation file.
    """
    text = read_text(file)
    try:
        with no_collector():  # JSON has no reference cycles; parsing takes half the time without the collector
            content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{file}: not valid JSON ({error}); expected COCO annotations') from error
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
