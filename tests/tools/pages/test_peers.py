"""Like for like: cells, page, picture, going on after an interruption; and the section on learning."""

import json
import subprocess
import time

import pytest

from tools.pages import model_zoo, peers, peers_cell, peers_learning, peers_picture
from repvit_dense.benchmark.timing import Subject
from repvit_dense.errors import InputError

TIMES = {'own': [0.2, 0.6, 0.4], 'reference': [0.1, 0.2, 0.1]}  # ratios of 2, 3, 4
SIZES = {'params': 12e6, 'backbone_params': 7e6, 'macs': 40e9, 'backbone_macs': 12e9}
CELL = {**SIZES, 'eager': TIMES, 'exported': TIMES, 'alone': TIMES, 'step': [2.0, 4.0], 'peak_bytes': 2**30}


@pytest.fixture
def measured(monkeypatch):
    """The pairs that were measured, which takes no time."""
    pairs = []

    def measure(head, name, rounds, reference):
        pairs.append((head, name))
        if name == 'resnet50':
            raise RuntimeError('no | room\nleft')
        return CELL | {'backbone_macs': 1e9 * len(name)}

    monkeypatch.setattr(peers_cell, 'measure', measure)
    monkeypatch.setattr(peers_cell, 'reference', lambda head: ['the reference'])
    return pairs


def test_every_backbone_but_the_rungs_is_a_peer():
    names = peers.backbones()
    assert len(names) >= 60 and not any('ladder' in name for name in names)
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
    ],
)
def test_a_name_has_a_family(name, expected):
    assert peers_picture.family(name) == expected


def test_a_latency_is_the_median_ratio_times_the_reference_of_the_whole_run():
    slow = {'own': [4.0, 4.0, 4.0], 'reference': [4.0, 4.0, 4.0]}
    cells = [{'head': 'h', 'backbone': 'a', **CELL}, {'head': 'h', 'backbone': 'b', **CELL, 'eager': slow}]
    rows = peers.to_rows(cells)
    base = (0.2 + 4.0) / 2  # of 0.1, 0.1, 0.2, 4, 4, 4
    assert [row['eager'] for row in rows] == pytest.approx([3 * base, 1 * base])
    assert rows[0]['alone'] == pytest.approx(3 * 0.1)
    assert rows[0]['throughput'] == pytest.approx(12e9 / 0.3)
    assert rows[0]['step'] == 3.0


def test_the_page_has_a_row_per_pair_and_a_picture(tmp_path, measured):
    path = tmp_path / 'peers.md'
    assert peers.write(path, ['m1_1', 'swin_tiny'], 3) == 0
    page = path.read_text()
    assert page.count('\n| repvit_m1_1 |') == page.count('\n| swin_tiny |') == len(peers.HEADS)
    published = '| repvit_m1_1 | 7.00 / 12.00 | 11.00 / 40.0 | 3.00 | 1.00 | 300 | 300 / 300 | 37 | 40.6 mIoU (arXiv'
    assert published in page
    assert 'no published result known' in page
    assert '![MACs against measured latency of the exported backbones](peers.png)' in page
    assert 'from 30.0 (swin_tiny) to 36.7 GMAC/s (repvit_m1_1)' in page
    assert '3 rounds' in page and 'Not run yet' in page
    assert (tmp_path / 'peers.png').stat().st_size > 5000
    assert sorted(file.name for file in tmp_path.iterdir()) == ['peers.md', 'peers.png']


def test_equal_macs_with_unequal_latencies_are_pointed_out():
    rows = [
        {'backbone': name, 'alone': seconds, 'backbone_macs': macs}
        for name, seconds, macs in (('a', 0.1, 10e9), ('b', 0.4, 10.5e9), ('c', 2.0, 20e9))
    ]
    (sentence,) = peers._equal_macs(rows)
    assert '10.0 and 10.5 G, b takes 4.0 times as long as a.' in sentence
    assert peers._equal_macs([rows[0], rows[2]]) == []


def test_a_cell_that_fails_says_why_and_is_tried_again(tmp_path, measured):
    path = tmp_path / 'peers.md'
    assert peers.write(path, ['resnet18', 'resnet50'], 3) == 2
    page = path.read_text()
    assert page.count('\n| resnet18 |') == len(peers.HEADS)
    failed = [line for line in page.splitlines() if line.startswith('| resnet50 |')]
    assert all('Not measured: RuntimeError: no / room left |' in line for line in failed)
    assert {line.count('|') for line in failed} == {10}
    measured.clear()
    assert peers.write(path, ['resnet18', 'resnet50'], 3) == 2
    assert measured == [(head, 'resnet50') for head in peers.HEADS]


def test_an_interrupted_run_goes_on(tmp_path, measured, monkeypatch):
    path, measure = tmp_path / 'peers.md', peers_cell.measure

    def interrupted(head, name, *rest):
        if name == 'swin_tiny':
            raise KeyboardInterrupt
        return measure(head, name, *rest)

    monkeypatch.setattr(peers_cell, 'measure', interrupted)
    with pytest.raises(KeyboardInterrupt):
        peers.write(path, ['resnet18', 'swin_tiny'], 3)
    monkeypatch.setattr(peers_cell, 'measure', measure)
    measured.clear()
    assert peers.write(path, ['resnet18', 'swin_tiny'], 3) == 0
    first, second = peers.HEADS
    assert measured == [(first, 'swin_tiny'), (second, 'resnet18'), (second, 'swin_tiny')]


def test_numbers_of_another_setting_are_not_mixed_in(tmp_path, measured):
    kept = tmp_path / 'numbers.json'
    assert peers.write(tmp_path / 'peers.md', ['resnet18'], 3, kept) == 0
    assert json.loads(kept.read_text())['cells']['repvit_retinanet_coco@resnet18']['peak_bytes'] == 2**30
    with pytest.raises(InputError, match=r'numbers\.json: measured with .* move the file away'):
        peers.write(tmp_path / 'peers.md', ['resnet18'], 2, kept)


def test_an_unknown_backbone_is_refused_before_anything_is_measured(tmp_path, measured):
    with pytest.raises(InputError, match="--backbones: unknown backbone 'resnet99'"):
        peers.write(tmp_path / 'peers.md', ['resnet18', 'resnet99'], 1)
    assert measured == []


@pytest.mark.slow
@pytest.mark.parametrize('head', peers.HEADS)
def test_a_cell_is_measured(head, monkeypatch):
    """Of RepViT-M0.6: 2,147,072 parameters fused, 0.385 GMACs at 224x224, by another counter."""
    monkeypatch.setattr(peers_cell, 'SIZE', (64, 64))
    monkeypatch.setattr(peers_cell, 'STEPS', 1)
    reference = [Subject(f'reference {form}', lambda: time.sleep(0.01)) for form in peers_cell.FORMS]
    cell = peers_cell.measure(head, 'repvit_m0_6', 2, reference)
    assert cell['backbone_params'] == 2_147_072 < cell['params']
    assert cell['backbone_macs'] == pytest.approx(0.385e9 * (64 / 224) ** 2, rel=0.03)
    for form in peers_cell.FORMS:
        assert len(cell[form]['own']) == len(cell[form]['reference']) == 2
        assert min(cell[form]['own'] + cell[form]['reference']) > 0
    assert min(cell['alone']['own']) < min(cell['exported']['own'])
    assert len(cell['step']) == 1 and cell['peak_bytes'] > 4 * cell['params']


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch):
    """Trainings that leave a score of 10 a seed, and a checkpoint; of mobilenetv3_large none does."""
    pairs = []

    def train(name, seed, folder):
        pairs.append((name, seed))
        if name == 'mobilenetv3_large':
            return subprocess.CompletedProcess([], 1, '', 'Traceback\nValueError: no room')
        log = folder / 'now' / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        lines = [{'loss': 1.0, 'step': 25}, {'mIoU': 10.0 * (seed + 1), 'step': peers_learning.ITERATIONS}]
        log.write_text('\n'.join(map(json.dumps, lines)))
        (folder / 'iter.pth').write_text('weights')
        return subprocess.CompletedProcess([], 0, '', '')

    monkeypatch.setattr(peers_learning, 'train', train)
    monkeypatch.setattr(peers_learning.config, 'prepare_data', lambda cfg: None)
    return pairs


@pytest.fixture
def page(tmp_path):
    path = tmp_path / 'peers.md'
    path.write_text(f'before\n{peers_learning.BEGIN}\nold\n{peers_learning.END}\nafter\n')
    return path


def test_the_section_goes_between_its_marks_with_the_spread_of_the_seeds(page, trained, tmp_path):
    assert peers_learning.write(page, ['m0_9'], tmp_path / 'runs') == 0
    text = page.read_text()
    assert text.startswith(f'before\n{peers_learning.BEGIN}\n') and text.endswith(f'{peers_learning.END}\nafter\n')
    assert '| repvit_m0_9 | 20.0 | 10.0 to 30.0 | 10.0 | 20.0 | 30.0 |' in text
    assert 'old' not in text and 'says nothing about what these backbones are worth' in text


def test_finished_trainings_are_kept_without_their_weights(page, trained, tmp_path):
    peers_learning.write(page, ['m0_9'], tmp_path / 'runs')
    before = page.read_text()
    assert len(trained) == len(peers_learning.SEEDS)
    peers_learning.write(page, ['m0_9'], tmp_path / 'runs')
    assert len(trained) == len(peers_learning.SEEDS)
    assert page.read_text() == before
    assert not list(tmp_path.rglob('*.pth'))


def test_a_training_that_fails_says_why(page, trained, tmp_path):
    assert peers_learning.write(page, ['m0_9', 'mobilenetv3_large'], tmp_path / 'runs') == 2
    assert '| mobilenetv3_large | - | - | fails | fails | fails |' in page.read_text()
    assert '- mobilenetv3_large, seed 1: ValueError: no room' in page.read_text()


def test_a_page_without_marks_is_refused(tmp_path, trained):
    path = tmp_path / 'page.md'
    path.write_text('nothing generated here')
    with pytest.raises(InputError, match=r'page\.md: the section goes between'):
        peers_learning.write(path)
    assert trained == []


def test_measuring_again_leaves_the_section(page, measured, trained, tmp_path):
    peers_learning.write(page, ['m0_9'], tmp_path / 'runs')
    peers.write(page, ['resnet18'], 3)
    text = page.read_text()
    assert '| repvit_m0_9 | 20.0 |' in text and '\n| resnet18 |' in text
    assert text.count(peers_learning.BEGIN) == text.count(peers_learning.END) == 1


def test_the_command_trains_on_one_thread_for_the_same_budget(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(peers_learning.subprocess, 'run', lambda command, **how: calls.append((command, how)))
    peers_learning.train('edgevit_xxs', 2, tmp_path)
    ((command, how),) = calls
    assert how['env']['OMP_NUM_THREADS'] == '1'
    text = ' '.join(command)
    assert f'train {peers_learning.HEAD} --backbone edgevit_xxs --seed 2 --work-dir {tmp_path}' in text
    assert f'train_cfg.max_iters={peers_learning.ITERATIONS}' in text


@pytest.mark.parametrize('head', peers.HEADS)
def test_published_results_name_their_source(head):
    for result in model_zoo.PUBLISHED[head].values():
        assert 'arXiv' in result
