"""Test the contents of the ladder page, and a small run that writes page and chart."""

import pytest

from repvit_dense.backbones.ladder import STEPS
from tools.pages import ladder
from tools.pages.ladder import FORMS, RungCost


def costs():
    seconds = dict.fromkeys(FORMS, 0.0125)
    return [RungCost(2_816_432 + rung, 2_805_192, 0.2066e9, 1.08e9, seconds) for rung in range(len(STEPS))]


@pytest.fixture
def page():
    """Return the page with the costs of `costs`."""
    return ladder.to_markdown(costs(), (512, 512), 'ladder.png', 3)


@pytest.mark.slow
def test_a_run_writes_page_and_chart(tmp_path, monkeypatch):
    # Two rungs with different features, and one that has those of the rung below.
    monkeypatch.setattr(ladder, 'STEPS', (STEPS[7], STEPS[8], STEPS[5]))
    monkeypatch.setattr(ladder, 'row_sources', lambda: ['one', 'two', 'three'])
    file = tmp_path / 'ladder.md'
    assert ladder.run(ladder.Options(file=file, size=(64, 96), rounds=1)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ['ladder.md', 'ladder.png']
    assert file.with_suffix('.png').stat().st_size > 5000
    lines = [line.split('|') for line in file.read_text().splitlines() if line.startswith('| ')]
    table = [cells for cells in lines if len(cells) == 13]
    assert len(table) == 4 and 'at 64x96' in table[0][6]
    _, first, second, third = table
    assert all(float(cell) > 0 for cell in first[7:10])
    # Rungs are counted from 0 here: MobileNetV3-L and the rung after it.
    assert (first[3].strip(), first[5].strip(), second[3].strip()) == ('2.82', '0.207', '1.27')
    assert third[3:10] == second[3:10]


def test_the_table_has_measurements_and_numbers_of_the_paper(page):
    row = '| 3 | early convolutions as stem | 2.82 | 2.81 | 0.207 | 1.08 | 12.5 | 12.5 | 12.5 | 0.86 | 73.9 |'
    assert row in page.splitlines()
    assert '![latency and accuracy of every rung](ladder.png)' in page


def test_the_page_shows_the_source_of_every_row(page):
    sources = ladder.row_sources()
    assert len(sources) == len(STEPS)
    for source, step in zip(sources, STEPS, strict=True):
        assert source.startswith('# ')
        assert eval(source.splitlines()[-1], {'Step': type(step)}) == step
        assert source in page


def test_the_page_shows_the_source_of_the_methods(page):
    assert 'return self.channel_mixer(self.channel(self.se(self.spatial(x))))' in page


def test_the_page_lists_the_blocks_of_every_rung(page):
    assert '| 0 | 16 | ↓3 3 | ↓5s 2·5s | ↓3 3·3 2·3s | ↓5s 2·5s | 24 40 112 160 |' in page
    assert '| 6 | 24 48 | 2·3 +3 | ↓5s 2·5s +5s | ↓3 3·3 11·3s +3s | ↓5s 2·5s | 48 96 192 384 |' in page
    assert '| 8 | 24 48 | 3s 3 +3 | ↓3 3s 3 +3 |' in page
