"""The texts of a run: the table of classes, and the commands after a training."""

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from repvit_dense import cli
from repvit_dense.engine import console

COCO = [
    {'class': 'cat', 'objects': 1200, 'box AP': 0.5, 'box AP50': 0.75},
    {'class': 'dog', 'objects': 0, 'box AP': None, 'box AP50': None},
    {'class': 'cow', 'objects': 34, 'box AP': 0.25, 'box AP50': 0.5},
]


def test_the_table_of_a_detector_has_means_over_the_classes_with_objects():
    assert console.table(COCO).splitlines() == [
        'class  objects  box AP  box AP50',
        'cat      1,200   0.500     0.750',
        'dog          0       -         -',
        'cow         34   0.250     0.500',
        'all      1,234   0.375     0.625',
    ]


def test_the_table_of_a_segmentor_is_in_percent():
    rows = [{'class': 'sky', 'share': 60.25, 'IoU': 50.0}, {'class': 'sea', 'share': 39.75, 'IoU': 25.5}]
    assert console.table(rows).splitlines()[1:] == [
        'sky     60.2  50.0',
        'sea     39.8  25.5',
        'all    100.0  37.8',
    ]


def test_all_scores_follow_the_table_unless_it_is_enough(monkeypatch):
    monkeypatch.setattr(console.per_class, 'rows', lambda runner: COCO)
    scores = {'coco/bbox_mAP': 0.375, 'coco/bbox_mAP_l': -1.0}
    assert console.results(None, scores, brief=True) == console.table(COCO)
    assert console.results(None, scores, brief=False).endswith('\ncoco/bbox_mAP 0.375, coco/bbox_mAP_l -')
    assert console.results(None, scores, False, 'test').endswith('\ntest: coco/bbox_mAP 0.375, coco/bbox_mAP_l -')
    monkeypatch.setattr(console.per_class, 'rows', lambda runner: [])
    assert console.results(None, scores, brief=True).startswith('coco/bbox_mAP')


@pytest.mark.parametrize('program', ['/usr/bin/repvit-dense', 'tools/train.py'])
def test_the_next_commands_can_be_copied(monkeypatch, program):
    monkeypatch.setattr(sys, 'argv', [program])
    runner = SimpleNamespace(work_dir="work dirs/it's", _val_loop=None)
    title, *commands = console.next_commands(runner).splitlines()
    assert title == 'Next:'
    for command, verb in zip(commands, ('test', 'predict', 'export'), strict=True):
        words = shlex.split(command)
        start = ['repvit-dense', verb] if 'bin' in program else [words[0], f'tools/{verb}.py']
        assert words[:2] == start
        assert cli.parse([verb, *words[2:]]).config in (runner.work_dir, Path(runner.work_dir))
