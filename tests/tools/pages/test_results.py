"""Test the results on photographs: `run` with a fake command, `add`, and the rows."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from repvit_dense.errors import InputError
from tools.pages import __main__ as command
from tools.pages import results, results_rows, results_table, results_training

CONFIG = "model = dict(backbone=dict(type='RepViT', arch='m0_6', init_cfg=None))\ntrain_cfg = dict(max_iters=20)\n"
CLASSES = [{'class': 'sky', 'IoU': 91.23456}, {'class': 'pole', 'IoU': None}]


class Fake:
    """Do what `repvit-dense` would; it records its words.

    Attributes:
        stop_at: iteration at which a signal stops the next training.
        fails: every command fails.
    """

    def __init__(self):
        self.calls: list[str] = []
        self.stop_at, self.fails, self.factor = None, False, 10.0

    def __call__(self, words, threads, lock):
        self.calls.append(' '.join(words))
        if self.fails:
            raise results_training.Failed('it ended with exit code 2')
        folder = Path(words[words.index('--work-dir') + 1])
        if words[0] == 'train':
            self.train(words, folder)
        else:
            self.test(words, folder / words[3])
        return 60.0

    def train(self, words, folder):
        meta = {'iter': self.stop_at or 20, 'seed': int(words[words.index('--seed') + 1])}
        meta['provenance'] = {
            **{'config': words[1], 'backbone': words[3], 'cpu_seconds': 30.0, 'parameters': 3_000_000},
            **{
                'hardware': {'processor': 'abacus', 'threads': 2},
                'command': f'repvit-dense train {words[1]} --data ../../x/y',
            },
            'initial_weights': {'name': 'random' if 'model.backbone.init_cfg=None' in words else 'lite0'},
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{words[1]}.py').write_text(CONFIG)
        torch.save({'meta': meta, 'state_dict': {}}, folder / 'iter_20.pth')
        (folder / 'last_checkpoint').write_text('iter_20.pth')
        if self.stop_at:
            self.stop_at = None
            raise KeyboardInterrupt

    def test(self, words, folder):
        folder.mkdir(parents=True, exist_ok=True)
        scores = {'mIoU': self.factor * (int(words[1][-1]) + 1)}
        (folder / 'scores.json').write_text(json.dumps({'scores': scores, 'classes': CLASSES}))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Change to an empty project with the data of CamVid, and replace `repvit-dense`; return the replacement."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data' / 'camvid').mkdir(parents=True)
    fake = Fake()
    monkeypatch.setattr(results_training, 'run_command', fake)
    return fake


def run(*words):
    return command.main(['results', *words])


def rows(name='camvid'):
    with Path('results', f'{name}.csv').open() as file:
        return list(csv.DictReader(file))


# --- run ---


def test_a_training_is_trained_tested_and_gets_a_row(fake):
    assert run('run', '--only', 'camvid-repvit', '--seed', '1') == 0
    train, test = fake.calls
    folder = 'work_dirs/results/camvid-repvit-1'
    assert train == (
        f'train repvit_segformer_camvid --backbone repvit_m0_6 --data data/camvid --seed 1 --work-dir {folder} '
        '--cfg-options model.backbone.init_cfg=None --checkpoint-every 5m'
    )
    assert test == f'test {folder} --split test --work-dir {folder}/evaluation'
    (row,) = rows()
    assert row['mIoU'] == '20.0' and row['weights'] == 'random' and row['iterations'] == '20'
    assert row['cpu_minutes'] == '1.0'  # of the process, not of the checkpoint
    assert row['processor'] == 'abacus' and row['torch'] == ''  # nothing is invented
    assert row['command'].endswith('--data .../y')
    assert [(r['class'], r['IoU']) for r in rows('camvid_classes')] == [('sky', '91.2346'), ('pole', '')]


def test_finished_trainings_are_not_repeated_and_every_model_gets_the_first_seed_first(fake):
    run('run', '--only', 'camvid', '--seed', '1')
    run('run', '--only', 'camvid', '--seed', '0', '1')
    trained = [line.split()[3] + line.split()[7] for line in fake.calls if line.startswith('train')]
    assert trained == ['efficientnet_lite01', 'repvit_m0_61', 'efficientnet_lite00', 'repvit_m0_60']
    order = [('camvid-lite0', '0'), ('camvid-lite0', '1'), ('camvid-repvit', '0'), ('camvid-repvit', '1')]
    assert [(row['model'], row['seed']) for row in rows()] == order


def test_an_interrupted_training_is_continued_and_its_time_added(fake):
    fake.stop_at = 10
    assert run('run', '--only', 'camvid') == 130  # as after Ctrl-C; no other training starts
    assert len(fake.calls) == 1 and not Path('results').exists()
    assert run('run', '--only', 'camvid-lite0', '--seed', '0') == 0
    assert fake.calls[1].endswith('--resume')
    assert rows()[0]['cpu_minutes'] == '1.5'


def test_a_failed_training_is_named_and_the_others_go_on(fake, capsys):
    fake.fails = True
    assert run('run', '--only', 'camvid', '--seed', '0') == 2
    assert len(fake.calls) == 2
    text = capsys.readouterr().err
    assert 'exit code 2' in text and '2 failed: camvid-lite0, seed 0; camvid-repvit, seed 0' in text


def test_missing_data_are_refused_before_any_training(fake, capsys):
    assert run('run') == 2
    assert 'data/nuclei (nuclei), data/bccd (bccd), data/coco100 (coco100): there is no such' in capsys.readouterr().err
    assert fake.calls == []


def test_data_elsewhere_are_passed_on(fake):
    Path('photos', 'camvid').mkdir(parents=True)
    run('run', '--only', 'camvid-lite0', '--seed', '0', '--data-root', 'photos')
    assert '--data photos/camvid' in fake.calls[0]


# --- processes ---


def test_a_command_that_fails_or_is_stopped(monkeypatch):
    monkeypatch.setattr(results_training, 'COMMAND', [sys.executable, '-Sc', 'import sys; sys.exit(int(sys.argv[1]))'])
    assert 0 < results_training.run_command(['0'], None, None) < 5
    with pytest.raises(results_training.Failed, match='repvit-dense 2 ended with exit code 2; its'):
        results_training.run_command(['2'], None, None)
    with pytest.raises(KeyboardInterrupt):
        results_training.run_command(['130'], None, None)


def test_threads_are_those_of_the_command(monkeypatch):
    code = 'import os, sys; sys.exit(int(os.environ["OMP_NUM_THREADS"]) - int(sys.argv[1]))'
    monkeypatch.setattr(results_training, 'COMMAND', [sys.executable, '-Sc', code])
    results_training.run_command(['7'], 7, None)


def test_a_stopped_run_stops_its_training(tmp_path, monkeypatch):
    """A signal handler that raises, as `run` installs, ends the command too."""
    pid = tmp_path / 'pid'
    code = f'import os, time; open({str(pid)!r}, "w").write(str(os.getpid())); time.sleep(60)'
    monkeypatch.setattr(results_training, 'COMMAND', [sys.executable, '-Sc', code])

    def stop(*_):
        if pid.exists() and pid.read_text():
            raise SystemExit(143)

    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with pytest.raises(SystemExit):
            results_training.run_command([], None, None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_second_run_waits_for_a_training_that_is_running(tmp_path, capsys):
    with results_rows.locked(tmp_path, '') as lock:
        training = subprocess.Popen([sys.executable, '-Sc', 'import time; time.sleep(0.5)'], pass_fds=[lock])
    with results_rows.locked(tmp_path, 'waiting'):  # the first run is gone, its training is not
        assert training.poll() is not None or training.wait(1) == 0
    assert 'waiting' in capsys.readouterr().err


# --- add ---


@pytest.fixture
def trained(fake):
    """Return the work dir of a training by hand."""
    words = 'train repvit_segformer_camvid --backbone efficientnet_lite0 --seed 2 --work-dir mine2'
    fake(words.split(), None, None)
    return Path('mine2')


def change_meta(folder, **values):
    content = torch.load(folder / 'iter_20.pth')
    torch.save({**content, 'meta': {**content['meta'], **values}}, folder / 'iter_20.pth')


def test_a_training_by_hand_is_added(trained):
    assert run('add', 'mine2') == 0
    (row,) = rows()
    assert (row['model'], row['seed'], row['mIoU'], row['cpu_minutes']) == ('camvid-lite0', '2', '30.0', '0.5')


def test_a_row_of_the_same_seed_is_replaced_with_a_note(trained, fake, capsys):
    run('add', 'mine2')
    fake.factor = 20.0
    run('add', 'mine2')
    assert [row['mIoU'] for row in rows()] == ['60.0'] and len(rows('camvid_classes')) == 2
    assert 'camvid-lite0, seed 2: mIoU was 30.0, is now 60.0' in capsys.readouterr().err


def test_without_provenance_the_config_and_the_log_are_read(trained, monkeypatch):
    change_meta(trained, provenance=None)
    (trained / 'now').mkdir()
    (trained / 'now' / 'now.log').write_text('    PyTorch: 9.9\n  - CPU capability usage: AVX2\n')
    monkeypatch.setattr(results_rows, '_count_parameters', lambda cfg: 7)
    row = results_rows.describe(trained)
    assert (row['config'], row['backbone'], row['weights']) == ('repvit_segformer_camvid', 'repvit_m0_6', 'random')
    assert (row['torch'], row['instructions'], row['parameters']) == ('9.9', 'AVX2', 7)
    assert row['processor'] is row['threads'] is row['cpu_minutes'] is None and row['command'] == ''


def test_the_time_of_a_training_without_record_can_be_given(trained):
    change_meta(trained, provenance={'config': 'repvit_segformer_camvid', 'backbone': 'repvit_m0_6', 'parameters': 7})
    assert run('add', 'mine2', '--cpu-minutes', '80') == 0
    assert rows()[0]['cpu_minutes'] == '80.0'


def test_an_unfinished_training_is_refused(trained, capsys):
    change_meta(trained, iter=10)
    assert run('add', 'mine2') == 2
    assert 'has not ended, 10 of 20 iters are done' in capsys.readouterr().err
    assert not Path('results').exists()


def test_a_training_that_is_not_in_the_table_is_refused(trained, capsys):
    change_meta(trained, provenance={'config': 'repvit_detr_coco', 'backbone': 'resnet50', 'parameters': 1})
    assert run('add', 'mine2') == 2
    assert 'mine2: repvit_detr_coco on resnet50 from random weights is none of camvid-lite0' in capsys.readouterr().err


def test_a_config_of_another_name_is_added_with_a_note_if_the_training_is_named(trained, capsys):
    record = {'config': 'mine', 'backbone': 'repvit_m0_6', 'parameters': 1}
    change_meta(trained, provenance=record)
    assert run('add', 'mine2', '--only', 'camvid-lite0') == 2
    assert 'mine on repvit_m0_6 from random weights is none of camvid-lite0' in capsys.readouterr().err
    assert run('add', 'mine2', '--only', 'camvid-repvit') == 0
    assert 'the config is mine, not repvit_segformer_camvid' in capsys.readouterr().err
    assert rows()[0]['config'] == 'mine'


def test_a_test_without_the_scores_of_the_page_adds_nothing(trained, fake, monkeypatch, capsys):
    monkeypatch.setattr(fake, 'test', lambda words, folder: write_scores(folder))
    assert run('add', 'mine2') == 2
    assert 'no score mIoU; there is PQ' in capsys.readouterr().err
    assert not Path('results').exists()


def write_scores(folder):
    folder.mkdir(parents=True)
    (folder / 'scores.json').write_text('{"scores": {"PQ": 1.0}}')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['add'], 'add: name the work dirs'),
        (['add', 'nowhere'], 'nowhere: there is no such folder'),
        (['add', '.'], '.: no checkpoint in this folder'),
        (['page', 'work'], 'WORK_DIR: does not go with page'),
        (['run', '--cpu-minutes', '3'], '--cpu-minutes: does not go with run'),
        (['add', '.', '.', '--cpu-minutes', '3'], '--cpu-minutes: goes with one work dir'),
        (['run', '--only', 'camvid-lite'], '--only camvid-lite: expected camvid, nuclei, bccd, coco100, camvid-lite0'),
        (['run', '--data-root', 'data/none'], 'data/none/camvid (camvid)'),
    ],
)
def test_impossible_options_are_refused(fake, capsys, words, message):
    assert run(*words) == 2
    assert message in capsys.readouterr().err
    assert fake.calls == []


# --- rows ---


@pytest.mark.parametrize(
    'change', [('seed', 'sed'), ('camvid-lite0,', 'camvid-lite9,'), (',test,', ',"test'), (',test', '')]
)
def test_a_broken_file_of_rows_is_refused(trained, change):
    run('add', 'mine2')
    path = Path('results', 'camvid.csv')
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(InputError, match=r'results/camvid\.csv: cannot be used \(.*; mend or delete it'):
        results_rows.read(results_table.CAMVID)


def test_the_table_is_consistent():
    from repvit_dense import catalogue
    from repvit_dense.config.loading import names

    trainings = {training.name: training for training in results_table.TRAININGS}
    assert len(trainings) == len(results_table.TRAININGS)
    for training in trainings.values():
        assert training.config in names() and training.backbone in catalogue.BACKBONES
        assert all(metric.near in (None, *trainings) for metric in training.metrics)
    assert {*results.ACTIONS} == {'run', 'add', 'page', 'pictures'}
