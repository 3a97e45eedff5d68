"""The table of heads and formats."""

from pathlib import Path

import pytest

from repvit_dense.benchmark import export_table
from repvit_dense.deploy.export import Row
from repvit_dense.errors import InputError

ROWS = [
    (
        'repvit_one',
        {'onnx': Row('onnx', Path('x'), 12.3, 45.6, '99.998% of pixels', 7.8, 2.14)},
        {'coreml': 'no operator'},
    ),
    ('repvit_two', {name: Row(name, Path('x'), 1, 2, 'not run here', None, None) for name in ('onnx', 'coreml')}, {}),
]


def test_a_cell_is_measured_or_says_why_not():
    lines = export_table.to_markdown(ROWS, ['onnx', 'coreml']).splitlines()
    assert lines[2:4] == ['| config | onnx | coreml |', '|---|---|---|']
    assert lines[4] == '| `repvit_one` | 99.998% of pixels, 8 ms (2.1x), 46 MB, written in 12 s | fails, see below |'
    assert lines[5] == '| `repvit_two` | not run here, 2 MB, written in 1 s | not run here, 2 MB, written in 1 s |'
    assert '- `repvit_one`, coreml: no operator' in lines


def test_the_table_goes_between_its_marks_and_nothing_else_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(export_table, 'export_head', lambda name, targets: ROWS[1][1:])
    page = tmp_path / 'deploy.md'
    page.write_text(f'before\n{export_table.BEGIN}\nold\n{export_table.END}\nafter\n')
    assert export_table.write(page, ['repvit_two'], ['onnx', 'coreml']) == 0
    text = page.read_text()
    assert text.startswith(f'before\n{export_table.BEGIN}\n')
    assert text.endswith(f'{export_table.END}\nafter\n')
    assert 'repvit_two' in text and 'old' not in text
    assert list(tmp_path.iterdir()) == [page]


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('nothing generated here')
    with pytest.raises(InputError, match=r'page\.md: the table goes between'):
        export_table.write(page, [], [])


def test_docs_have_the_marks():
    page = (Path(__file__).parents[2] / 'docs' / 'deploy.md').read_text()
    assert page.count(export_table.BEGIN) == page.count(export_table.END) == 1


@pytest.mark.slow
def test_a_head_is_exported(monkeypatch):
    monkeypatch.setattr(export_table, 'BACKBONE', 'repvit_m0_6')
    monkeypatch.setattr(export_table, 'SIZE', (64, 64))
    written, errors = export_table.export_head('repvit_segformer_shapes', ['torch'])
    assert errors == {}
    assert written['torch'].parity.endswith('of pixels')
