"""Values of options that no command accepts are refused in Python too."""

import argparse
import dataclasses

import pytest

from repvit_dense.errors import InputError
from repvit_dense.options import check, image_size, option, positive_number, whole_number


@dataclasses.dataclass
class Options:
    """Options of each kind."""

    images: list[str] = option([], positional=True, metavar='IMAGE', help='images')
    work_dir: str | None = option(None, help='folder')
    count: int | None = option(None, type=whole_number(1, 10), help='number')
    size: int | tuple[int, int] | None = option(None, type=image_size, help='size')
    rate: float | None = option(None, type=positive_number, help='rate')
    level: str = option('low', choices=('low', 'high'), help='level')


def test_possible_values():
    check(Options(['a.jpg'], 'w', 10, 640, 1e-3, 'high'))
    check(Options(size=(640, 480), rate=1))


@pytest.mark.parametrize(
    'values, words',
    [
        ({'work_dir': ''}, '--work-dir: the value is empty'),
        ({'images': ['a.jpg', ' ']}, 'IMAGE: the value is empty'),
        ({'work_dir': 'a\0b'}, r'--work-dir a\\x00b: contains a NUL character'),
        ({'count': 0}, 'count=0: must be a whole number from 1 to 10'),
        ({'count': True}, 'count=True: must be a whole number'),
        ({'count': '5'}, "count='5': must be a whole number"),
        ({'size': (640, 480, 3)}, r'size=\(640, 480, 3\): must be a number of pixels'),
        ({'size': 0}, 'size=0: must be a number of pixels'),
        ({'size': '640'}, "size='640': must be a number of pixels"),
        ({'rate': 0}, 'rate=0: must be a number above 0'),
        ({'rate': float('nan')}, 'rate=nan: must be a number above 0'),
        ({'level': 'middle'}, "level='middle': expected 'low', 'high'"),
    ],
)
def test_impossible_values(values, words):
    with pytest.raises(InputError, match=words):
        check(Options(**values))


@pytest.mark.parametrize('text, expected', [('640', 640), ('1024x768', (1024, 768)), ('1024X768', (1024, 768))])
def test_sizes_of_the_command_line(text, expected):
    assert image_size(text) == expected


@pytest.mark.parametrize('text', ['0', 'x', '640x', '640,480', '-1', '6.4', '999999', '640x480x3'])
def test_other_words_are_no_sizes(text):
    with pytest.raises(argparse.ArgumentTypeError, match='must be a number of pixels'):
        image_size(text)


@pytest.mark.parametrize('text', ['0', '-1', 'nan', 'inf', 'x', ''])
def test_other_words_are_no_rates(text):
    with pytest.raises(argparse.ArgumentTypeError, match='must be a number above 0'):
        positive_number(text)
