"""Files are replaced by complete ones or not at all, only regular files are opened, and walks through links end."""

import errno
import os

import numpy as np
import pytest

from repvit_dense.errors import InputError
from repvit_dense.files import check_writable, encode_image, read_bytes, replacing, walk, write_text


def test_text_is_written_as_utf8_without_other_files(tmp_path):
    write_text(tmp_path / 'a.txt', 'Straße\n')
    assert (tmp_path / 'a.txt').read_bytes() == b'Stra\xc3\x9fe\n'
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']


def test_an_older_file_is_replaced(tmp_path):
    (tmp_path / 'a.txt').write_text('a longer old text')
    write_text(str(tmp_path / 'a.txt'), 'new')
    assert (tmp_path / 'a.txt').read_text() == 'new'


def test_a_failed_write_keeps_the_old_file(tmp_path):
    (tmp_path / 'a.txt').write_text('old')
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / 'a.txt', 'half of it ' * 10_000 + '\ud800')
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']
    assert (tmp_path / 'a.txt').read_text() == 'old'


def test_a_folder_of_that_name_is_not_replaced(tmp_path):
    (tmp_path / 'a.txt').mkdir()
    with pytest.raises(OSError, match='a.txt'):
        write_text(tmp_path / 'a.txt', 'new')
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']


def test_a_killed_process_leaves_one_file_that_the_next_attempt_overwrites(tmp_path):
    (tmp_path / 'a.pth.partial').write_text('left by a killed process')
    with replacing(tmp_path / 'a.pth', reuse=True) as partial:
        assert partial == tmp_path / 'a.pth.partial'
        partial.write_text('new')
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']
    assert (tmp_path / 'a.pth').read_text() == 'new'


def test_temporary_names_are_unique_and_keep_the_suffix(tmp_path):
    with replacing(tmp_path / 'a.png') as first, replacing(tmp_path / 'a.png') as second:
        assert first != second
        assert first.suffix == second.suffix == '.png'
        first.touch(), second.touch()


@pytest.mark.parametrize('name', ['x' * 300, 'nul\0', 'surrogate\ud800', 'missing', '.'])
def test_a_name_that_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(InputError, match='cannot be read'):
        read_bytes(tmp_path / name)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / 'a.png')
    with pytest.raises(InputError, match=r'a\.png: cannot be read \(not a regular file\)'):
        read_bytes(tmp_path / 'a.png')


def test_a_file_over_the_limit_is_refused(tmp_path):
    (tmp_path / 'a').write_bytes(b'1234')
    assert read_bytes(tmp_path / 'a', 4) == b'1234'
    with pytest.raises(InputError, match='has 4 bytes, at most 3'):
        read_bytes(tmp_path / 'a', 3)


def test_a_walk_follows_links_and_reads_every_folder_once(tmp_path):
    (tmp_path / 'a/b').mkdir(parents=True)
    (tmp_path / 'outside').mkdir()
    for name in ('a/1', 'a/b/2', 'outside/3'):
        (tmp_path / name).touch()
    (tmp_path / 'a/linked').symlink_to(tmp_path / 'outside')
    (tmp_path / 'a/again').symlink_to(tmp_path / 'a/b')
    (tmp_path / 'a/b/loop').symlink_to(tmp_path / 'a')
    (tmp_path / 'a/lost').symlink_to(tmp_path / 'nowhere')
    found = sorted(path.relative_to(tmp_path / 'a').as_posix() for path in walk(tmp_path / 'a'))
    assert found == ['1', 'b/2', 'linked/3', 'lost']


def test_a_walk_yields_a_subfolder_that_cannot_be_read_or_names_it(tmp_path, monkeypatch):
    scandir = os.scandir

    def failing(folder):
        if folder.name == 'locked':
            raise PermissionError(errno.EACCES, 'Permission denied')
        return scandir(folder)

    (tmp_path / 'locked').mkdir()
    (tmp_path / 'open').touch()
    monkeypatch.setattr(os, 'scandir', failing)
    assert sorted(path.name for path in walk(tmp_path, keep_unreadable=True)) == ['locked', 'open']
    for folder, keep in ((tmp_path, False), (tmp_path / 'locked', True)):
        with pytest.raises(InputError, match='locked: cannot be read .Permission denied'):
            list(walk(folder, keep))


def test_a_walk_through_folders_that_link_to_each_other_takes_no_longer_than_one_without_links(tmp_path):
    folders = [tmp_path / str(number) for number in range(30)]
    for folder in folders:
        folder.mkdir()
        (folder / 'file').touch()
    for folder in folders:
        for other in folders:
            (folder / f'to-{other.name}').symlink_to(other)
    assert len(list(walk(tmp_path))) == 30


def test_a_file_with_the_longest_possible_name_is_written(tmp_path):
    write_text(tmp_path / f'{"x" * 251}.txt', 'text')
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('name', ['.', 'new', 'new/below'])
def test_a_folder_that_can_be_written_is_not_created_yet(tmp_path, name):
    check_writable(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['file', 'file/below', 'x' * 300, '/dev/null'])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='nothing can be written there'):
        check_writable(tmp_path / name)


@pytest.mark.parametrize('suffix', ['.nonsense', '', '.jpg'])
def test_an_image_that_cannot_be_encoded_is_refused(suffix):
    with pytest.raises(InputError, match='cannot write 70000x1 pixels to a file with the suffix'):
        encode_image(np.zeros((1, 70_000), np.uint8), suffix)
