"""The table of everything that a training needs, and its exit code."""

import copy
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
    return [check[:3] for check in doctor.check_data(cfg)]


def change(drawn, edit, split='train'):
    """Edit the annotations of a split."""
    file = drawn / f'annotations/instances_{split}2017.json'
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_sound_data(drawn, cfg):
    summaries = [text for level, _, text in rows(cfg) if level == 'ok']
    assert [subject for level, subject, _ in rows(cfg) if level == 'ok'] == ['train', 'val', 'splits']
    assert summaries[1].startswith('data/shapes/annotations/instances_val2017.json: 1 images, ')
    assert summaries[2] == '2 training images compared with 1 validation images'
    assert not [row for row in rows(cfg) if row[0] == 'error']


def test_every_fault_has_a_row_that_lists_its_offenders(drawn, cfg):
    def edit(content):
        content['annotations'][0]['category_id'] = 99

    change(drawn, edit)
    (drawn / 'train2017/000000000002.png').write_bytes(b'')
    errors = [check for check in doctor.check_data(cfg) if check.level == 'error']
    assert [(check.subject, check.text[:2], len(check.offenders)) for check in errors] == [
        ('train', '1 ', 1),
        ('train', '1 ', 1),
    ]
    assert errors[1].offenders == ['000000000002.png: the file is empty, 0 bytes']


@pytest.mark.parametrize('gone, subject', [('annotations/instances_train2017.json', 'train'), ('val2017', 'val')])
def test_missing_data_does_not_hide_the_other_split(drawn, cfg, gone, subject):
    (drawn / gone).rename(drawn / 'away')
    levels = {'train': 'ok', 'val': 'ok'}
    levels |= {subject: level for level, subject, _ in rows(cfg) if level != 'warning'}
    assert levels == {'train': 'ok', 'val': 'ok', subject: 'error'}


def test_images_in_both_splits(drawn, cfg):
    image = (drawn / 'train2017/000000000001.png').read_bytes()
    (drawn / 'val2017/000000000001.png').write_bytes(image)
    [check] = [check for check in doctor.check_data(cfg) if check.subject == 'splits' and check.level == 'warning']
    assert check.text.startswith('1 validation images are training images, too')
    assert check.offenders == ['000000000001.png']


def test_a_test_split_has_rows_of_its_own(drawn, cfg):
    annotations = drawn / 'annotations'
    content = (annotations / 'instances_val2017.json').read_text()
    (annotations / 'instances_test.json').write_text(content.replace('"iscrowd": 0', '"iscrowd": 2', 1))
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    cfg.test_evaluator = copy.deepcopy(cfg.val_evaluator)
    cfg.test_dataloader.dataset.ann_file = 'annotations/instances_test.json'
    cfg.test_evaluator.ann_file = str(annotations / 'instances_test.json')
    found = rows(cfg)
    assert [subject for level, subject, _ in found if level == 'ok'] == ['train', 'val', 'test', *['splits'] * 3]
    assert [subject for level, subject, _ in found if level == 'error'] == ['test']
    assert any(text.startswith('1 test images are validation images, too') for _, _, text in found)


def test_missing_annotations_of_the_evaluator(drawn, cfg):
    cfg.val_evaluator.ann_file = 'none.json'
    [(subject, text)] = [(subject, text) for level, subject, text in rows(cfg) if level == 'error']
    assert subject == 'val'
    assert 'none.json: no such annotation file (val_evaluator)' in text


def test_data_that_will_be_drawn(tmp_path, monkeypatch, cfg):
    monkeypatch.chdir(tmp_path)
    assert rows(cfg) == [('ok', 'data', 'data/shapes: will be drawn at the first training')]
    assert list(tmp_path.iterdir()) == []


def test_the_model(cfg):
    assert list(doctor.check_model(cfg)) == [doctor.Check('ok', 'model', 'MaskRCNN for instance labels')]
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


# --- the command ---


@pytest.fixture
def without_checks(monkeypatch):
    """Return `without_checks(*checks)`, which replaces the checks of environment, model and data by these results."""
    monkeypatch.setattr(doctor, 'check_environment', lambda: iter(()))
    monkeypatch.setattr(doctor, 'check_model', lambda cfg: iter(()))

    def replace(*checks):
        monkeypatch.setattr(doctor, 'check_data', lambda cfg: iter(checks))

    return replace


def run(capsys, *arguments):
    """Run the command and return its exit code and its output."""
    with pytest.raises(SystemExit) as ended:
        cli.main('doctor', ['repvit_maskrcnn_shapes', *arguments])
    return ended.value.code, capsys.readouterr().out


OK, WARNING, ERROR = (doctor.Check(level, 'train', f'a {level}') for level in ('ok', 'warning', 'error'))


@pytest.mark.parametrize(
    'checks, code, strict', [([OK], 0, 0), ([OK, WARNING], 0, 1), ([WARNING, ERROR], 2, 2), ([ERROR], 2, 2)]
)
def test_exit_code(without_checks, capsys, checks, code, strict):
    without_checks(*checks)
    assert run(capsys)[0] == code
    assert run(capsys, '--strict')[0] == strict


def test_the_table_and_the_offenders_below_it(without_checks, capsys):
    names = [f'{i}\n.jpg' for i in range(25)]
    without_checks(OK, doctor.Check('error', 'val', '25 images\ncannot be read', names), ERROR._replace(text='a\x1b'))
    lines = run(capsys)[1].splitlines()
    assert lines[:3] == ['ok     train  a ok', 'error  val    25 images cannot be read', 'error  train  a\\x1b']
    assert lines[3:6] == ['', 'error in val: 25 images cannot be read', '  0 .jpg']
    assert len(lines) == 3 + 2 + 20 + 1
    assert lines[-1] == '  and 5 more'


def test_json_is_all_that_is_printed(without_checks, capsys, monkeypatch):
    without_checks(OK, ERROR._replace(offenders=[f'{i}.jpg' for i in range(25)]))
    monkeypatch.setattr(doctor, 'check_model', lambda cfg: print('noise') or iter(()))
    code, out = run(capsys, '--json')
    content = json.loads(out)
    assert code == content['exit_code'] == 2
    assert content['checks'][0] == {'level': 'ok', 'subject': 'train', 'text': 'a ok', 'offenders': []}
    assert len(content['checks'][1]['offenders']) == 25


def test_json_of_a_config_that_does_not_exist(without_checks, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main('doctor', ['none.py', '--json'])
    [check] = json.loads(capsys.readouterr().out)['checks']
    assert (ended.value.code, check['level'], check['subject']) == (2, 'error', 'config')


def test_it_writes_nothing_but_a_temporary_folder(without_checks, capsys, monkeypatch, tmp_path):
    """Annotations in another format are converted there."""
    from PIL import Image

    for split in ('train', 'val'):
        for kind in ('images', 'labels'):
            (tmp_path / 'yolo' / kind / split).mkdir(parents=True)
        Image.new('RGB', (40, 20)).save(tmp_path / f'yolo/images/{split}/a.jpg')
        (tmp_path / f'yolo/labels/{split}/a.txt').write_text('0 0.1 0.1 0.5 0.1 0.5 0.5\n')
    (tmp_path / 'yolo/data.yaml').write_text('train: images/train\nval: images/val\nnames: [cat]\n')
    before = sorted(tmp_path.rglob('*'))
    monkeypatch.chdir(tmp_path)
    files = []

    def look(cfg):
        files.append(cfg.train_dataloader.dataset.ann_file)
        return iter([doctor.Check('ok', 'train', f'{files[0]}: text')])

    monkeypatch.setattr(doctor, 'check_data', look)
    assert run(capsys, '--data', 'yolo') == (0, 'ok  train  converted annotations coco/train.json: text\n')
    assert sorted(tmp_path.rglob('*')) == before
    assert not Path(files[0]).exists()


def test_importing_it_is_cheap():
    code = 'import sys; import repvit_dense.commands.doctor; print({"torch", "mmengine", "numpy"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == 'set()\n'
