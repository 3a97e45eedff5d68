"""Read the size of an image from the first bytes of its file, as OpenCV, and therefore mmcv, will decode it.

Only the standard library is used, and no pixel is decoded. `Header.doubt` says why OpenCV may fail nevertheless, or
read the image in another size: the end of the file is missing, its EXIF data are damaged, or its kind is unusual.
"""

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from repvit_dense.errors import InputError
from repvit_dense.files import open_regular

MAX_PIXELS = 200_000_000
MAX_PARTS = 100_000  # segments of a JPEG file, chunks of a PNG file
TAIL = 64  # bytes at the end of a JPEG file that hold its end marker; some writers pad

FORMATS = 'JPEG, PNG, BMP, WebP, TIFF, GIF, AVIF, JPEG 2000 and PNM'
MISSING_END = 'its end is missing'
DAMAGED_EXIF = 'its EXIF data are damaged'
UNUSUAL = 'it is of an unusual kind'

ORIENTATION = 0x112
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SAMPLE_FORMAT = 339  # of a TIFF file: 1 for whole numbers
STRIPS, TILES = (273, 279), (324, 325)  # where they begin, and their lengths
TIFF_TAGS = (256, 257, ORIENTATION, SAMPLE_FORMAT, *STRIPS, *TILES)
SIGNATURES = b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n', b'BM', b'RIFF', b'II*\0', b'MM\0*', b'II+\0', b'MM\0+', b'GIF8'


class Header(NamedTuple):
    """The size of an image in pixels.

    Attributes:
        width: as OpenCV decodes the image, which applies the EXIF orientation.
        height: likewise.
        orientation: the EXIF orientation, from 1 to 8; from 5 on, the stored width is `height`.
        doubt: why only decoding shows whether OpenCV reads the image, and in which size; empty if it certainly does.
    """

    width: int
    height: int
    orientation: int = 1
    doubt: str = ''

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as OpenCV decodes the image."""
        return self.width, self.height

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height before the EXIF orientation is applied."""
        return self.size[::-1] if self.orientation > 4 else self.size


def read_header(path: str | Path) -> Header:
    """Return the size of an image; the suffix of the file does not matter.

    Raises:
        InputError: the file cannot be opened, is empty, is not an image, or has more than `MAX_PIXELS` pixels.
    """
    with open_regular(path) as file:
        try:
            return parse_header(file, path)
        except OSError as error:
            raise InputError(f'{path}: cannot be read ({error.strerror})') from error


def parse_header(file: BinaryIO, name: str | Path, max_pixels: int = MAX_PIXELS) -> Header:
    """Return the size of the image in an open file, see `read_header`; messages call it `name`."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(64)
    if not start:
        raise InputError(f'{name}: cannot be read as an image (the file is empty, 0 bytes)')
    parse = _parser(start)
    if not parse:
        raise InputError(f'{name}: cannot be read as an image (it begins with {start[:24]!r}, as none of {FORMATS})')
    try:
        width, height, orientation, doubt = parse(file, size)
    except (struct.error, LookupError, ValueError) as error:
        raise InputError(f'{name}: cannot be read as an image (its header is damaged or cut off)') from error
    if not width * height:
        raise InputError(f'{name}: cannot be read as an image (its size is {width}x{height})')
    if width * height > max_pixels:
        raise InputError(f'{name}: has {width}x{height} pixels, at most {max_pixels:,} are read')
    if orientation > 4:
        width, height = height, width
    return Header(width, height, orientation, doubt)


Parsed = tuple[int, int, int, str]  # stored width and height, EXIF orientation from 1 to 8, doubt


def _parser(start: bytes) -> Callable[[BinaryIO, int], Parsed] | None:
    """Return the parser of the format that a file begins with."""
    parsers = (_jpeg, _png, _bmp, _webp, _tiff, _tiff, _tiff, _tiff, _gif)
    for signature, parser in zip(SIGNATURES, parsers, strict=True):
        if start.startswith(signature) and (parser is not _webp or start[8:12] == b'WEBP'):
            return parser
    if start[4:8] == b'ftyp' or start[4:8] == b'jP  ':
        return _boxes
    return _pnm if re.match(rb'P[1-6]\s', start) else None


def _unpack(layout: str, file: BinaryIO) -> tuple[int, ...]:
    """Read integers; raise `struct.error` at the end of the file."""
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _jpeg(file: BinaryIO, size: int) -> Parsed:
    file.seek(2)
    exif, frame, doubt = [], None, ''
    for _ in range(MAX_PARTS):
        mark, code = _unpack('BB', file)
        if mark != 0xFF or code in (0, 0xFF):  # OpenCV searches for the next marker; 0xFF is padding
            doubt = doubt if mark == 0xFF else UNUSUAL
            file.seek(-1, os.SEEK_CUR)
            continue
        if 0xD0 <= code <= 0xD8 or code == 1:  # markers without a segment
            continue
        (length,) = _unpack('>H', file)
        following = file.tell() + length - 2
        if code == 0xDA:  # the scan follows
            break
        if code < 0xC0:  # reserved
            doubt = UNUSUAL
        elif code == 0xE1 and (content := file.read(length - 2))[:4] == b'Exif':
            exif.append(content[6:] if content[4:6] == b'\0\0' else b'')
        elif 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            precision, height, width, components = _unpack('>BHHB', file)
            usual = code <= 0xC2 and precision == 8 and components in (1, 3, 4) and not frame
            doubt = doubt if usual else UNUSUAL
            frame = width, height
        file.seek(following)
    if frame is None:
        raise ValueError('no frame')
    orientation, damage = _orientation(exif[0]) if exif else (1, '')
    file.seek(max(0, size - TAIL))
    if b'\xff\xd9' not in file.read(TAIL):
        doubt = MISSING_END
    return *frame, orientation, doubt or damage or (UNUSUAL if len(exif) > 1 else '')


def _orientation(exif: bytes) -> tuple[int, str]:
    """Return the orientation of EXIF data, and a doubt unless the data are sound: OpenCV ignores part of damaged ones.

    Only the first directory is read, the others do not matter.
    """
    order = {b'II*\0': '<', b'MM\0*': '>'}.get(exif[:4])
    if not order:
        return 1, DAMAGED_EXIF
    orientation = 1
    try:
        (offset,) = struct.unpack_from(f'{order}I', exif, 4)
        (count,) = struct.unpack_from(f'{order}H', exif, offset)
        for number in range(count):
            entry = offset + 2 + 12 * number
            tag, kind, length, value = struct.unpack_from(f'{order}HHII', exif, entry)
            extent = TYPE_BYTES.get(kind, len(exif)) * length
            if tag == ORIENTATION:
                if (kind, length) != (3, 1) or orientation != 1:
                    return 1, DAMAGED_EXIF
                (orientation,) = struct.unpack_from(f'{order}H', exif, entry + 8)
            elif extent > 4 and value + extent > len(exif):
                return orientation if orientation <= 8 else 1, DAMAGED_EXIF
    except struct.error:
        return 1, DAMAGED_EXIF
    return orientation if 1 <= orientation <= 8 else 1, ''


def _chunks(file: BinaryIO, layout: str) -> Iterator[tuple[bytes, int]]:
    """Yield the name and the length of each chunk of a file; its content is read from the file before the next."""
    for _ in range(MAX_PARTS):
        head = file.read(8)
        if len(head) < 8:
            return
        first, second = struct.unpack(layout, head)
        name, length = (first, second) if isinstance(first, bytes) else (second, first)
        following = file.tell() + length
        yield name, length
        file.seek(following + (4 if layout[0] == '>' else length % 2))  # PNG: checksum; RIFF: padding


def _png(file: BinaryIO, size: int) -> Parsed:
    file.seek(12)
    header = file.read(17)
    width, height = struct.unpack_from('>II', header, 4)
    doubt = '' if _unpack('>I', file)[0] == zlib.crc32(header) else UNUSUAL
    orientation, end = 1, MISSING_END
    file.seek(8)
    for name, length in _chunks(file, '>I4s'):
        if name == b'eXIf':
            orientation, damage = _orientation(file.read(min(length, 1 << 20)))
            doubt = doubt or damage
        elif name in (b'tEXt', b'zTXt', b'iTXt') and file.read(16) == b'Raw profile type':
            doubt = DAMAGED_EXIF  # EXIF data as text, see ImageMagick
        elif name == b'IEND':
            end = '' if file.tell() + 4 <= size else MISSING_END  # a checksum ends it
            break
    return width, height, orientation, end or doubt or (UNUSUAL if orientation > 4 else '')


def _bmp(file: BinaryIO, size: int) -> Parsed:
    file.seek(10)
    start, header = _unpack('<II', file)
    width, height = _unpack('<HH' if header == 12 else '<ii', file)
    _, bits = _unpack('<HH', file)
    compression = 0 if header == 12 else _unpack('<I', file)[0]
    if width < 0 or compression not in (0, 3):
        return abs(width), abs(height), 1, UNUSUAL
    complete = start + (width * bits + 31) // 32 * 4 * abs(height) <= size
    return width, abs(height), 1, '' if complete else MISSING_END


def _webp(file: BinaryIO, size: int) -> Parsed:
    file.seek(4)
    doubt = '' if _unpack('<I', file)[0] + 8 <= size else MISSING_END
    file.seek(12)
    width = height = 0
    orientation = 1
    for name, length in _chunks(file, '<4sI'):
        content = file.read(min(length, 1 << 20)) if name == b'EXIF' else file.read(10)
        if name == b'VP8X':
            width, height = (1 + int.from_bytes(content[at : at + 3], 'little') for at in (4, 7))
        elif name == b'VP8 ' and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from('<HH', content, 6))
        elif name == b'VP8L' and not width:
            bits = int.from_bytes(content[1:5], 'little')
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif name == b'EXIF':
            orientation, damage = _orientation(content.removeprefix(b'Exif\0\0'))
            doubt = doubt or damage or (UNUSUAL if orientation > 4 else '')
    return width, height, orientation, doubt


def _tiff(file: BinaryIO, size: int) -> Parsed:
    """Read the first directory of a TIFF file, or of a BigTIFF file, whose numbers are wider."""
    file.seek(0)
    start = file.read(4)
    order, is_big = '<' if start[:2] == b'II' else '>', b'+' in start
    file.seek(8 if is_big else 4)
    (offset,) = _unpack(f'{order}{"Q" if is_big else "I"}', file)
    file.seek(offset)
    (count,) = _unpack(f'{order}{"Q" if is_big else "H"}', file)
    entry, word = (f'{order}HHQ8s', 8) if is_big else (f'{order}HHI4s', 4)
    entries = list(struct.iter_unpack(entry, file.read(struct.calcsize(entry) * min(count, MAX_PARTS))))
    tags = [entry[0] for entry in entries]
    values = {}
    for tag, kind, length, content in entries:
        layout = {1: 'B', 3: 'H', 4: 'I', 16: 'Q'}.get(kind)
        if layout and tag in TIFF_TAGS and length <= MAX_PARTS:
            if struct.calcsize(f'={length}{layout}') > word:
                file.seek(*struct.unpack(f'{order}{"Q" if is_big else "I"}', content))
                content = file.read(struct.calcsize(f'={length}{layout}'))
            values[tag] = struct.unpack_from(f'{order}{length}{layout}', content)
    (width,), (height,), (orientation,) = values[256], values[257], values.get(ORIENTATION, (1,))
    pairs = [(values.get(start, ()), values.get(length, ())) for start, length in (STRIPS, TILES)]
    ends = [start + length for starts, lengths in pairs for start, length in zip(starts, lengths, strict=False)]
    usual = tags == sorted(set(tags)) and len(tags) == count and orientation <= 4
    usual = usual and (ORIENTATION in values or ORIENTATION not in tags) and set(values.get(SAMPLE_FORMAT, (1,))) == {1}
    doubt = MISSING_END if max(ends, default=size + 1) > size else '' if usual else UNUSUAL
    return width, height, orientation if 1 <= orientation <= 8 else 1, doubt


def _gif(file: BinaryIO, _: int) -> Parsed:
    file.seek(6)
    width, height = _unpack('<HH', file)
    return width, height, 1, UNUSUAL


def _pnm(file: BinaryIO, _: int) -> Parsed:
    file.seek(0)
    numbers = re.match(rb'P\d(?:\s+#[^\n]*)*\s+(\d{1,9})(?:\s+#[^\n]*)*\s+(\d{1,9})', file.read(4096))
    if not numbers:
        raise ValueError('no size')
    return int(numbers[1]), int(numbers[2]), 1, UNUSUAL


def _boxes(file: BinaryIO, _: int) -> Parsed:
    """Read the size from AVIF's property `ispe` or JPEG 2000's box `ihdr`."""
    file.seek(0)
    start = file.read(1 << 16)
    sizes = [struct.unpack_from('>II', start, box.end() + 4) for box in re.finditer(rb'ispe', start)]
    sizes += [struct.unpack_from('>II', start, box.end())[::-1] for box in re.finditer(rb'ihdr', start)]
    return *max(sizes, key=lambda sides: sides[0] * sides[1]), 1, UNUSUAL
