"""Test the section of docs/results.md: means, ranges, targets, and gaps that are named."""

from pathlib import Path

import pytest

from repvit_dense.errors import InputError
from tools.pages import __main__ as command
from tools.pages import results_page, results_rows
from tools.pages.results_table import TRAININGS

TABLE = {training.name: training for training in TRAININGS}
ROW = {
    **{'config': 'c', 'backbone': 'b', 'weights': 'lite0', 'iterations': 20, 'parameters': 3_456_789, 'recipe': 'r'},
    **{'processor': 'abacus', 'instructions': 'AVX2', 'threads': 1, 'torch': '2.0', 'cpu_minutes': 80.4, 'command': ''},
}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Change to a project whose page has the two marks."""
    monkeypatch.chdir(tmp_path)
    Path('docs', 'img').mkdir(parents=True)
    results_page.FILE.write_text(f'before\n{results_page.BEGIN}\nold\n{results_page.END}\nafter\n')


def add(name, seed, scores, classes=(), **values):
    results_rows.add(TABLE[name], {**ROW, 'seed': seed, **values}, {'scores': scores, 'classes': classes})


def page():
    results_page.write()
    return results_page.FILE.read_text()


def cells(text, title):
    line = next(line for line in text.splitlines() if line.startswith(f'| **{title}**'))
    return [cell.strip() for cell in line.split('|')[2:-1]]


LITE0, REPVIT = 'SegFormer head on EfficientNet-Lite0', 'SegFormer head on RepViT-M0.6'


def test_nothing_is_measured_yet():
    text = page()
    assert text.startswith(f'before\n{results_page.BEGIN}\n') and text.endswith(f'{results_page.END}\nafter\n')
    assert 'old' not in text
    assert cells(text, LITE0)[2:6] == [
        *('not measured', 'mIoU ≥ 66.9: not measured; at most 4.7 M parameters: not measured'),
        *('none', 'not measured (90)'),
    ]
    assert f'Not measured: {LITE0}, seeds 0, 1, 2; {REPVIT}, seeds 0, 1, 2.' in text
    assert '| FC-DenseNet103 | from scratch | 9.4 M | 66.9 |' in text


def test_mean_range_time_and_target():
    for seed, (score, minutes) in enumerate([(66.0, 80.4), (68.0, 91.0), (67.3, 85.0)]):
        add('camvid-lite0', seed, {'mIoU': score}, cpu_minutes=minutes)
    text = page()
    assert cells(text, LITE0) == [
        *('ImageNet, `lite0`', '3.46 M', '67.1 (66.0 to 68.0)'),
        *('mIoU ≥ 66.9: met; at most 4.7 M parameters: met', '0, 1, 2', '80 to 91 (90)'),
        'this project, test images',
    ]
    assert f'Not measured: {REPVIT}, seeds 0, 1, 2.' in text
    assert 'Trained on: abacus, AVX2, 1 thread, torch 2.0.' in text


def test_a_single_seed_and_a_missed_target_are_said():
    add('camvid-repvit', 0, {'mIoU': 55.5}, cpu_minutes=None, processor=None, threads=None)
    text = page()
    mine = cells(text, REPVIT)
    assert mine[2:6] == ['55.5 (single seed)', 'mIoU ≥ 58.0: missed by 2.5', '0', 'not recorded (90)']
    assert f'{REPVIT}, seeds 1, 2.' in text
    assert 'Trained on: processor not recorded, AVX2, torch 2.0.' in text
    assert f'# {REPVIT} (the command was not recorded; this is the one of the table)' in text


@pytest.mark.parametrize(('score', 'text'), [(0.451, 'met'), (0.44, 'missed by 0.010')])
def test_a_target_relative_to_another_training(score, text):
    add('nuclei-lite0', 0, {'coco/segm_mAP': 0.5, 'coco/segm_mAP_50': 0.8})
    add('nuclei-repvit', 0, {'coco/segm_mAP': score, 'coco/segm_mAP_50': 0.8})
    assert f'mask AP within 0.05 of nuclei-lite0: {text};' in page()


def test_scores_per_class_are_means():
    for seed in (0, 1):
        classes = [{'class': 'sky', 'IoU': 90.0 + seed}, {'class': 'pole', 'IoU': None}]
        add('camvid-lite0', seed, {'mIoU': 60.0}, classes)
    text = page()
    assert f'| IoU, mean | {LITE0} |' in text
    assert '| sky | 90.5 |' in text and '| pole | not measured |' in text


@pytest.mark.parametrize('column', ['iterations', 'recipe', 'parameters'])
def test_trainings_with_different_settings_have_no_mean(column):
    add('camvid-lite0', 0, {'mIoU': 60.0})
    add('camvid-lite0', 1, {'mIoU': 60.0}, **{column: 21})
    with pytest.raises(InputError, match=rf'camvid\.csv: .* differ in {column} \(seed 0: .*, seed 1: 21\)'):
        results_page.write()
    assert 'old' in results_page.FILE.read_text()


def test_recorded_commands_and_pictures_are_shown():
    add('camvid-lite0', 1, {'mIoU': 60.0}, command='repvit-dense train mine --seed 1')
    Path('docs', 'img', 'results-camvid.jpg').touch()
    text = page()
    assert f'# {LITE0}\nrepvit-dense train mine --seed 1\nrepvit-dense test work_dirs/results/camvid-lite0-1' in text
    assert '![predictions on CamVid: predictions alone](img/results-camvid.jpg)' in text


def test_a_page_without_marks_is_refused(capsys):
    results_page.FILE.write_text('nothing generated')
    assert command.main(['results', 'page']) == 2
    assert 'docs/results.md: needs the lines' in capsys.readouterr().err
    assert results_page.FILE.read_text() == 'nothing generated'
