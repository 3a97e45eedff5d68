"""Images that the loaders cannot read, or whose size is not the one in the annotations."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repvit_dense.data.checks import pictures
from repvit_dense.data.checks.report import Finding, ImageEntry, Report

EXIF, OTHER, UNSURE = 'turned by their EXIF orientation', 'another size', 'turned or mirrored'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    return tmp_path / 'cache'


@pytest.fixture
def draw(tmp_path):
    """Return `draw(name, size, orientation)`, which writes an image of noise."""

    def write(name='a.jpg', size=(40, 20), orientation=1):
        pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
        exif = Image.Exif()
        exif[0x112] = orientation
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
        return tmp_path / name

    return write


def check(*entries, turned=True):
    """Return level and text of the findings about images given as (path, size) or (path, size, mask)."""
    images = [ImageEntry(path.name, str(path), size, *map(str, mask)) for path, size, *mask in entries]
    report = pictures.examine(Report('', [], images), turned)
    return [(finding.level, str(finding)) for finding in report.findings]


def test_sound_images_have_no_finding(draw):
    assert check((draw(), (40, 20)), (draw('b.png'), (40.0, 20.0)), (draw('c.jpg', orientation=6), (20, 40))) == []


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda path: path.write_bytes(b''), 'the file is empty, 0 bytes'),
        (
            lambda path: path.write_bytes(path.read_bytes()[:500]),
            'OpenCV cannot decode it; its end is missing|its header is damaged',
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-300]), 'OpenCV cannot decode it; its end is missing'),
        (lambda path: path.write_text('<html>'), "it begins with b'<html>'"),
        (lambda path: (path.unlink(), os.mkfifo(path)), 'not a regular file'),
        (lambda path: (path.unlink(), path.mkdir()), 'Is a directory'),
        (lambda path: (path.unlink(), path.symlink_to('nowhere')), 'No such file or directory'),
    ],
)
def test_unreadable_images(draw, change, words):
    path = draw()
    change(path)
    [(level, text)] = check((path, (40, 20)), (draw('b.jpg'), (40, 20)))
    assert level == 'error'
    assert re.match(rf'1 image files cannot be read \(a.jpg: ({words})', text)
    assert text.count('a.jpg') == 1


def test_missing_images_are_left_to_the_other_checks(tmp_path):
    assert check((tmp_path / 'a.jpg', (40, 20)), (tmp_path / ('n' * 999), (1, 1)))[1:] == []


def test_a_png_with_the_name_of_a_jpeg_is_fine(draw):
    path = draw('a.png').rename(draw().with_name('b.jpg'))
    assert check((path, (40, 20))) == []


@pytest.mark.parametrize('orientation', [5, 6, 7, 8])
@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.webp', 'a.tif'])
def test_annotations_in_the_stored_orientation(draw, name, orientation):
    [(level, text)] = check((draw(name, orientation=orientation), (40, 20)))
    assert level == 'error'
    assert EXIF in text
    assert f'({name}: 40x20, loaded as 20x40)' in text


@pytest.mark.parametrize('size', [(20, 10), (41, 20), (-1, -1), (0, 20), (float('nan'), 20), (40.5, 20)])
@pytest.mark.parametrize('orientation', [1, 3, 6])
def test_another_size(draw, size, orientation):
    findings = [text for level, text in check((draw(orientation=orientation), size)) if level == 'error']
    assert len(findings) == 1
    assert OTHER in findings[0]
    assert f'a.jpg: {size[0]}x{size[1]}, loaded as ' in findings[0]


@pytest.mark.parametrize('orientation, side', [(2, 20), (3, 20), (4, 20), (6, 40)])
def test_a_rotation_that_the_size_does_not_show(draw, orientation, side):
    path = draw(size=(40, side), orientation=orientation)
    [(level, text)] = check((path, (40, side)))
    assert (level, UNSURE in text) == ('warning', True)
    assert check((path, (40, side)), (draw('b.jpg', orientation=6), (20, 40))) == []  # others show it


def test_a_data_set_that_ignores_the_orientation(draw):
    path = draw(orientation=6)
    assert check((path, (40, 20)), turned=False) == []
    assert OTHER in check((path, (20, 40)), turned=False)[0][1]


def test_masks_have_the_size_of_the_loaded_image(draw, tmp_path):
    mask = draw('mask.png', (40, 20), orientation=6)  # the loader ignores it
    assert check((draw(), None, mask)) == []
    assert EXIF in check((draw(orientation=6), None, mask))[0][1]
    assert OTHER in check((draw(size=(41, 20)), None, mask))[0][1]
    mask.write_bytes(b'')
    assert 'mask.png: the file is empty' in check((draw(), None, mask))[0][1]


def test_files_that_another_finding_names_are_not_named_again(tmp_path):
    path = tmp_path / 'mask.png'
    path.touch()
    finding = Finding('error', '1 masks cannot be decoded', [f'{path}: cannot be read'])
    report = pictures.examine(Report('', [finding], [ImageEntry('a.jpg', 'a.jpg', None, str(path))]))
    assert report.findings == [finding]


def test_other_processes_of_a_job_leave_it_to_the_first(draw, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert check((draw(), (1, 1))) == []


# --- the cache ---


@pytest.fixture
def remembered(draw, monkeypatch):
    """Return the path of an image; sizes are remembered even of a single one."""
    monkeypatch.setattr(pictures, 'REMEMBERED', 1)
    return str(draw())


def test_headers_are_read_once(remembered, monkeypatch):
    first = pictures.read_headers([remembered])
    monkeypatch.setattr(pictures, 'read_header', None)
    assert pictures.read_headers([remembered]) == first
    assert first[remembered].size == (40, 20)


def test_a_changed_file_is_read_again(remembered, draw):
    pictures.read_headers([remembered])
    draw(size=(30, 30))
    os.utime(remembered, ns=(0, 1))
    assert pictures.read_headers([remembered])[remembered].size == (30, 30)


def test_failures_are_not_remembered(remembered, cache):
    Path(remembered).write_bytes(b'')
    pictures.read_headers([remembered])
    assert not cache.exists()


@pytest.mark.parametrize(
    'content',
    [
        '',
        '{',
        '[]',
        '{"format": 1}',
        '{"format": 1, "files": []}',
        '{"format": 1, "files": {"%s": [1, 2, "x"]}}',
        '[' * 9999,
    ],
)
def test_a_damaged_cache_is_no_error(remembered, cache, content):
    first = pictures.read_headers([remembered])
    [file] = (cache / 'repvit_dense' / 'images').iterdir()
    file.write_text(content.replace('%s', remembered))
    assert pictures.read_headers([remembered]) == first
    assert json.loads(file.read_text())['files'][remembered][2:] == [40, 20, 1]


def test_a_cache_that_cannot_be_written_is_no_error(remembered, cache):
    cache.write_text('a file')
    assert pictures.read_headers([remembered])[remembered].size == (40, 20)


@pytest.mark.parametrize('home', ['', 'home'])
def test_the_folder_of_the_cache(home, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', home)
    monkeypatch.setenv('HOME', str(tmp_path))
    folder = pictures.cache_folder()
    assert folder.name == 'repvit_dense'
    assert folder.is_relative_to(home or tmp_path)


def test_few_images_need_no_cache(draw, cache):
    check((draw(), (40, 20)))
    assert not cache.exists()
