from pathlib import Path

import pytest

from repvit_dense.data.lookup import child, image_folder, in_test_folder, locate, read_lines, shortened, split_of
from repvit_dense.errors import InputError


@pytest.mark.parametrize(
    'name, split',
    [
        *[('instances_train2017', 'train'), ('training', 'train'), ('Train', 'train'), ('trainval', 'train')],
        *[('train_val', 'train'), ('valid', 'val'), ('instances_val2017', 'val'), ('validation', 'val')],
        *[('test', 'test'), ('testing', 'test'), ('image_info_test-dev2017', 'test'), ('test_project_train', 'train')],
        *[('values', None), ('valley', None), ('images', None), ('constrain', None), ('', None)],
    ],
)
def test_split_of(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize(
    'path, is_test',
    [
        *[(f'{name}/1.jpg', True) for name in ('test', 'a/Test', 'test2017/a', 'images_test', 'test-dev', 'testing')],
        *[(f'{name}/1.jpg', False) for name in ('test_rig', 'latest', 'contest', 'a', '/test')],
        ('test.jpg', False),
    ],
)
def test_test_folders(path, is_test):
    assert in_test_folder(Path(path)) == is_test


def test_child_ignores_capitals_if_the_exact_name_does_not_exist(tmp_path):
    (tmp_path / 'IMAGES').mkdir()
    assert child(tmp_path, 'images') == tmp_path / 'IMAGES'
    (tmp_path / 'images').mkdir()
    assert child(tmp_path, 'images') == tmp_path / 'images'
    assert child(tmp_path / 'nowhere', 'a') == tmp_path / 'nowhere/a'


def test_lines(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbfa b \r\n\r\n\tc\x0cd\re')
    assert read_lines(tmp_path / 'a.txt') == ['a b', 'c\x0cd', 'e']


def test_locate(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/b.png').touch()
    for name in ('a/b.png', 'a\\b.png', './a/b.png', str(tmp_path / 'a/b.png')):
        assert locate([Path('nowhere'), tmp_path], name) == tmp_path / 'a/b.png'
    for name in ('a', 'a\0b', 'x' * 5000, '\ud800'):
        assert locate([tmp_path], name) is None


@pytest.mark.parametrize('number, short', [(0, 'C:/a/b.png'), (1, 'a/b.png'), (2, 'b.png'), (9, 'b.png')])
def test_shortened(number, short):
    assert shortened('C:\\a\\.\\b.png', number) == short


@pytest.fixture
def tree(tmp_path):
    """Return a folder with the image `train/a/1.png` and others."""
    for name in ('train/a/1.png', 'test/2.png', 'more/3.png', 'more/4.png', 'other/3.png'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    'names, folder, number',
    [
        (['a/1.png'], 'train', None),
        (['train/a/1.png'], '.', None),
        (['a\\1.png'], 'train', 0),
        (['data/train/a/1.png', None, 5], '.', 1),
        (['C:\\data\\a\\1.png'], 'train', 2),
        (['3.png', '4.png'], 'more', None),
    ],
)
def test_image_folder(tree, names, folder, number):
    content = {'images': [{'file_name': name} for name in names]}
    assert image_folder(tree, tree / 'train.json', content) == (folder, number)


@pytest.mark.parametrize('names', [['2.png'], ['\ud800', 'x' * 5000, 'a\0', '/' * 3000, '']])
def test_images_that_are_nowhere_or_in_a_test_split(tree, names):
    with pytest.raises(InputError, match='are in none of'):
        image_folder(tree, tree / 'all.json', {'images': [{'file_name': name} for name in names]})


def test_a_file_without_images(tree):
    with pytest.raises(InputError, match='all.json: lists no images'):
        image_folder(tree, tree / 'all.json', {'images': []})
