"""The folders of artifacts: refused places, foreign files, replacement, full disks."""

import errno
import json
import os
import shutil
from collections import namedtuple

import pytest

from repvit_dense.errors import InputError
from repvit_dense.exporting import folders


def write_artifact(folder, **certificate):
    folder.mkdir(parents=True)
    content = {'task': 'semantic', 'target': 'onnx', 'certificate': certificate}
    (folder / 'manifest.json').write_text(json.dumps(content))
    (folder / 'model.onnx').write_text('model')
    return folder


def test_a_place_that_does_not_exist_yet(tmp_path):
    folders.check_place(tmp_path / 'a/b')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['file', 'file/below', 'link', 'x' * 300])
def test_a_place_that_cannot_be_a_folder(tmp_path, name):
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'link').symlink_to('nowhere')
    with pytest.raises(InputError) as raised:
        folders.check_place(tmp_path / name)
    assert str(raised.value).count('--out DIR') == 1


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(path, *args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, 'mkdir', refuse)
    with pytest.raises(InputError, match=r'a: cannot be written \(Read-only file system\); name another folder'):
        folders.check_place(tmp_path / 'a')


def test_an_artifact_may_be_replaced(tmp_path):
    folder = write_artifact(tmp_path / 'onnx')
    (folder / '.DS_Store').touch()
    assert folders.check_folder(folder) == folder


def test_a_folder_with_other_files_may_not(tmp_path):
    folder = write_artifact(tmp_path / 'onnx')
    for name in ('notes.txt', 'a', 'b', 'c'):
        (folder / name).write_text('mine')
    with pytest.raises(
        InputError, match=r'onnx: would be replaced, but contains a, b, c, \.\.\., which no export wrote'
    ):
        folders.check_folder(folder)


@pytest.mark.parametrize('content', [None, '{}', '{"name": "extension", "manifest_version": 3}', '[', '[' * 10_000])
def test_a_folder_without_a_manifest_of_an_artifact_may_not(tmp_path, content):
    if content is not None:
        (tmp_path / 'manifest.json').write_text(content)
    with pytest.raises(InputError, match='exists and is not an artifact'):
        folders.check_folder(tmp_path)


def test_neighbours_with_similar_names_are_kept(tmp_path):
    for name in ('onnx.old', 'onnx.partial'):
        (tmp_path / name).mkdir()
    write_artifact(tmp_path / 'onnx')
    with folders.partial_folder(tmp_path / 'onnx') as partial:
        (partial / 'new').touch()
        folders.move(partial, tmp_path / 'onnx')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['onnx', 'onnx.old', 'onnx.partial']
    assert [path.name for path in (tmp_path / 'onnx').iterdir()] == ['new']


def test_a_link_to_an_artifact_is_replaced_and_its_target_is_kept(tmp_path):
    real = write_artifact(tmp_path / 'elsewhere')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/onnx').symlink_to(real)
    assert folders.check_folder(tmp_path / 'out/onnx')
    with folders.partial_folder(tmp_path / 'out/onnx') as partial:
        folders.move(partial, tmp_path / 'out/onnx')
    assert len(list(real.iterdir())) == 2
    assert [path.is_symlink() for path in (tmp_path / 'out').iterdir()] == [False]


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (OSError(errno.ENOSPC, 'No space left on device'), r'onnx: cannot be written \(No space left on device\)'),
        (RuntimeError('stream'), None),
    ],
)
def test_a_failure_leaves_nothing(tmp_path, error, message):
    with (
        pytest.raises(InputError if message else RuntimeError, match=message),
        folders.partial_folder(tmp_path / 'out/onnx') as partial,
    ):
        (partial / 'half').touch()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_any_error_on_a_full_disk_is_put_down_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: namedtuple('Usage', 'free')(4096))
    with pytest.raises(InputError, match='the disk of .*out is full'), folders.partial_folder(tmp_path / 'out/onnx'):
        raise RuntimeError('unexpected position 2064448')


def test_an_artifact_with_tied_scores_replaces_no_verified_one(tmp_path):
    assert folders.tied_folder(tmp_path / 'onnx') == tmp_path / 'onnx'
    write_artifact(tmp_path / 'onnx', tied=0.3)
    assert folders.tied_folder(tmp_path / 'onnx') == tmp_path / 'onnx'
    write_artifact(tmp_path / 'torch', failures=[])
    assert folders.tied_folder(tmp_path / 'torch') == tmp_path / 'torch-tied'
