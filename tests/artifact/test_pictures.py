"""Pictures of a run replace no other picture and no file of the user."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from repvit_dense.artifact.pictures import is_picture, output_names, write_picture
from repvit_dense.errors import InputError


def names(folder, *paths):
    return output_names([Path(path) for path in paths], folder)


@pytest.mark.parametrize(
    'paths, expected',
    [
        (['a.png', 'b.png'], ['a', 'b']),
        (['1/a.png', '2/a.png', '3/a.png'], ['a', 'a-2', 'a-3']),
        (['a-2.png', 'a.png', 'sub/a.png'], ['a-2', 'a', 'a-3']),
        (['a.png', 'sub/a.png', 'a-2.png'], ['a', 'a-2', 'a-2-2']),
        (['a.jpg', 'a.png'], ['a', 'a-2']),
        (['A.png', 'a.png', 'ß.png', 'SS.png'], ['A', 'a-2', 'ß', 'SS-2']),  # file systems may ignore case
        (['\u00e9.png', 'e\u0301.png'], ['\u00e9', 'e\u0301-2']),  # file systems may normalise
        (['index.png', 'a.segments.png', '中文.png'], ['index', 'a.segments', '中文']),
        (['..jpg', '.hidden.png', '-rf.png', 'a\nb.png', 'b\udcff.png'], ['_', '_hidden', '-rf', 'a_b', 'b_']),
    ],
)
def test_every_image_has_a_name_of_its_own(tmp_path, paths, expected):
    assert names(tmp_path, *paths) == expected


def test_no_image_has_the_name_of_a_frame(tmp_path):
    paths = [Path(name) for name in ('clip-000001.jpg', 'clip-12.jpg', 'clip.mp4', 'Clip-1234567.png')]
    found = output_names(paths, tmp_path, [False, False, True, False])
    assert found == ['clip-000001-2', 'clip-12', 'clip', 'Clip-1234567-2']


def test_long_names_are_shortened_and_stay_different(tmp_path):
    found = names(tmp_path, f'{"中" * 83}1.jpg', f'{"中" * 83}2.jpg')
    assert len(set(found)) == 2
    assert all(len(f'{name}.segments.png'.encode()) < 255 for name in found)


def test_files_of_the_user_stay_and_pictures_of_an_earlier_run_are_replaced(tmp_path, image):
    (tmp_path / 'a.jpg').write_text('a photo')
    (tmp_path / 'B.segments.png').write_text('a mask')
    (tmp_path / 'c.jpg').mkdir()
    write_picture(tmp_path / 'd.jpg', image(4, 5))
    assert names(tmp_path, 'a.png', 'b.png', 'c.png', 'd.png') == ['a-2', 'b-2', 'c-2', 'd']


def test_a_picture_that_is_predicted_itself_stays(tmp_path, image):
    path = write_picture(tmp_path / 'a.jpg', image(4, 5))
    assert names(tmp_path, path) == ['a-2']


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', f'{"x" * 250}.png'])
def test_a_picture_is_an_image_with_a_mark(tmp_path, image, name):
    pixels = image(40, 50)
    path = write_picture(tmp_path / name, pixels)
    read = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.abs(read.astype(int) - pixels).mean() < 3
    assert is_picture(path)
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_have_no_mark(tmp_path, image):
    cv2.imwrite(str(tmp_path / 'a.jpg'), image(4, 5))
    os.mkfifo(tmp_path / 'b.jpg')
    assert not any(is_picture(tmp_path / name) for name in ('a.jpg', 'b.jpg', 'missing.jpg', '.'))


def test_an_image_that_jpeg_cannot_hold_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot write 70000x1 pixels to a file with the suffix '.jpg'"):
        write_picture(tmp_path / 'a.jpg', np.zeros((1, 70000, 3), np.uint8))
    assert not list(tmp_path.iterdir())
