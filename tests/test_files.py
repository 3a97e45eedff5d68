"""Files are replaced by complete ones or not at all."""

import pytest

from repvit_dense.files import replacing, write_text


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
