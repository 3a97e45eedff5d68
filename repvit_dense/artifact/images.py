"""Read an image from a path, an array or a PIL image."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Union

import cv2
import numpy as np

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    import PIL.Image

ImageInput = Union[str, Path, np.ndarray, 'PIL.Image.Image']
ACCEPTED = '(H, W, 3) BGR, (H, W, 4) BGRA or (H, W) grey in uint8 or uint16'


def read_image(image: ImageInput) -> np.ndarray:
    """Return the pixels of an image as `(H, W, 3)` uint8 in BGR order.

    16-bit images are reduced to 8 bits, an alpha channel is dropped and the EXIF orientation is applied, as OpenCV and
    therefore mmcv do.

    Args:
        image: a path; an array `(H, W, 3)` BGR, `(H, W, 4)` BGRA or `(H, W)` grey in uint8 or uint16; or a PIL image.

    Raises:
        InputError: the file is missing, truncated or not an image, or the array has another shape or type.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, str | Path):
        return _from_file(image)
    if 'PIL.Image' in sys.modules and isinstance(image, sys.modules['PIL.Image'].Image):
        return _from_pil(image)
    raise InputError(f'an image must be a path, an array or a PIL image, got {type(image).__name__}')


def _from_file(path: str | Path) -> np.ndarray:
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise InputError(f'{path}: not an image that can be read ({reason})') from error
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error:
        pixels = None
    # Some OpenCV builds fill the missing part of a truncated JPEG with grey: its end marker must follow its last scan.
    truncated = content.startswith(b'\xff\xd8') and content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda')
    if pixels is None or truncated:
        reason = 'truncated' if truncated else 'damaged, or not an image'
        raise InputError(f'{path}: not an image that can be read ({reason})')
    return pixels


def _from_array(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        raise InputError(f'an image must be {ACCEPTED}, got {tuple(image.shape)} {image.dtype}')
    return np.ascontiguousarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3])


def _from_pil(image: 'PIL.Image.Image') -> np.ndarray:
    from PIL import ImageOps

    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith('I;16'):
            return _from_array(np.asarray(upright).astype(np.uint16))
        rgb = np.asarray(upright.convert('RGB'))
    except OSError as error:  # PIL decodes at the first access
        raise InputError(f'{getattr(image, "filename", "PIL image")}: cannot be decoded ({error})') from error
    return _from_array(rgb[..., ::-1])
