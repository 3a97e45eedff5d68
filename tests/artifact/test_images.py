"""Read images: every kind of file and array, and refusals of anything else."""

import io
import os

import cv2
import numpy as np
import pytest

from repvit_dense.artifact.images import read_image
from repvit_dense.errors import InputError


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def encode(suffix, pixels):
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize(
    'make',
    [
        lambda grey: encode('.png', grey),
        lambda grey: encode('.png', cv2.merge([grey, grey, grey])),
        lambda grey: encode('.png', cv2.merge([grey, grey, grey, 255 - grey])),
        lambda grey: encode('.png', grey.astype(np.uint16) * 257),
        lambda grey: encode('.tiff', cv2.merge([grey.astype(np.uint16) * 257] * 3)),
    ],
    ids=['grey', 'colour', 'RGBA', 'grey 16 bit', 'colour 16 bit'],
)
def test_files_of_every_format(write, image, make):
    grey = image(40, 50)[..., 0]
    read = read_image(write('x.img', make(grey)))
    assert read.dtype == np.uint8
    assert np.array_equal(read, cv2.merge([grey] * 3))


def test_a_jpeg_in_cmyk(tmp_path, image):
    from PIL import Image

    pixels = image(64, 80)
    Image.fromarray(pixels[..., ::-1]).convert('CMYK').save(tmp_path / 'x.jpg', quality=95)
    assert np.abs(read_image(tmp_path / 'x.jpg').astype(int) - pixels).mean() < 6


@pytest.mark.parametrize(
    'transform',
    [
        lambda a: a[..., 0],
        lambda a: a[..., :1],
        lambda a: a.astype(np.uint16) * 257,
        lambda a: a.astype('>u2') * 257,
        lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
        lambda a: np.asfortranarray(a),
    ],
)
def test_arrays_of_every_shape_and_type(image, transform):
    grey = cv2.merge([image(40, 50)[..., 0]] * 3)
    assert np.array_equal(read_image(transform(grey)), grey)


def test_alpha_is_dropped(image):
    pixels = image(40, 50)
    assert np.array_equal(read_image(np.dstack([pixels, pixels[..., :1]])), pixels)


@pytest.mark.parametrize(
    'thing',
    [
        np.zeros((4, 4, 3)),
        np.full((4, 4, 3), np.nan, np.float32),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((3, 40, 50), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(5, np.uint8),
        None,
        3,
        'x\0.jpg',
    ],
)
def test_other_objects_are_refused(thing):
    with pytest.raises(InputError, match='an image must be|cannot be read'):
        read_image(thing)


@pytest.mark.parametrize('keep', [0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize('suffix, options', [('.jpg', []), ('.jpg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]), ('.png', [])])
def test_a_truncated_file_is_refused(write, image, suffix, options, keep):
    content = cv2.imencode(suffix, image(300, 400), options)[1].tobytes()
    assert read_image(write(f'whole{suffix}', content)).shape == (300, 400, 3)
    path = write(f'cut{suffix}', content[: int(len(content) * keep)])
    with pytest.raises(InputError, match=f'{path}: cannot be read'):
        read_image(path)


def test_trailing_bytes_after_a_jpeg_are_ignored(write, image):
    assert read_image(write('x.jpg', encode('.jpg', image(30, 40)) + b'more')).shape == (30, 40, 3)


@pytest.mark.parametrize('content', [b'', b'hello', b'<html></html>' * 100], ids=['empty', 'text', 'html'])
def test_files_that_are_no_image_are_refused(write, content):
    with pytest.raises(InputError, match='x.jpg: cannot be read'):
        read_image(write('x.jpg', content))


def test_a_missing_file_is_refused(tmp_path):
    for path in (tmp_path / 'none.jpg', tmp_path):
        with pytest.raises(InputError, match='cannot be read'):
            read_image(path)


@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA', 'P', 'CMYK'])
def test_a_pil_image_is_read_like_its_file(tmp_path, image, mode):
    from PIL import Image

    picture = Image.fromarray(image(40, 50)[..., ::-1]).convert(mode)
    path = tmp_path / ('x.tiff' if mode == 'CMYK' else 'x.png')
    picture.convert('RGB').save(path)
    assert np.array_equal(read_image(picture), read_image(path))


def test_a_pil_image_is_turned_upright_like_its_file(tmp_path, image):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees to view
    Image.fromarray(image(40, 50)).save(tmp_path / 'x.png', exif=exif)
    with Image.open(tmp_path / 'x.png') as picture:
        pixels = read_image(picture)
    assert pixels.shape == (50, 40, 3)
    assert np.array_equal(pixels, read_image(tmp_path / 'x.png'))


def test_a_truncated_pil_image_is_refused(write, image):
    from PIL import Image

    content = encode('.jpg', image(300, 400))
    with (
        Image.open(write('cut.jpg', content[: len(content) // 2])) as picture,
        pytest.raises(InputError, match='cut.jpg'),
    ):
        read_image(picture)


def test_the_bytes_of_a_file_are_read_like_the_file(write, image):
    content = encode('.png', image(40, 50))
    assert np.array_equal(read_image(content), read_image(write('x.png', content)))
    with pytest.raises(InputError, match=r'image: cannot be read as an image \(damaged'):
        read_image(content[:-40])


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / 'x.png')
    for path in (tmp_path / 'x.png', '/dev/zero'):
        with pytest.raises(InputError, match='not a regular file'):
            read_image(path)


def test_a_name_that_is_not_utf8(tmp_path, image):
    path = tmp_path / os.fsdecode(b'b\xff.png')
    path.write_bytes(encode('.png', image(40, 50)))
    assert read_image(path).shape == read_image(str(path)).shape == (40, 50, 3)


def test_too_many_pixels_are_refused_before_they_are_decoded(write, image):
    from PIL import Image

    path = write('x.png', encode('.png', image(40, 50)))
    assert read_image(path, max_pixels=2000).shape == (40, 50, 3)
    for picture in (path, path.read_bytes(), Image.open(path)):
        with pytest.raises(InputError, match='has 50x40 pixels, at most 1,999 are read.*--max-pixels'):
            read_image(picture, max_pixels=1999)


@pytest.mark.parametrize('size', [(1 << 16, 1 << 15), (1 << 21, 1)])
def test_sizes_beyond_the_limits_of_opencv_are_refused(size):
    content = bytearray(encode('.png', np.zeros((1, 1), np.uint8)))
    content[16:24] = b''.join(side.to_bytes(4, 'big') for side in size)
    with pytest.raises(InputError, match=f'has {size[0]}x{size[1]} pixels, at most'):
        read_image(bytes(content), max_pixels=1 << 40)


@pytest.mark.parametrize('kind', ['TIFF', 'GIF', 'WEBP'])
def test_the_first_of_several_frames_is_read_and_a_warning_says_so(image, capsys, kind):
    from PIL import Image

    frames = [Image.fromarray(image(40, 50, seed)) for seed in (0, 1)]
    for count in (1, 2):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:count])
        read = read_image(file.getvalue())
        assert np.abs(read.astype(int) - image(40, 50)[..., ::-1]).mean() < 20
        assert ('several pages or frames; the first is used' in capsys.readouterr().err) == (count == 2)


@pytest.mark.parametrize('mode, accepted', [('1', True), ('LA', True), ('YCbCr', True), ('F', False), ('I', False)])
def test_a_pil_image_has_8_or_16_bits_per_channel(mode, accepted):
    from PIL import Image

    picture = Image.new(mode, (5, 4))
    if accepted:
        assert read_image(picture).shape == (4, 5, 3)
    else:
        with pytest.raises(InputError, match=f'got mode {mode}'):
            read_image(picture)
