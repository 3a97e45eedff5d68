"""Test the section of docs/peers.md on learning."""

import json
import subprocess

import pytest

from repvit_dense.errors import InputError
from tools.pages import peers_learning


@pytest.fixture
def trained(monkeypatch):
    """Replace the training by one that writes a score of 10 * (seed + 1) and a checkpoint; mobilenetv3_large fails.

    Returns the pairs of backbone and seed that were trained.
    """
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
    """Return a page with the two marks."""
    path = tmp_path / 'peers.md'
    path.write_text(f'before\n{peers_learning.BEGIN}\nold\n{peers_learning.END}\nafter\n')
    return path


def test_the_section_has_mean_and_range_of_the_seeds(page, trained, tmp_path):
    assert peers_learning.write(page, ['m0_9'], tmp_path / 'runs') == 0
    text = page.read_text()
    assert text.startswith(f'before\n{peers_learning.BEGIN}\n') and text.endswith(f'{peers_learning.END}\nafter\n')
    assert '| repvit_m0_9 | 20.0 | 10.0 to 30.0 | 10.0 | 20.0 | 30.0 |' in text
    assert 'old' not in text and 'does not rank the backbones' in text


def test_finished_trainings_are_stored_without_weights(page, trained, tmp_path):
    peers_learning.write(page, ['m0_9'], tmp_path / 'runs')
    before = page.read_text()
    assert len(trained) == len(peers_learning.SEEDS)
    peers_learning.write(page, ['m0_9'], tmp_path / 'runs')
    assert len(trained) == len(peers_learning.SEEDS)
    assert page.read_text() == before
    assert not list(tmp_path.rglob('*.pth'))


def test_the_error_of_a_failed_training_is_on_the_page(page, trained, tmp_path):
    assert peers_learning.write(page, ['m0_9', 'mobilenetv3_large'], tmp_path / 'runs') == 2
    assert '| mobilenetv3_large | - | - | fails | fails | fails |' in page.read_text()
    assert '- mobilenetv3_large, seed 1: ValueError: no room' in page.read_text()


def test_a_page_without_marks_is_refused(tmp_path, trained):
    path = tmp_path / 'page.md'
    path.write_text('nothing generated here')
    with pytest.raises(InputError, match=r'page\.md: the section needs the lines'):
        peers_learning.write(path)
    assert trained == []


def test_a_training_has_one_thread_and_a_fixed_number_of_iterations(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(peers_learning.subprocess, 'run', lambda command, **options: calls.append((command, options)))
    peers_learning.train('edgevit_xxs', 2, tmp_path)
    ((command, options),) = calls
    assert options['env']['OMP_NUM_THREADS'] == '1'
    text = ' '.join(command)
    assert f'train {peers_learning.HEAD} --backbone edgevit_xxs --seed 2 --work-dir {tmp_path}' in text
    assert f'train_cfg.max_iters={peers_learning.ITERATIONS}' in text
