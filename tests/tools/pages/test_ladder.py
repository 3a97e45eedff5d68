"""The page of the ladder: a small run from measuring to page and picture, and what stands on it."""

import argparse

import pytest

from repvit_dense import benchmark
from repvit_dense.backbones.ladder import STEPS
from tools.pages import ladder
from tools.pages.ladder import FORMS, Row
from repvit_dense.errors import InputError


def rows():
    seconds = dict.fromkeys(FORMS, 0.0125)
    return [Row(2_816_432 + rung, 2_805_192, 0.2066e9, 1.08e9, seconds) for rung in range(len(STEPS))]


def lines_of(page, start):
    return [line for line in page.splitlines() if line.startswith(start)]


@pytest.mark.slow
def test_the_command_measures_draws_and_writes(tmp_path, monkeypatch):
    # Two rungs, and one that is the one below.
    monkeypatch.setattr(ladder, 'STEPS', (STEPS[7], STEPS[8], STEPS[5]))
    monkeypatch.setattr(ladder, 'row_sources', lambda: ['one', 'two', 'three'])
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    file = tmp_path / 'ladder.md'
    assert benchmark.run(parser.parse_args(['--ladder', str(file), '--size', '64', '96', '--rounds', '1'])) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ['ladder.md', 'ladder.png']
    assert file.with_suffix('.png').stat().st_size > 5000
    page = file.read_text()
    table = [line.split('|') for line in page.splitlines() if line.startswith('| ') and len(line.split('|')) == 13]
    assert len(table) == 4 and 'at 64x96' in table[0][6]
    _, first, second, third = table
    assert all(float(cell) > 0 for cell in first[7:10])
    # Rungs are counted from 0 here, so these are MobileNetV3-L and what follows it.
    assert (first[3].strip(), first[5].strip(), second[3].strip()) == ('2.82', '0.207', '1.27')
    assert third[3:10] == second[3:10]


def test_what_the_paper_reports_stands_beside_what_is_measured():
    page = ladder.to_markdown(rows(), (512, 512), 'ladder.png', 3)
    (row,) = lines_of(page, '| 3 | early')
    assert row == ('| 3 | early convolutions as stem | 2.82 | 2.81 | 0.207 | 1.08 | 12.5 | 12.5 | 12.5 | 0.86 | 73.9 |')
    assert '![latency and accuracy of every rung](ladder.png)' in page


def test_the_page_shows_every_row_of_the_table_as_it_stands():
    sources = ladder.row_sources()
    assert len(sources) == len(STEPS)
    for source, step in zip(sources, STEPS, strict=True):
        assert source.startswith('# ')
        row = eval(source.splitlines()[-1].rstrip(','), {'Step': type(step)})
        assert row == step
    page = ladder.to_markdown(rows(), (512, 512), 'ladder.png', 3)
    assert all(source in page for source in sources)
    assert 'return self.channel_mixer(self.channel(self.se(self.spatial(x))))' in page


def test_the_page_says_what_each_rung_is_made_of():
    page = ladder.to_markdown(rows(), (512, 512), 'ladder.png', 3)
    assert '| 0 | 16 | ↓3 3 | ↓5s 2·5s | ↓3 3·3 2·3s | ↓5s 2·5s | 24 40 112 160 |' in page
    assert '| 6 | 24 48 | 2·3 +3 | ↓5s 2·5s +5s | ↓3 3·3 11·3s +3s | ↓5s 2·5s | 48 96 192 384 |' in page
    assert '| 8 | 24 48 | 3s 3 +3 | ↓3 3s 3 +3 |' in page


def test_a_missing_directory_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, '_run', lambda args: pytest.fail('measured first'))
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    with pytest.raises(InputError, match='--ladder: there is no directory .*missing'):
        benchmark.run(parser.parse_args(['--ladder', str(tmp_path / 'missing' / 'ladder.md')]))
