import gc
import os
import subprocess
import sys
from contextlib import suppress

import cv2
import numpy as np
import pytest
from PIL import Image

from repvit_dense.data.reading import (
    image_size,
    images_in,
    read_coco,
    read_json,
    read_pixels,
    read_text,
    read_yaml,
    run_lengths,
)
from repvit_dense.errors import InputError


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / 'a.json').write_bytes(b'\xff\xfe')
    with pytest.raises(InputError, match='a.json: cannot be read as text'):
        read_coco(tmp_path / 'a.json')


@pytest.mark.parametrize(
    'text, message',
    [
        ('{', 'not valid JSON'),
        ('[]', 'lacks the lists images, annotations, categories'),
        ('{"images": [], "annotations": {}, "categories": []}', 'lacks the lists annotations'),
        ('{"images": [], "annotations": [], "categories": [{"name": "a"}]}', 'category number 0 has no id'),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": 2}]}',
            '0 has 2 as name, which must be text',
        ),
    ],
)
def test_a_file_that_is_not_coco_is_refused(tmp_path, text, message):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(InputError, match=f'a.json: .*{message}'):
        read_coco(tmp_path / 'a.json')


@pytest.mark.parametrize('text, message', [('{"a": 1, "a": 2}', "key 'a' occurs twice"), ('[' * 10**5, 'recursion')])
def test_json_that_python_would_misread_is_refused(tmp_path, text, message):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(InputError, match=f'a.json: not valid JSON .*{message}'):
        read_json(tmp_path / 'a.json')


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbfroad\n')
    assert read_text(tmp_path / 'a.txt') == 'road\n'


BOMB = 'a: &a [x, x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'{b}: &{b} [{", ".join([f"*{a}"] * 10)}]\n' for a, b in zip('abcdefgh', 'bcdefghi', strict=True)
)


@pytest.mark.parametrize(
    'text, message',
    [
        (BOMB, 'aliases stand for more than'),
        ('a: &a [*a]', 'aliases stand for more than'),
        ('a: 2020-99-99', 'month must be in'),
        ('[' * 10_000, 'recursion'),
        ('a: 1\nb: 2\na: 3', "the key 'a' occurs twice"),
        ('a: !!python/object/apply:os.getcwd []', 'could not determine a constructor'),
        ('a: [', 'expected'),
        ('? [1]\n: 2', 'unhashable'),
        ('a: "' + 'x' * 10**6 + '"', 'has 1,000,00. bytes'),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_cannot_be_meant_is_refused(tmp_path, text, message):
    (tmp_path / 'a.yaml').write_text(text)
    with pytest.raises(InputError, match=f'a.yaml: .*{message}'):
        read_yaml(tmp_path / 'a.yaml')


def test_yaml_aliases_are_replaced(tmp_path):
    (tmp_path / 'a.yaml').write_text('a: &x [1]\nb: *x')
    assert read_yaml(tmp_path / 'a.yaml') == {'a': [1], 'b': [1]}


def test_images_are_found_by_suffix_and_the_files_of_macos_left_out(tmp_path):
    for name in ('b.PNG', '._b.PNG', 'a [1].jpg', 'a.txt'):
        (tmp_path / name).touch()
    assert [path.name for path in images_in(tmp_path)] == ['a [1].jpg', 'b.PNG']


@pytest.mark.parametrize('text', ['{"images": [], "annotations": [], "categories": []}', '{'])
def test_reading_enables_the_garbage_collector_again(tmp_path, text):
    (tmp_path / 'a.json').write_text(text)
    with suppress(InputError):
        read_coco(tmp_path / 'a.json')
    assert gc.isenabled()


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.webp', 'a.tif'])
def test_image_size_applies_the_exif_rotation(tmp_path, name):
    image, exif = Image.new('RGB', (6, 4)), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / name, exif=exif)
    pixels = cv2.imdecode(np.fromfile(tmp_path / name, np.uint8), cv2.IMREAD_COLOR)
    assert image_size(tmp_path / name) == pixels.shape[1::-1] == (4, 6)


def test_an_orientation_in_text_is_as_opencv_reads_it(tmp_path):
    image, exif = Image.new('RGB', (6, 4)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / 'a.jpg', exif=exif)
    content = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(content.replace(b'\x01\x12\0\3', b'\x01\x12\0\2'))  # the type, 2 is text
    assert image_size(tmp_path / 'a.jpg') == cv2.imread(str(tmp_path / 'a.jpg')).shape[1::-1]


def test_a_truncated_image_has_no_size(tmp_path):
    Image.effect_noise((60, 40), 90).save(tmp_path / 'a.jpg')
    content = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(content[:-400])
    with pytest.raises(
        InputError, match='a.jpg: cannot be read as an image .OpenCV cannot decode it; its end is missing'
    ):
        image_size(tmp_path / 'a.jpg')
    (tmp_path / 'a.jpg').write_bytes(content + bytes(200))  # the end marker is there, but not at the end
    assert image_size(tmp_path / 'a.jpg') == (60, 40)


def test_a_mask_with_too_many_pixels_is_refused(tmp_path):
    Image.new('1', (20_000, 10_001)).save(tmp_path / 'a.png')
    with pytest.raises(InputError, match='a.png: has too many pixels, at most 178,956,970 are read'):
        read_pixels(tmp_path / 'a.png')


@pytest.mark.parametrize('content', [b'', b'<html>', b'\x89PNG\r\n\x1a\n', b'BM' + bytes(60), b'MM\0*' + b'\xff' * 40])
def test_damaged_pixels_are_refused(tmp_path, content):
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(InputError, match='a.png: cannot be read as an image'):
        read_pixels(tmp_path / 'a.png')


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / 'a.png')
    for read in (read_pixels, image_size):
        with pytest.raises(InputError, match='not a regular file'):
            read(tmp_path / 'a.png')


@pytest.mark.parametrize(
    'module, allowed', [('reading', ''), ('layouts', ''), ('annotations', ''), ('checks', 'numpy'), ('shapes', 'numpy')]
)
def test_imports_are_light(module, allowed):
    code = f'import sys, repvit_dense.data.{module}\nprint(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    heavy = {'numpy', 'cv2', 'PIL', 'pycocotools', 'supervision', 'torch', 'mmengine', 'mmdet'}
    assert heavy & set(done.stdout.split()) <= {allowed}


@pytest.mark.parametrize('share', [0, 0.1, 0.5, 0.9, 1])
def test_run_lengths_equal_those_of_pycocotools(share):
    """Runs that end at the bottom and go on at the top of the next column are one."""
    from pycocotools import mask as codec

    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 12, (50, 2)):
        mask = rng.random((height, width)) < share
        expected = codec.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert run_lengths(mask) == {'size': [height, width], 'counts': expected['counts'].decode()}
