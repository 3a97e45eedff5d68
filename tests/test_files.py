import pytest

from repvit_dense.files import write_text


def test_the_text_is_written_as_utf8_and_nothing_else_stays(tmp_path):
    write_text(tmp_path / 'a.txt', 'Straße\n')
    assert (tmp_path / 'a.txt').read_bytes() == b'Stra\xc3\x9fe\n'
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']


def test_an_older_file_is_replaced(tmp_path):
    (tmp_path / 'a.txt').write_text('a longer old text')
    write_text(str(tmp_path / 'a.txt'), 'new')
    assert (tmp_path / 'a.txt').read_text() == 'new'


def test_a_failed_write_leaves_what_was_there(tmp_path):
    (tmp_path / 'a.txt').write_text('old')
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / 'a.txt', 'half of it ' * 10_000 + '\ud800')
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']
    assert (tmp_path / 'a.txt').read_text() == 'old'


def test_a_folder_in_the_way_is_left_alone(tmp_path):
    (tmp_path / 'a.txt').mkdir()
    with pytest.raises(OSError, match='a.txt'):
        write_text(tmp_path / 'a.txt', 'new')
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']
