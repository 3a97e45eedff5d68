"""Files of COCO data: the images that exist, and their entries for the checks of images."""

import os

import pytest

from repvit_dense.data.checks.coco_file import existing_files, listed_images, missing_images
from repvit_dense.errors import InputError


@pytest.mark.parametrize(
    'name', ['a.jpg', 'b/c.jpg', 'b/../a.jpg', 'a [1].jpg', 'line\nbreak.jpg', 'link.jpg', 'linked/c.jpg', 'pipe.jpg']
)
def test_names_of_every_kind_exist(tmp_path, name):
    (tmp_path / 'b').mkdir()
    for file in ('a.jpg', 'b/c.jpg', 'a [1].jpg', 'line\nbreak.jpg'):
        (tmp_path / file).touch()
    (tmp_path / 'link.jpg').symlink_to('a.jpg')
    (tmp_path / 'linked').symlink_to('b')
    os.mkfifo(tmp_path / 'pipe.jpg')
    assert existing_files(tmp_path, [name, 'none.jpg', 'none/a.jpg', 'a.jpg/b']) == {name}
    assert existing_files(tmp_path / 'b', [str(tmp_path / name)]) == {str(tmp_path / name)}


@pytest.mark.parametrize('name', ['', 'n' * 5000, '\0', '\ud800.jpg', '\ud800/a.jpg', '..', 'a/\0/b'])
def test_names_that_no_file_has(tmp_path, name):
    assert existing_files(tmp_path, [name]) <= {'..'}


def test_a_folder_in_a_folder_without_the_name_of_bytes(tmp_path):
    folder = os.fsencode(tmp_path) + b'/\xff'
    os.mkdir(folder)  # noqa: PTH102
    name = os.fsdecode(b'\xff/a.jpg')
    (tmp_path / name).touch()
    assert existing_files(tmp_path, [name]) == {name}


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(os, 'listdir', refuse)
    with pytest.raises(InputError, match='images: cannot be read .Permission denied'):
        missing_images(tmp_path / 'images', [{'file_name': 'a.jpg'}])


def test_entries_of_the_images(tmp_path):
    records = [{'file_name': 'b/a.jpg', 'width': 4, 'height': 3}]
    [entry] = listed_images(tmp_path, records, tmp_path / 'maps')
    assert entry == ('b/a.jpg', str(tmp_path / 'b/a.jpg'), (4, 3), str(tmp_path / 'maps/b/a.png'))
    assert listed_images(tmp_path, records)[0].mask == ''
