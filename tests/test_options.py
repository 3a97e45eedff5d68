"""Values of options that no command accepts are refused in Python too."""

import dataclasses

import pytest

from repvit_dense.errors import InputError
from repvit_dense.options import check, option, whole_number


@dataclasses.dataclass
class Options:
    """Options of each kind."""

    images: list[str] = option([], positional=True, metavar='IMAGE', help='images')
    work_dir: str | None = option(None, help='folder')
    count: int | None = option(None, type=whole_number(1, 10), help='number')
    level: str = option('low', choices=('low', 'high'), help='level')


def test_possible_values():
    check(Options(['a.jpg'], 'w', 10, 'high'))


@pytest.mark.parametrize(
    'values, words',
    [
        ({'work_dir': ''}, '--work-dir: the value is empty'),
        ({'images': ['a.jpg', ' ']}, 'IMAGE: the value is empty'),
        ({'work_dir': 'a\0b'}, r'--work-dir a\\x00b: contains a NUL character'),
        ({'count': 0}, 'count=0: must be a whole number from 1 to 10'),
        ({'count': True}, 'count=True: must be a whole number'),
        ({'count': '5'}, "count='5': must be a whole number"),
        ({'level': 'middle'}, "level='middle': expected 'low', 'high'"),
    ],
)
def test_impossible_values(values, words):
    with pytest.raises(InputError, match=words):
        check(Options(**values))
