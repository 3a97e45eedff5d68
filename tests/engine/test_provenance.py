"""Every checkpoint says how its weights were made, without a secret or an absolute path."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from repvit_dense import catalogue
from repvit_dense.checkpoints import provenance
from repvit_dense.checkpoints.provenance import command_line
from repvit_dense.checkpoints.reading import read
from repvit_dense.commands.train import Options
from repvit_dense.engine.provenance import describe_weights, hash_of

ONE_EPOCH = {'type': 'DenseEpochLoop', 'max_epochs': 1}


def record_in(path):
    return provenance.of_checkpoint(read(path))


@pytest.fixture(scope='module')
def first(tmp_path_factory, toys):
    """Train one epoch; return the work dir."""
    folder = tmp_path_factory.mktemp('provenance') / 'trained'
    runner = toys(folder, train_cfg=ONE_EPOCH)
    runner.record.name(command_line(Options('toy.py', data='/home/somebody/nuclei', iters=8)), '/home/somebody/nuclei')
    runner.train()
    return folder


@pytest.fixture
def trained(first, tmp_path):
    """Return a copy of that work dir."""
    return shutil.copytree(first, tmp_path / 'trained')


def test_a_checkpoint_has_plain_provenance(trained):
    record = record_in(trained / 'epoch_1.pth')
    assert json.loads(json.dumps(record)) == record
    assert record['command'] == 'repvit-dense train toy.py --data .../nuclei --iters 8'
    assert (record['seed'], record['iterations'], record['processes']) == (0, 8, 1)
    assert record['data'] == {
        'name': 'nuclei',
        'url': None,
        'licence': 'unknown',
        'train': {'images': 16, 'sha256': None},
        'val': {'images': 16, 'sha256': None},
    }
    assert record['versions'].keys() >= {'repvit_dense', 'torch', 'mmengine', 'mmcv', 'numpy', 'python'}
    assert record['hardware']['threads'] == torch.get_num_threads()
    assert record['initial_weights'] == {'name': 'random', 'licence': None}
    assert record['licence'] == 'unknown'
    assert record['parameters'] > 0 <= record['cpu_seconds']


def test_the_best_checkpoint_has_its_scores(trained):
    (best,) = trained.glob('best_*.pth')
    scores = record_in(best)['scores']
    assert scores['chosen_by'] == 'toy/mAP'
    assert scores['split'] == 'val'
    assert scores['best'] == scores['last'] == {'iteration': 8, 'values': scores['last']['values']}
    assert 0 < scores['best']['values']['toy/mAP'] < 1


def test_a_resumed_training_adds_up_its_time_and_keeps_its_command(trained, toy):
    before = record_in(trained / 'epoch_1.pth')
    runner = toy(trained, resume=True, load_from=str(trained / 'epoch_1.pth'))
    runner.record.name(command_line(Options(trained, resume='auto')))
    runner.train()
    after = record_in(trained / 'epoch_2.pth')
    assert after['command'] == before['command']
    assert after['resumed'] == ['repvit-dense train .../trained --resume auto']
    assert after['data']['name'] == 'nuclei'
    assert after['iterations'] == 16
    assert after['seconds'] > before['seconds']
    assert after['scores']['best']['iteration'] in (8, 16)


def test_resuming_an_older_checkpoint_leaves_unknown_what_it_did_not_record(trained, toy):
    content = torch.load(trained / 'epoch_1.pth', weights_only=False)
    del content['meta']['provenance']
    torch.save(content, trained / 'epoch_1.pth')
    runner = toy(trained, resume=True, load_from=str(trained / 'epoch_1.pth'))
    runner.load_checkpoint(trained / 'epoch_1.pth')
    record = runner.record.describe(runner)
    assert record['command'] is None
    assert record['seconds'] is None
    assert record['initial_weights'] == {'name': None, 'licence': None}


def test_a_training_names_the_checkpoint_it_starts_from(trained, toy):
    runner = toy(trained)
    runner.load_checkpoint(trained / 'epoch_1.pth')
    weights = runner.record.describe(runner)['initial_weights']
    assert (weights['name'], weights['licence']) == ('.../epoch_1.pth', 'unknown')
    assert weights['data']['name'] == 'nuclei'


@pytest.mark.parametrize(
    ('name', 'licence'),
    [
        ('timm/repvit_m1_1.dist_450e_in1k', 'Apache-2.0'),
        ('repvit_m0_6_distill_300e', 'Apache-2.0'),
        ('timm/resnet18.fb_swsl_ig1b_ft_in1k', 'CC-BY-NC-4.0'),
        ('timm/nothing', 'unknown'),
    ],
)
def test_published_weights_have_their_licence(name, licence):
    assert describe_weights(name) == {'name': name, 'licence': licence}


def test_the_address_of_published_weights_stands_for_their_name():
    entry = catalogue.PUBLISHED['repvit_m1_1_coco.pth']
    assert describe_weights(entry.url) == {'name': entry.name, 'licence': 'Apache-2.0'}


def test_a_file_with_the_name_of_published_weights_is_not_taken_for_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('repvit_m1_1_coco.pth').touch()
    assert describe_weights('repvit_m1_1_coco.pth')['licence'] == 'unknown'


class Files:
    """A data set of image files."""

    def __init__(self, folder):
        self.ann_file, self.paths = folder / 'labels.json', sorted(map(str, folder.glob('*/*.png')))

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, index):
        return {'img_path': self.paths[index]}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / 'data'
    for split in 'ab':
        (path / split).mkdir(parents=True)
        cv2.imwrite(str(path / split / '1.png'), np.zeros((2, 2), np.uint8))
    (path / 'labels.json').write_text('{}')
    return path


def test_the_hash_stays_when_the_folder_moves(folder):
    before = hash_of(Files(folder))
    assert before == hash_of(Files(shutil.copytree(folder, folder.with_name('moved'))))


@pytest.mark.parametrize('change', ['labels', 'name', 'size'])
def test_the_hash_changes_with_the_data(folder, change):
    before = hash_of(Files(folder))
    if change == 'labels':
        (folder / 'labels.json').write_text('[]')
    elif change == 'name':
        (folder / 'a' / '1.png').rename(folder / 'a' / '2.png')
    else:
        cv2.imwrite(str(folder / 'a' / '1.png'), np.zeros((9, 9), np.uint8))
    assert hash_of(Files(folder)) != before
