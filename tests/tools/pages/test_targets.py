"""Promises and verdicts; what is measured behind them has tests of its own."""

import pytest

from repvit_dense import benchmark
from tools.pages import targets
from repvit_dense.benchmark.subjects import Setting
from tools.pages.targets import Row
from repvit_dense.errors import InputError


@pytest.mark.parametrize(
    ('row', 'met'),
    [
        (Row('a', 'b', 1.5, 1.6), True),
        (Row('a', 'b', 1.5, 1.4), False),
        (Row('a', '', 0.5, 0.4, 's', least=False), True),
        (Row('a', '', 0.5, 0.6, 's', least=False), False),
        (Row('a', 'b', None, 3.0), None),
    ],
)
def test_a_promise_is_kept_or_not(row, met):
    assert row.met is met


def test_the_report_has_both_numbers_beside_each_other_and_counts():
    rows = [Row('a step', 'timm', 1.5, 1.625), Row('start', '', 0.5, 0.75, 's', least=False), Row('x', 'y', None, 2.0)]
    report = {
        'device': 'CPU',
        'threads': 2,
        'rounds': 3,
        'torch': '2',
        'rows': [{**row._asdict(), 'met': row.met} for row in rows],
    }
    text = targets.to_text(report)
    assert 'a step against timm' in text and '1.62x  asked >= 1.5x' in text
    assert any(line.startswith('start') and line.endswith('NOT MET') for line in text.splitlines())
    assert text.endswith('1 of 2 targets met')


def test_every_part_of_the_command_is_measured():
    assert tuple(targets.PARTS) == benchmark.TARGETS


def test_parts_for_the_cpu_are_refused_on_a_gpu():
    with pytest.raises(InputError, match='--targets export is measured on the CPU'):
        targets.measure(['export'], 1, Setting(1, (64, 64), 'cuda'))


def test_a_quantiser_that_is_missing_leaves_the_others(monkeypatch, capsys):
    def refuse(*args):
        raise InputError('pip install nncf')

    monkeypatch.setattr(targets, '_precisions', refuse)
    monkeypatch.setattr(targets.config, 'prepare_data', lambda cfg: None)
    assert list(targets.int8(1)) == []
    assert capsys.readouterr().err.count('not measured. pip install nncf') == 6


def test_the_backbone_part_measures_what_it_says():
    rows = {row.what: row for row in targets.backbone_training(1, Setting(1, (256, 256)), 'm0_6')}
    gradient = next(row for what, row in rows.items() if 'gradient' in what)
    statistics = next(row for what, row in rows.items() if 'statistics' in what)
    saved = next(row for what, row in rows.items() if 'saved' in what)
    assert 0 < gradient.measured < 1e-3
    assert 0 <= statistics.measured < 1e-3
    assert 10 < saved.measured < 100  # per cent
    assert all('m0_6, 1x256x256' in what for what in rows)


def test_equal_weights_give_equal_losses_on_either_backbone():
    loss, *_ = targets.whole_step(1, Setting(1, (128, 128)))
    assert loss.measured < 1e-6


def test_the_fused_backbone_is_compared_with_the_plain_one():
    (row,) = targets.backbone_inference(1, Setting(1, (64, 64)), 'm0_6')
    assert row.measured > 0 and row.target == 1.35
