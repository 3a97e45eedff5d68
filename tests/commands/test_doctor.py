"""The table of everything that a training needs, and its exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from repvit_dense import cli, config
from repvit_dense.commands import doctor
from repvit_dense.data import shapes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shapes.generate('data/shapes', num_train=2, num_val=1, size=(64, 64))


@pytest.fixture
def cfg():
    return config.load('repvit_maskrcnn_shapes')


def rows(cfg):
    return [tuple(check) for check in doctor.check_data(cfg)]


def test_sound_data(drawn, cfg):
    assert [(level, subject) for level, subject, _ in rows(cfg)] == [('ok', 'train'), ('ok', 'val')]
    assert rows(cfg)[1][2].startswith('data/shapes/annotations/instances_val2017.json: 1 images, ')


def test_every_fault_has_a_row(drawn, cfg):
    file = drawn / 'annotations/instances_train2017.json'
    content = json.loads(file.read_text())
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] == 1]
    content['annotations'][0]['category_id'] = 99
    file.write_text(json.dumps(content))
    assert [level for level, _, _ in rows(cfg)] == ['ok', 'error', 'warning', 'ok']


@pytest.mark.parametrize('gone, subject', [('annotations/instances_train2017.json', 'train'), ('val2017', 'val')])
def test_missing_data_does_not_hide_the_other_split(drawn, cfg, gone, subject):
    (drawn / gone).rename(drawn / 'away')
    levels = {subject: level for level, subject, _ in rows(cfg)}
    assert levels == {'train': 'ok', 'val': 'ok', subject: 'error'}


def test_missing_annotations_of_the_evaluator(drawn, cfg):
    cfg.val_evaluator.ann_file = 'none.json'
    assert rows(cfg)[-1][:2] == ('error', 'val')
    assert 'none.json: no such annotation file (val_evaluator)' in rows(cfg)[-1][2]


def test_data_that_will_be_drawn(tmp_path, monkeypatch, cfg):
    monkeypatch.chdir(tmp_path)
    assert rows(cfg) == [('ok', 'data', 'data/shapes: will be drawn at the first training')]
    assert list(tmp_path.iterdir()) == []


def test_the_model(cfg):
    assert list(doctor.check_model(cfg)) == [('ok', 'model', 'MaskRCNN for instance labels')]
    cfg.model.neck.in_channels = [1, 2, 3, 4]
    [row] = doctor.check_model(cfg)
    assert row.level == 'error'
    assert row.text.startswith('model.neck.in_channels = [1, 2, 3, 4]')


def test_the_environment():
    import torch

    checks = {check.subject: check for check in doctor.check_environment()}
    assert checks['torch'].text == torch.__version__
    assert {'python', 'GPU', 'threads', 'mmcv ops', *doctor.PACKAGES} <= checks.keys()
    assert {check.level for check in checks.values()} <= {'ok', 'warning'}


def test_compiled_ops_are_told_from_the_fallback(monkeypatch):
    import types

    extension = types.ModuleType('mmcv._ext')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', extension)
    assert doctor._check_ops().text.startswith('fallback on torch')
    extension.__file__ = '_ext.so'
    assert doctor._check_ops().text == 'compiled'


def test_a_missing_package():
    assert doctor._check_package('no_such_package')[:2] == ('error', 'no_such_package')


@pytest.mark.parametrize('classes, code', [(8, 0), (3, 2)])
def test_exit_code(drawn, capsys, classes, code):
    with pytest.raises(SystemExit) as ended:
        cli.main(
            'doctor', ['repvit_maskrcnn_shapes', '--cfg-options', f'model.roi_head.mask_head.num_classes={classes}']
        )
    assert ended.value.code == code
    lines = [line for line in capsys.readouterr().out.splitlines() if line.split()[0] in ('ok', 'warning', 'error')]
    assert ('error' in {line.split()[0] for line in lines}) == (code == 2)
    assert len({line.index(line.split(maxsplit=2)[1]) for line in lines}) == 1  # columns are straight


def test_importing_it_is_cheap():
    code = 'import sys; import repvit_dense.commands.doctor; print({"torch", "mmengine", "numpy"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == 'set()\n'
