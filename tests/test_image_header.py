"""The header gives the size that OpenCV decodes, or leaves a doubt."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from repvit_dense.errors import InputError
from repvit_dense.image_header import DAMAGED_EXIF, MAX_PIXELS, MISSING_END, UNUSUAL, parse_header, read_header

WIDTH, HEIGHT = 40, 20
PIXELS = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
FORMATS = ('JPEG', 'MPO', 'PNG', 'BMP', 'WEBP', 'TIFF', 'GIF', 'PPM', 'JPEG2000')
WITH_EXIF = ('JPEG', 'MPO', 'PNG', 'WEBP', 'TIFF')


def encode(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation):
    content = Image.Exif()
    content[0x112] = orientation
    return content


def decoded_size(content):
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if pixels is None else pixels.shape[1::-1]


def parse(content):
    return parse_header(io.BytesIO(content), 'image')


def with_exif(block):
    """Return a JPEG with this EXIF block."""
    content = encode('JPEG')
    return content[:20] + b'\xff\xe1' + struct.pack('>H', len(block) + 8) + b'Exif\0\0' + block + content[20:]


def directory(*entries, order='>', offset=8):
    """Return EXIF data with these entries of (tag, type, count, value of four bytes)."""
    head = (b'MM\0*' if order == '>' else b'II*\0') + struct.pack(f'{order}IH', offset, len(entries))
    return head + b''.join(struct.pack(f'{order}HHI', *entry[:3]) + entry[3] for entry in entries) + bytes(4)


@pytest.mark.parametrize('kind', FORMATS)
def test_size_of_every_format(kind):
    content = encode(kind)
    assert parse(content).size == decoded_size(content) == (WIDTH, HEIGHT)
    assert parse(content).doubt == (UNUSUAL if kind in ('GIF', 'PPM', 'JPEG2000') else '')


@pytest.mark.parametrize(
    'options, doubt',
    [
        ({'compression': 'tiff_lzw'}, ''),
        ({'compression': 'jpeg'}, ''),
        ({'big_tiff': True}, ''),
        ({'save_all': True, 'append_images': [Image.new('RGB', (9, 9))]}, ''),
        ({'tiffinfo': {339: 3}}, UNUSUAL),  # floating-point numbers
    ],
)
def test_kinds_of_tiff(options, doubt):
    content = encode('TIFF', **options)
    assert parse(content) == (WIDTH, HEIGHT, 1, doubt)
    assert doubt or decoded_size(content) == (WIDTH, HEIGHT)


@pytest.mark.parametrize('orientation', [0, *range(1, 9), 9])
@pytest.mark.parametrize('kind', WITH_EXIF)
def test_orientation_as_opencv_applies_it(kind, orientation):
    content = encode(kind, exif=exif(orientation))
    header = parse(content)
    assert header.size == decoded_size(content)
    assert header.stored == (WIDTH, HEIGHT)
    assert header.orientation == (orientation if 1 <= orientation <= 8 else 1)


ORIENTATION = (0x112, 3, 1, b'\0\6\0\0')


@pytest.mark.parametrize(
    'block, doubt',
    [
        (directory(ORIENTATION), ''),
        (directory((0x112, 3, 1, b'\6\0\0\0'), order='<'), ''),
        (directory(), ''),
        (directory((0x112, 2, 2, b'6\0\0\0')), DAMAGED_EXIF),  # text
        (directory((0x112, 3, 2, b'\0\6\0\6')), DAMAGED_EXIF),
        (directory(ORIENTATION, ORIENTATION), DAMAGED_EXIF),
        (directory((0x11A, 5, 1, b'\0\1\0\0'), ORIENTATION), DAMAGED_EXIF),  # its value lies beyond the data
        (directory(ORIENTATION, (0x10F, 2, 2**32 - 1, b'\0\0\0\0')), DAMAGED_EXIF),
        (directory(ORIENTATION, (0x10F, 99, 9, b'\0\0\0\0')), DAMAGED_EXIF),
        (directory(ORIENTATION, offset=4000), DAMAGED_EXIF),
        (directory(ORIENTATION, offset=0), DAMAGED_EXIF),
        (directory(ORIENTATION)[:15], DAMAGED_EXIF),
        (directory(ORIENTATION)[:-4] + struct.pack('>I', 8), ''),  # the next directory is this one
        (b'', DAMAGED_EXIF),
        (b'MMII' + bytes(20), DAMAGED_EXIF),
    ],
)
def test_damaged_exif_leaves_a_doubt(block, doubt):
    content = with_exif(block)
    header = parse(content)
    assert header.doubt == doubt
    if not doubt:
        assert header.size == decoded_size(content)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF'])
def test_a_missing_end_leaves_a_doubt(kind):
    content = encode(kind)
    for length in (len(content) - 1, len(content) - 4, len(content) * 3 // 4):
        assert parse(content[:length]).doubt == MISSING_END


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF'])
def test_bytes_after_the_end_do_not_matter(kind):
    content = encode(kind) + bytes(40)
    assert parse(content) == (WIDTH, HEIGHT, 1, '')
    assert decoded_size(content) == (WIDTH, HEIGHT)


@pytest.mark.parametrize('kind', FORMATS)
def test_any_cut_ends_in_a_refusal_a_doubt_or_the_decoded_size(kind):
    content = encode(kind, **({'exif': exif(6)} if kind in WITH_EXIF else {}))
    for length in range(0, min(len(content), 400), 7):
        try:
            header = parse(content[:length])
        except InputError:
            continue
        assert header.doubt


def test_megabytes_of_metadata_are_skipped():
    content = encode('JPEG', exif=exif(6))
    segment = b'\xff\xe2' + struct.pack('>H', 65_535) + bytes(65_533)
    content = content[:2] + segment * 50 + b'\xff\xff' + content[2:]
    assert parse(content) == (HEIGHT, WIDTH, 6, '')
    assert decoded_size(content) == (HEIGHT, WIDTH)


def test_bytes_between_the_segments_of_a_jpeg_leave_a_doubt():
    content = encode('JPEG')
    assert parse(content[:20] + b'junk' + content[20:]).doubt == UNUSUAL  # 20: after the first segment
    with pytest.raises(InputError, match='damaged or cut off'):
        parse(content[:3] + b'\1' * 300_000)


@pytest.mark.parametrize(
    'content, words',
    [
        (b'', 'the file is empty, 0 bytes'),
        (b'<!DOCTYPE html><html>', 'it begins with .*DOCTYPE html'),
        (b'version https://git-lfs.github.com/spec/v1', 'it begins with .*version https://git-lfs'),
        (b'\xff\xd8\xff', 'damaged or cut off'),
        (b'\x89PNG\r\n\x1a\n', 'damaged or cut off'),
        (b'RIFF\0\0\0\0AVI ', 'it begins with'),
        (b'MM\0*\xff\xff\xff\xff', 'damaged or cut off'),
        (b'P6\n9', 'damaged or cut off'),
    ],
)
def test_other_content_is_refused(tmp_path, content, words):
    (tmp_path / 'a.jpg').write_bytes(content)
    with pytest.raises(InputError, match=f'a.jpg: cannot be read as an image .(its header is )?{words}'):
        read_header(tmp_path / 'a.jpg')


@pytest.mark.parametrize('width, height, words', [(0, 5, 'its size is 0x5'), (20_000, 10_001, 'at most 200,000,000')])
def test_impossible_sizes_are_refused(width, height, words):
    header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    content = b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + header + struct.pack('>I', zlib.crc32(header))
    with pytest.raises(InputError, match=words):
        parse(content)
    assert width * height == 0 or width * height > MAX_PIXELS
