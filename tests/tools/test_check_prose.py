"""Rates of phrasing are counted over comments and docstrings, and the exit status says whether one is too high."""

import pytest

from tools import check_prose


@pytest.fixture
def source(tmp_path):
    """Return a function that writes source text to a file and returns its path."""

    def write(text):
        path = tmp_path / 'module.py'
        path.write_text(text)
        return path

    return write


def test_comments_and_docstrings_are_read_and_strings_are_not(source):
    path = source(
        '"""Read images."""\n'
        'if True:\n'
        '    class Reader:\n'
        '        """A reader."""\n'
        '        def read(self):  # in pixels\n'
        '            """Return `what` it finds."""\n'
        "            return 'what # where'\n"
    )
    texts = sorted((text.line, text.text, text.is_docstring) for text in check_prose.read_texts(path))
    assert texts == [
        (1, 'Read images.', True),
        (4, 'A reader.', True),
        (5, 'in pixels', False),
        (6, 'Return `what` it finds.', True),
    ]


def test_code_in_backticks_is_not_prose():
    assert check_prose.split_words("Return `what`, if the image's size is 32x32.") == [
        *('return', 'if', 'the', "image's", 'size', 'is', 'x')
    ]


@pytest.mark.parametrize(
    ('text', 'status', 'line'),
    [
        ('"""Read images."""\n', 0, '"what": 0.00 per 1,000 words (at most 1.0)'),
        ('# what it does, and what not\n', 1, '"what": 333.33 per 1,000 words (at most 1.0)'),
        ('# where it is stored\n', 1, '"where": 250.00 per 1,000 words (at most 2.5)'),
        ('"""With images."""\n', 1, 'docstrings that begin without a verb: 100.0% of 1 (at most 2%)'),
        ('', 0, 'docstrings that begin without a verb: 0.0% of 0 (at most 2%)'),
    ],
)
def test_a_rate_above_its_limit_fails(source, capsys, text, status, line):
    assert check_prose.main([str(source(text))]) == status
    assert line in capsys.readouterr().out.splitlines()


def test_list_names_each_comment_once(source, capsys):
    path = source('# what is here and where\nx = 1  # nothing to count\n')
    check_prose.main(['--list', str(path)])
    assert capsys.readouterr().out.splitlines()[3:] == [f'{path}:1: what is here and where']


def test_a_folder_is_searched_for_python_files(source, tmp_path, capsys):
    source('"""With images."""\n')
    (tmp_path / 'notes.txt').write_text('"""With notes."""\n')
    assert check_prose.main([str(tmp_path)]) == 1
    assert '100.0% of 1 ' in capsys.readouterr().out


def test_a_file_that_does_not_parse_is_named(source):
    path = source('def\n')
    with pytest.raises(SyntaxError) as error:
        check_prose.main([str(path)])
    assert error.value.filename == str(path)
