"""The best and the last checkpoint of a work dir are found; a damaged one is passed over."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from repvit_dense.checkpoints.work_dir import best_checkpoint, find_checkpoint, is_undamaged, last_checkpoint
from repvit_dense.errors import InputError


def write(folder, *names):
    """Save checkpoints, each newer than the one before."""
    folder.mkdir(exist_ok=True)
    for age, name in enumerate(names):
        torch.save({'state_dict': {'a': torch.zeros(10**4)}}, folder / name)
        os.utime(folder / name, (age, age))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path)  # torch does not notice


def test_the_newest_best_checkpoint_precedes_the_last(tmp_path):
    write(tmp_path, 'best_a_epoch_1.pth', 'best_a_epoch_10.pth', 'epoch_12.pth', 'best_x.pth.partial')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_12.pth'))
    assert best_checkpoint(tmp_path) == find_checkpoint(str(tmp_path)) == str(tmp_path / 'best_a_epoch_10.pth')
    for path in tmp_path.glob('best_a*'):
        path.unlink()
    assert best_checkpoint(tmp_path) is None
    assert find_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_12.pth')


@pytest.mark.parametrize('name', ['a.pth', 'https://example.org/a.pth', 'repvit_m1_1_coco.pth'])
def test_files_urls_and_catalogue_names_are_unchanged(name):
    assert find_checkpoint(name) == name


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    assert last_checkpoint(tmp_path) is None
    with pytest.raises(InputError, match=f'{tmp_path}: no checkpoint in this folder; name a checkpoint file'):
        find_checkpoint(str(tmp_path))


def test_a_copied_work_dir_uses_its_own_files(tmp_path):
    for name in ('original', 'copy'):
        write(tmp_path / name, 'epoch_1.pth')
        (tmp_path / name / 'last_checkpoint').write_text(str(tmp_path / 'original/epoch_1.pth'))
        assert last_checkpoint(tmp_path / name) == str(tmp_path / name / 'epoch_1.pth')


@pytest.mark.parametrize('damage', [lambda path: path.write_bytes(path.read_bytes()[:-100]), flip_a_bit, Path.unlink])
def test_the_checkpoint_before_a_damaged_or_missing_one(tmp_path, damage, capsys):
    names = ('epoch_1.pth', 'recent_iter_20.pth', 'epoch_2.pth', 'best_a_epoch_2.pth', 'interrupted_iter_9.pth.partial')
    write(tmp_path, *names)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    damage(tmp_path / 'epoch_2.pth')
    assert last_checkpoint(tmp_path) == str(tmp_path / 'recent_iter_20.pth')
    if damage is not Path.unlink:
        assert f'{tmp_path / "epoch_2.pth"}: damaged' in capsys.readouterr().err


def test_no_undamaged_checkpoint_is_left(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_3.pth')
    with pytest.raises(InputError, match=r'names /elsewhere/epoch_3\.pth, which is not there, and no other checkpoint'):
        last_checkpoint(tmp_path)
    (tmp_path / 'epoch_3.pth').write_bytes(b'PK\x03\x04 truncated')
    assert not is_undamaged(tmp_path / 'epoch_3.pth')
    with pytest.raises(InputError, match='which is damaged, and so is every other. Name a checkpoint: --resume'):
        last_checkpoint(tmp_path)


def test_the_module_is_light():
    code = 'import sys, repvit_dense.checkpoints.work_dir; print({"torch", "mmengine", "numpy"} & sys.modules.keys())'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'set()'


@pytest.mark.parametrize(
    'content', [b'', bytes(40), b'../..', b'\xff\xfe', b'x' * 10**6, b'/dev/zero', b'a\0b', b'a\n\nb']
)
def test_a_last_checkpoint_that_names_nothing(tmp_path, content, capsys):
    write(tmp_path, 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_bytes(content)
    assert last_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')
    note = capsys.readouterr().err
    assert 'which is not there' in note
    assert len(note) < 500


@pytest.mark.parametrize('make', [Path.mkdir, os.mkfifo])
def test_a_last_checkpoint_that_is_no_file(tmp_path, make):
    make(tmp_path / 'last_checkpoint')
    with pytest.raises(InputError, match='last_checkpoint: cannot be read'):
        last_checkpoint(tmp_path)


def test_folders_pipes_and_dangling_links_are_no_checkpoints(tmp_path):
    (tmp_path / 'best_b.pth').mkdir()
    os.mkfifo(tmp_path / 'best_c.pth')
    (tmp_path / 'best_d.pth').symlink_to(tmp_path / 'missing')
    write(tmp_path, 'best_a[1] (x).pth')
    assert best_checkpoint(tmp_path) == str(tmp_path / 'best_a[1] (x).pth')


def test_the_choice_between_best_checkpoints_is_said(tmp_path, capsys):
    write(tmp_path, 'best_mIoU.pth', 'best_PQ.pth')
    assert best_checkpoint(tmp_path) == str(tmp_path / 'best_PQ.pth')
    assert 'best_PQ.pth: taken as the newest best checkpoint, there is best_mIoU.pth too' in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(torch.serialization, 'set_crc32_options'), reason='this torch writes checksums always')
def test_a_checkpoint_without_checksums_counts_as_undamaged(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        write(tmp_path, 'a.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    assert is_undamaged(tmp_path / 'a.pth')
