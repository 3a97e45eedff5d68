"""Test targets, their verdicts, and the parts that measure them."""

import pytest

from repvit_dense.benchmark.workload import Workload
from repvit_dense.errors import InputError
from tools.pages import targets, targets_artifacts, targets_networks
from tools.pages.target import PerformanceTarget as Target


@pytest.mark.parametrize(
    ('target', 'met'),
    [
        (Target('a', 'b', 1.5, 1.6), True),
        (Target('a', 'b', 1.5, 1.4), False),
        (Target('a', '', 0.5, 0.4, 's', at_least=False), True),
        (Target('a', '', 0.5, 0.6, 's', at_least=False), False),
        (Target('a', 'b', None, 3.0), None),
    ],
)
def test_a_target_is_met_or_not(target, met):
    assert target.met is met


def test_the_report_shows_limits_beside_values_and_counts():
    rows = [
        Target('a step', 'timm', 1.5, 1.625),
        Target('start', '', 0.5, 0.75, 's', at_least=False),
        Target('x', 'y', None, 2.0),
    ]
    rows = [{**row._asdict(), 'met': row.met} for row in rows]
    text = targets.to_text({'device': 'CPU', 'threads': 2, 'rounds': 3, 'torch': '2', 'rows': rows})
    assert 'a step against timm' in text and '1.62x  target >= 1.5x' in text
    assert any(line.startswith('start') and line.endswith('NOT MET') for line in text.splitlines())
    assert text.endswith('1 of 2 targets met')


def test_cpu_parts_are_refused_on_a_gpu():
    with pytest.raises(InputError, match="part 'export' is measured on the CPU"):
        targets.measure(['export'], 1, Workload(1, (64, 64), 'cuda'))


def test_an_unknown_part_is_refused():
    with pytest.raises(InputError, match="unknown part 'speed'; known: training, "):
        targets.measure(['speed'], 1, Workload(1, (64, 64)))


def test_the_other_targets_are_measured_without_a_quantiser(monkeypatch, capsys):
    def refuse(*_):
        raise InputError('pip install nncf')

    monkeypatch.setattr(targets_artifacts, '_precisions', refuse)
    monkeypatch.setattr(targets_artifacts.config, 'prepare_data', lambda cfg: None)
    assert list(targets_artifacts.int8(1)) == []
    assert capsys.readouterr().err.count('not measured. pip install nncf') == 6


def test_a_run_writes_every_target_to_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(targets.CPU_PARTS, 'startup', lambda rounds: iter([Target('start', '', 0.5, 0.25, 's', False)]))
    file = tmp_path / 'targets.json'
    assert targets.run(targets.Options(parts=['startup'], json=file)) == 0
    assert '"met": true' in file.read_text()
    assert capsys.readouterr().out.endswith('1 of 1 targets met\n')


def test_backbone_training_measures_errors_and_memory():
    rows = {row.name: row for row in targets_networks.backbone_training(1, Workload(1, (256, 256)), 'm0_6')}
    gradient = next(row for name, row in rows.items() if 'gradient' in name)
    statistics = next(row for name, row in rows.items() if 'statistics' in name)
    saved = next(row for name, row in rows.items() if 'saved' in name)
    assert 0 < gradient.measured < 1e-3
    assert 0 <= statistics.measured < 1e-3
    assert 10 < saved.measured < 100  # per cent
    assert all('m0_6, 1x256x256' in name for name in rows)


def test_equal_weights_give_equal_losses_with_either_backbone():
    loss, *_ = targets_networks.whole_step(1, Workload(1, (128, 128)))
    assert loss.measured < 1e-6


def test_the_fused_backbone_is_compared_with_the_plain_one():
    (row,) = targets_networks.backbone_inference(1, Workload(1, (64, 64)), 'm0_6')
    assert row.measured > 0 and row.limit == 1.35
