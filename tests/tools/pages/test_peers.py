"""Test cells, page and chart of docs/peers.md, and the continuation of an interrupted run."""

import json
import time

import pytest

from repvit_dense.benchmark.timing import TimedCall
from repvit_dense.errors import InputError
from tools.pages import model_zoo, peers, peers_cell, peers_learning, peers_picture

TIMES = {'own': [0.2, 0.6, 0.4], 'reference': [0.1, 0.2, 0.1]}  # ratios of 2, 3, 4
SIZES = {'params': 12e6, 'backbone_params': 7e6, 'macs': 40e9, 'backbone_macs': 12e9}
CELL = {**SIZES, 'eager': TIMES, 'exported': TIMES, 'alone': TIMES, 'step': [2.0, 4.0], 'peak_bytes': 2**30}


@pytest.fixture
def measured(monkeypatch):
    """Replace the measurement of a cell, and return the pairs for which it was called; resnet50 fails."""
    pairs = []

    def measure(head, name, rounds, reference):
        pairs.append((head, name))
        if name == 'resnet50':
            raise RuntimeError('no | room\nleft')
        return CELL | {'backbone_macs': 1e9 * len(name)}

    monkeypatch.setattr(peers_cell, 'measure', measure)
    monkeypatch.setattr(peers_cell, 'reference_calls', lambda head: ['the reference'])
    return pairs


def write(path, backbones, rounds=3, json_file=None):
    return peers.run(peers.Options(file=path, backbones=backbones, rounds=rounds, json=json_file))


def test_every_backbone_but_the_rungs_is_a_peer():
    names = peers.backbones()
    assert set(names) == {name for name in peers.catalogue.BACKBONES if 'ladder' not in name}
    families = {peers_picture.family(name)[0] for name in names}
    assert families == set(peers_picture.FAMILIES.values())


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('repvit_m1_1', ('RepViT', 'm1.1')),
        ('mobilenetv3_large', ('MobileNet', 'v3 large')),
        ('mobilevitv2_075', ('MobileViTv2', '075')),
        ('mobile_former_26m', ('Mobile-Former', '26m')),
        ('pvtv2_b0', ('PVTv2', 'b0')),
        ('efficientvit_b0', ('EfficientViT', 'b0')),
        ('mobilenetv4_conv_small', ('MobileNet', 'v4 conv small')),
    ],
)
def test_a_name_is_split_into_family_and_variant(name, expected):
    assert peers_picture.family(name) == expected


def test_a_latency_is_the_median_ratio_times_the_median_of_the_reference():
    slow = {'own': [4.0, 4.0, 4.0], 'reference': [4.0, 4.0, 4.0]}
    cells = [{'head': 'h', 'backbone': 'a', **CELL}, {'head': 'h', 'backbone': 'b', **CELL, 'eager': slow}]
    rows = peers.to_rows(cells)
    base = (0.2 + 4.0) / 2  # median of 0.1, 0.1, 0.2, 4, 4, 4
    assert [row['eager'] for row in rows] == pytest.approx([3 * base, 1 * base])
    assert rows[0]['alone'] == pytest.approx(3 * 0.1)
    assert rows[0]['throughput'] == pytest.approx(12e9 / 0.3)
    assert rows[0]['step'] == 3.0


def test_the_page_has_a_row_per_pair_and_a_chart(tmp_path, measured):
    path = tmp_path / 'peers.md'
    assert write(path, ['m1_1', 'swin_tiny']) == 0
    page = path.read_text()
    assert page.count('\n| repvit_m1_1 |') == page.count('\n| swin_tiny |') == len(peers.HEADS)
    published = '| repvit_m1_1 | 7.00 / 12.00 | 11.00 / 40.0 | 3.00 | 1.00 | 300 | 300 / 300 | 37 | 40.6 mIoU (arXiv'
    assert published in page
    assert 'no published result known' in page
    assert '![MACs against measured latency of the exported backbones](peers.png)' in page
    assert 'is 30.0 (swin_tiny) to 36.7 GMAC/s (repvit_m1_1)' in page
    assert '3 rounds' in page and 'Not run yet' in page
    assert f'\n| starnet_s1 | {peers.SIZES["starnet_s1"][0]:.2f} |' in page[page.index('## Not measured yet') :]
    assert (tmp_path / 'peers.png').stat().st_size > 5000
    assert sorted(file.name for file in tmp_path.iterdir()) == ['peers.md', 'peers.png']


def test_backbones_with_equal_macs_and_different_latencies_are_named():
    rows = [
        {'backbone': name, 'alone': seconds, 'backbone_macs': macs}
        for name, seconds, macs in (('a', 0.1, 10e9), ('b', 0.4, 10.5e9), ('c', 2.0, 20e9))
    ]
    (sentence,) = peers._equal_macs(rows)
    assert '10.0 and 10.5 G, b takes 4.0 times as long as a.' in sentence
    assert peers._equal_macs([rows[0], rows[2]]) == []


def test_a_failed_cell_has_a_reason_and_is_measured_again(tmp_path, measured):
    path = tmp_path / 'peers.md'
    assert write(path, ['resnet18', 'resnet50']) == 2
    page = path.read_text()
    assert page.count('\n| resnet18 |') == len(peers.HEADS)
    failed = [line for line in page.splitlines() if line.startswith('| resnet50 |')]
    assert all('Not measured: RuntimeError: no / room left |' in line for line in failed)
    assert {line.count('|') for line in failed} == {10}
    measured.clear()
    assert write(path, ['resnet18', 'resnet50']) == 2
    assert measured == [(head, 'resnet50') for head in peers.HEADS]


def test_an_interrupted_run_continues(tmp_path, measured, monkeypatch):
    path, measure = tmp_path / 'peers.md', peers_cell.measure

    def interrupted(head, name, *rest):
        if name == 'swin_tiny':
            raise KeyboardInterrupt
        return measure(head, name, *rest)

    monkeypatch.setattr(peers_cell, 'measure', interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, ['resnet18', 'swin_tiny'])
    monkeypatch.setattr(peers_cell, 'measure', measure)
    measured.clear()
    assert write(path, ['resnet18', 'swin_tiny']) == 0
    first, second = peers.HEADS
    assert measured == [(first, 'swin_tiny'), (second, 'resnet18'), (second, 'swin_tiny')]


def test_stored_cells_of_another_setting_are_refused(tmp_path, measured):
    stored = tmp_path / 'numbers.json'
    assert write(tmp_path / 'peers.md', ['resnet18'], json_file=stored) == 0
    assert json.loads(stored.read_text())['cells']['repvit_retinanet_coco@resnet18']['peak_bytes'] == 2**30
    with pytest.raises(InputError, match=r'numbers\.json: measured with .* move the file away'):
        write(tmp_path / 'peers.md', ['resnet18'], rounds=2, json_file=stored)


def test_an_unknown_backbone_is_refused_before_the_measurement(tmp_path, measured):
    with pytest.raises(InputError, match="--backbones: unknown backbone 'resnet99'"):
        write(tmp_path / 'peers.md', ['resnet18', 'resnet99'])
    assert measured == []


def test_a_new_measurement_keeps_the_section_on_learning(tmp_path, measured):
    path = tmp_path / 'peers.md'
    path.write_text(f'old\n{peers_learning.BEGIN}\nscores\n{peers_learning.END}\nold\n')
    write(path, ['resnet18'])
    text = path.read_text()
    assert 'scores' in text and '\n| resnet18 |' in text and 'old' not in text
    assert text.count(peers_learning.BEGIN) == text.count(peers_learning.END) == 1


@pytest.mark.slow
@pytest.mark.parametrize('head', peers.HEADS)
def test_a_cell_is_measured(head, monkeypatch):
    """RepViT-M0.6 has 2,147,072 parameters fused, and 0.385 GMACs at 224x224 by an independent counter."""
    monkeypatch.setattr(peers_cell, 'SIZE', (64, 64))
    monkeypatch.setattr(peers_cell, 'STEPS', 1)
    reference = [TimedCall(f'reference {form}', lambda: time.sleep(0.01)) for form in peers_cell.FORMS]
    cell = peers_cell.measure(head, 'repvit_m0_6', 2, reference)
    assert cell['backbone_params'] == 2_147_072 < cell['params']
    assert cell['backbone_macs'] == pytest.approx(0.385e9 * (64 / 224) ** 2, rel=0.03)
    for form in peers_cell.FORMS:
        assert len(cell[form]['own']) == len(cell[form]['reference']) == 2
        assert min(cell[form]['own'] + cell[form]['reference']) > 0
    assert min(cell['alone']['own']) < min(cell['exported']['own'])
    assert len(cell['step']) == 1 and cell['peak_bytes'] > 4 * cell['params']


@pytest.mark.parametrize('head', peers.HEADS)
def test_published_results_name_their_source(head):
    for result in model_zoo.PUBLISHED[head].values():
        assert 'arXiv' in result
