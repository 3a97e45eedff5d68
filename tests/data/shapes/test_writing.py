import hashlib
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from repvit_dense.data.shapes import SPLITS, STAMP, generate, writing


def hashes(folder):
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob('*') if p.is_file()}


def small(root, **kwargs):
    return generate(root, **{'num_train': 2, 'num_val': 1, 'size': (64, 96), **kwargs})


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    first = hashes(small(tmp_path / 'a'))
    assert first == hashes(small(tmp_path / 'b'))
    other = hashes(small(tmp_path / 'c', seed=1))
    assert first.keys() == other.keys()
    assert all(first[path] != other[path] for path in first if path.parts[0] in SPLITS)


def test_splits_and_images_are_independent(tmp_path):
    few, more = hashes(small(tmp_path / 'few')), hashes(small(tmp_path / 'more', num_train=4))
    val = [path for path in few if 'val2017' in str(path)]
    images = [path for path in few if path.parts[0] == 'train2017']
    assert len(val) == 5
    assert len(images) == 2
    assert all(few[path] == more[path] for path in val + images)
    pixels = [value for path, value in more.items() if path.parts[0] in SPLITS]
    assert len(set(pixels)) == len(pixels) == 5


def test_layout(drawn):
    annotations = {f'{kind}_{split}.json' for kind in ('instances', 'panoptic') for split in SPLITS}
    annotations |= {f'{kind}_{split}' for kind in ('panoptic', 'semantic') for split in SPLITS}
    assert {path.name for path in drawn.root.iterdir()} == {*SPLITS, 'annotations', STAMP}
    assert {path.name for path in (drawn.root / 'annotations').iterdir()} == annotations
    for split, number in zip(SPLITS, (drawn.num_train, drawn.num_val), strict=True):
        names = [f'{index:012d}.png' for index in range(1, number + 1)]
        for folder in (split, f'annotations/panoptic_{split}', f'annotations/semantic_{split}'):
            assert sorted(path.name for path in (drawn.root / folder).iterdir()) == names


def test_an_existing_data_set_is_not_drawn_again(tmp_path):
    root = small(tmp_path / 'shapes')
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    (root / 'notes.txt').write_text('mine')  # a complete data set may have other files beside it

    def fail(done, total):
        raise AssertionError('drew again')

    assert small(str(root), progress=fail) == root
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize('change', [{'seed': 1}, {'num_train': 1}, {'num_val': 2}, {'size': (64, 64)}])
def test_other_arguments_replace_the_data_set(tmp_path, change):
    small(tmp_path / 'shapes')
    assert hashes(small(tmp_path / 'shapes', **change)) == hashes(small(tmp_path / 'new', **change))
    assert {path.name for path in tmp_path.iterdir()} == {'shapes', 'new'}


def test_another_format_or_a_missing_part_is_drawn_again(tmp_path, monkeypatch):
    root = small(tmp_path / 'shapes')
    expected = hashes(root)
    shutil.rmtree(root / 'annotations/semantic_val2017')
    assert hashes(small(root)) == expected
    monkeypatch.setattr(writing, 'FORMAT', writing.FORMAT + 1)
    small(root)
    assert json.loads((root / STAMP).read_text())['format'] == writing.FORMAT


@pytest.mark.parametrize('content', ['file.txt', 'train2017/a.jpg', STAMP])
def test_a_folder_with_other_content_is_refused(tmp_path, content):
    path = tmp_path / 'mine' / content
    path.parent.mkdir(parents=True)
    path.write_text('{}')
    with pytest.raises(ValueError, match='mine.*name another folder'):
        small(tmp_path / 'mine')
    assert [p for p in tmp_path.rglob('*') if p.is_file()] == [path]


def test_a_foreign_file_is_not_deleted(tmp_path):
    root = small(tmp_path / 'shapes')
    (root / 'annotations/mine.json').write_text('{}')
    before = hashes(root)
    with pytest.raises(ValueError, match='annotations/mine.json'):
        small(root, seed=1)
    assert hashes(root) == before


def test_a_file_with_the_name_of_the_folder_is_refused(tmp_path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(ValueError, match='file'):
        small(tmp_path / 'file')
    assert (tmp_path / 'file').read_text() == 'mine'


def test_missing_parents_empty_folders_and_links_are_accepted(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'empty')
    expected = hashes(small(tmp_path / 'a/b/shapes'))
    assert hashes(small(tmp_path / 'link')) == expected
    assert (tmp_path / 'link').is_symlink()
    assert hashes(tmp_path / 'empty') == expected


@pytest.mark.parametrize('existing', [False, True])
@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_an_interruption_changes_nothing(tmp_path, existing, error):
    if existing:
        small(tmp_path / 'shapes')
    before = hashes(tmp_path)

    def stop(done, total):
        if done == 2:
            raise error

    with pytest.raises(error):
        small(tmp_path / 'shapes', seed=1, progress=stop)
    assert hashes(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ['shapes'] * existing


@pytest.mark.parametrize('seeds', [(0, 0), (0, 1)])
def test_two_processes_leave_one_complete_data_set(tmp_path, seeds):
    """Both have drawn all images before either renames its folder."""
    barrier = threading.Barrier(2)

    def meet(done, total):
        if done == total:
            barrier.wait(timeout=60)

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(small, tmp_path / 'shapes', seed=seed, progress=meet) for seed in seeds]
    assert [job.result() for job in jobs] == [tmp_path / 'shapes'] * 2
    result = hashes(tmp_path / 'shapes')
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']
    assert result in [hashes(small(tmp_path / f'alone{seed}', seed=seed)) for seed in set(seeds)]


def test_progress(tmp_path):
    calls = []
    small(tmp_path / 'shapes', progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    'arguments',
    [{'num_train': 0}, {'num_val': 0}, {'seed': -1}, {'size': (63, 320)}, {'size': (320, 0)}, {'size': (64,)}],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError):
        small(tmp_path / 'shapes', **arguments)
    assert not list(tmp_path.iterdir())
