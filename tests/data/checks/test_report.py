import pytest

from repvit_dense.data.checks import Finding, Report, enforce
from repvit_dense.errors import InputError


def test_a_message_names_twenty_offenders_and_counts_the_others():
    text = str(Finding('error', 'bad', [f'n{i}' for i in range(1022)]))
    assert text.startswith('bad (n0, n1, ')
    assert text.endswith(', n19 and 1,002 more)')


def test_one_message_has_all_errors_and_no_warning():
    findings = [Finding('error', 'one', ['a']), Finding('warning', 'two', []), Finding('error', 'three', [])]
    with pytest.raises(InputError) as refused:
        enforce('f.json', Report('', findings))
    assert str(refused.value) == 'f.json: one (a); three'


@pytest.mark.parametrize('rank, printed', [('0', 'warning: f.json: two (a)\n'), ('1', '')])
def test_one_process_prints_the_warnings(capsys, monkeypatch, rank, printed):
    monkeypatch.setenv('LOCAL_RANK', rank)
    enforce('f.json', Report('', [Finding('warning', 'two', ['a'])]))
    assert capsys.readouterr().err == printed
