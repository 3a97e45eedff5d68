"""Read an image from a path, the content of a file, an array or a PIL image."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Union

import cv2
import numpy as np

from repvit_dense.artifact.download import fetch, is_url, without_password
from repvit_dense.errors import InputError
from repvit_dense.files import open_regular
from repvit_dense.image_header import MAX_PIXELS, parse_header
from repvit_dense.screen import say

if TYPE_CHECKING:
    import PIL.Image


class Frame(NamedTuple):
    """A frame of a video: its pixels `(H, W, 3)` BGR uint8, the name of the video, its number from 0, and its time."""

    pixels: np.ndarray
    video: str
    number: int
    seconds: float


ImageInput = Union[str, os.PathLike, bytes, np.ndarray, Frame, 'PIL.Image.Image']
ACCEPTED = '(H, W, 3) BGR, (H, W, 4) BGRA or (H, W) grey in uint8 or uint16'
PIL_MODES = ('1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr', 'HSV')
MAX_SIDE, MAX_TOTAL = 1 << 20, 1 << 30  # pixels that OpenCV decodes
MAX_BYTES = (1 << 31) - 1  # of a file that OpenCV decodes
FRAMES = (b'II*\0', b'MM\0*', b'GIF8', b'RIFF')  # beginnings of files that may hold several images


def read_input(image: ImageInput, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the pixels of a web address, a frame of a video, or anything that `read_image` takes.

    Raises:
        InputError: the address cannot be fetched, or see `read_image`.
    """
    if isinstance(image, Frame):
        return image.pixels
    if is_url(image):
        return _decode(fetch(str(image)), without_password(str(image)), max_pixels)
    return read_image(image, max_pixels)


def read_image(image: ImageInput, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the pixels of an image as `(H, W, 3)` uint8 in BGR order.

    16-bit images are reduced to 8 bits, an alpha channel is dropped and the EXIF orientation is applied, as OpenCV and
    therefore mmcv do. Of a file with several pages or frames the first is read, which a warning says; of a PIL image
    the current one.

    Args:
        image: a path; the bytes of a file; an array `(H, W, 3)` BGR, `(H, W, 4)` BGRA or `(H, W)` grey in uint8 or
            uint16; or a PIL image of 8 or 16 bits per channel.
        max_pixels: a file or PIL image with more pixels is refused before it is decoded.

    Raises:
        InputError: the file is missing, not a regular file, damaged, too large or not an image, or the array or PIL
            image has another shape or type.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, str | os.PathLike):
        return _from_file(Path(image), max_pixels)
    if isinstance(image, bytes):
        return _decode(image, 'image', max_pixels)
    if 'PIL.Image' in sys.modules and isinstance(image, sys.modules['PIL.Image'].Image):
        return _from_pil(image, max_pixels)
    raise InputError(f'an image must be a path, bytes, an array or a PIL image, got {type(image).__name__}')


def name_of(image: Any) -> str:
    """Return the name of an image for messages: its file, or its kind."""
    if isinstance(image, Frame):
        return f'{image.video}, frame {image.number}'
    return without_password(str(image)) if isinstance(image, str | os.PathLike) else f'image ({type(image).__name__})'


def warn(text: str) -> None:
    """Print a warning to stderr."""
    say(f'warning: {text}')


def _from_file(path: Path, max_pixels: int) -> np.ndarray:
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            _check_header(file, path, max_pixels)
            if size > MAX_BYTES:
                raise InputError(f'{path}: has {size:,} bytes, at most {MAX_BYTES:,} are read')
            file.seek(0)
            content = file.read()
        except OSError as error:
            raise InputError(f'{path}: cannot be read ({error.strerror})') from error
    return _decode(content, path, max_pixels)


def _check_header(file: BinaryIO, name: str | Path, max_pixels: int) -> None:
    header = parse_header(file, name, sys.maxsize)
    _check_size(header.width, header.height, name, max_pixels)


def _check_size(width: int, height: int, name: object, max_pixels: int) -> None:
    limit = min(max_pixels, MAX_TOTAL)
    if max(width, height) > MAX_SIDE:
        raise InputError(f'{name}: has {width}x{height} pixels, at most {MAX_SIDE:,} are read on a side; reduce it')
    if width * height > limit:
        remedy = 'reduce it' if limit == MAX_TOTAL else 'reduce it, or raise --max-pixels (max_pixels=)'
        raise InputError(f'{name}: has {width}x{height} pixels, at most {limit:,} are read; {remedy}')


def _decode(content: bytes, name: str | Path, max_pixels: int) -> np.ndarray:
    _check_header(io.BytesIO(content), name, max_pixels)
    buffer = np.frombuffer(content, np.uint8)
    try:
        with quiet():
            pixels = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from error
        pixels = None
    # Some OpenCV builds fill the missing part of a truncated JPEG with grey: its end marker must follow its last scan.
    truncated = content.startswith(b'\xff\xd8') and content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda')
    if pixels is None or truncated:
        reason = 'truncated' if truncated else 'damaged, or of a kind that OpenCV does not decode'
        raise InputError(f'{name}: cannot be read as an image ({reason})')
    if content.startswith(FRAMES) and _has_frames(buffer):
        warn(f'{name}: has several pages or frames; the first is used')
    return pixels


def _has_frames(content: np.ndarray) -> bool:
    try:
        with quiet():
            return len(cv2.imdecodemulti(content, cv2.IMREAD_REDUCED_GRAYSCALE_8, range=(0, 2))[1]) > 1
    except (cv2.error, TypeError):  # OpenCV before 4.11 cannot decode some of the frames
        return False


@contextmanager
def quiet() -> Iterator[None]:
    """Keep OpenCV from logging errors, which are reported with the name of the file."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _from_array(image: np.ndarray) -> np.ndarray:
    if image.dtype.kind == 'u' and image.dtype.itemsize == 2:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        hint = '; convert it with .astype(np.uint8), after scaling it to 0 to 255' if image.dtype.kind in 'fib' else ''
        raise InputError(f'an image must be {ACCEPTED}, got {tuple(image.shape)} {image.dtype}{hint}')
    return np.ascontiguousarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3])


def _from_pil(image: 'PIL.Image.Image', max_pixels: int) -> np.ndarray:
    from PIL import ImageOps

    name = getattr(image, 'filename', '') or 'PIL image'
    _check_size(image.width, image.height, name, max_pixels)
    sixteen_bits = image.mode.startswith('I;16')
    if image.mode not in PIL_MODES and not sixteen_bits:
        raise InputError(f'{name}: a PIL image must have 8 or 16 bits per channel, got mode {image.mode}')
    try:
        image.load()  # PIL decodes at the first access, and raises errors of many kinds
    except Exception as error:
        raise InputError(f'{name}: cannot be decoded ({error})') from error
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data, which OpenCV ignores
        image = image.copy()
    if sixteen_bits:
        return _from_array(np.asarray(image).astype(np.uint16))
    return _from_array(np.asarray(image.convert('RGB'))[..., ::-1])
