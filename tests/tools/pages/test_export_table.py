"""Test the table of heads and formats in docs/deploy.md."""

from pathlib import Path

import pytest

from repvit_dense.errors import InputError
from repvit_dense.exporting.results import ExportResult
from tools.pages import export_table

MEASURED = ExportResult('onnx', Path('x'), 12.3, 45.6, '99.998% of pixels', 7.8, 2.14, [])
NOT_RUN = ExportResult('coreml', Path('x'), 1, 2, 'not run here', None, None, [])


def test_a_cell_has_a_measurement_or_a_reason():
    row = export_table.row_of(
        'repvit_one', {'onnx': MEASURED, 'coreml': NOT_RUN}, {'torch': 'no'}, ['onnx', 'coreml', 'torch']
    )
    cells = ['99.998% of pixels, 8 ms (2.1x), 46 MB, written in 12 s', 'not run here, 2 MB, written in 1 s']
    assert row == f'| `repvit_one` | {cells[0]} | {cells[1]} | fails, see below |'


def test_failures_and_differences_beyond_the_tolerance_have_a_note():
    notes = export_table.notes_of(
        'repvit_one', {'onnx': MEASURED._replace(failures=['boxes: far'])}, {'coreml': 'no operator'}
    )
    assert notes == [
        '- `repvit_one`, coreml: no operator',
        '- `repvit_one`, onnx: beyond the tolerance: boxes: far',
    ]


def test_only_the_text_between_the_marks_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(export_table, 'export_head', lambda name, targets: ({'onnx': MEASURED}, {}))
    page = tmp_path / 'deploy.md'
    page.write_text(f'before\n{export_table.BEGIN}\nold\n{export_table.END}\nafter\n')
    assert export_table.write(page, ['repvit_two'], ['onnx']) == 0
    text = page.read_text()
    assert text.startswith(f'before\n{export_table.BEGIN}\n')
    assert text.endswith(f'{export_table.END}\nafter\n')
    assert 'repvit_two' in text and 'old' not in text
    assert list(tmp_path.iterdir()) == [page]


def test_rows_of_other_heads_stay(tmp_path, monkeypatch):
    page = tmp_path / 'deploy.md'
    page.write_text(f'{export_table.BEGIN}\n{export_table.END}\n')
    monkeypatch.setattr(export_table, 'export_head', lambda name, targets: ({}, {'onnx': 'no operator'}))
    assert export_table.write(page, ['repvit_one', 'repvit_two'], ['onnx']) == 2
    monkeypatch.setattr(export_table, 'export_head', lambda name, targets: ({'onnx': MEASURED}, {}))
    assert export_table.write(page, ['repvit_two'], ['onnx']) == 0
    rows = [line for line in page.read_text().splitlines() if 'repvit' in line and line[0] in '|-']
    assert len(rows) == 3  # two rows, one note
    assert rows[0] == '| `repvit_one` | fails, see below |'
    assert rows[1].startswith('| `repvit_two` | 99.998%')
    assert rows[2] == '- `repvit_one`, onnx: no operator'


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('nothing generated here')
    with pytest.raises(InputError, match=r'page\.md: the table needs the lines'):
        export_table.write(page, [], [])


def test_docs_have_the_marks():
    page = (Path(__file__).parents[3] / 'docs' / 'deploy.md').read_text()
    assert page.count(export_table.BEGIN) == page.count(export_table.END) == 1


@pytest.mark.slow
def test_a_head_is_exported(monkeypatch):
    monkeypatch.setattr(export_table, 'BACKBONE', 'repvit_m0_6')
    monkeypatch.setattr(export_table, 'SIZE', (64, 64))
    written, errors = export_table.export_head('repvit_segformer_shapes', ['torch'])
    assert errors == {}
    assert written['torch'].parity.endswith('of pixels')
