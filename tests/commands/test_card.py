"""`card` and `push` take a checkpoint, a work dir or an artifact; the Python API has the same verbs."""

import pytest
import torch
import yaml

import repvit_dense as rd
from repvit_dense.artifact import hub
from repvit_dense.checkpoints.reading import read
from repvit_dense.commands import card, push
from repvit_dense.errors import InputError

CONFIG = "default_scope = 'mmseg'\nmodel = dict(backbone=dict(type='RepViT', arch='m0_6'))\n"


@pytest.fixture
def work_dir(tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    meta = {'cfg': CONFIG, 'dataset_meta': {'classes': ('road',)}, 'provenance': {'config': 'c', 'seed': 7}}
    torch.save({'meta': meta, 'state_dict': {'a': torch.ones(2)}}, folder / 'best_mIoU_iter_1.pth')
    (folder / 'c.py').write_text(CONFIG)
    return folder


@pytest.mark.parametrize('kind', ['work dir', 'checkpoint'])
def test_the_card_of_a_training(work_dir, capsys, kind):
    text = card.run(card.Options(work_dir if kind == 'work dir' else work_dir / 'best_mIoU_iter_1.pth'))
    assert capsys.readouterr().out == text
    assert '# c\n' in text
    assert 'gives every pixel a class' in text
    assert 'Backbone: repvit\\_m0\\_6.' in text
    assert 'Class: road.' in text
    assert '| seed | 7 |' in text
    assert str(work_dir.parent) not in text


def test_an_older_checkpoint_has_a_card(work_dir):
    torch.save({'state_dict': {'a': torch.ones(2)}}, work_dir / 'old.pth')
    text = card.run(card.Options(work_dir / 'old.pth'))
    assert 'How the model was trained is not recorded.' in text
    assert 'Its classes are unknown.' in text


def test_the_card_of_an_artifact_goes_to_a_file(artifact, tmp_path):
    rd.card(artifact(), out=tmp_path / 'README.md', license='CC0-1.0')
    header = yaml.safe_load((tmp_path / 'README.md').read_text().split('---')[1])
    assert (header['license'], header['pipeline_tag']) == ('cc0-1.0', 'object-detection')


@pytest.mark.parametrize('name', ['missing', 'missing.pth', 'hf://me'])
def test_a_missing_model_is_named(name):
    with pytest.raises(InputError, match=name):
        card.run(card.Options(name))


def test_a_folder_is_no_file_for_a_card(work_dir, tmp_path):
    with pytest.raises(InputError, match='is a folder; name a file in it'):
        card.run(card.Options(work_dir, out=tmp_path))


def test_a_checkpoint_is_pushed_as_safetensors(work_dir, monkeypatch, capsys):
    sent = {}

    def upload(repo, files, text, private, message):
        sent.update({name: read(path) for name, path in files.items()}, card=text, settings=(repo, private, message))
        return 'hf://me/x@1'

    monkeypatch.setattr(hub, 'push', upload)
    monkeypatch.setattr('huggingface_hub.get_token', lambda: 'x')
    assert rd.push(work_dir, 'me/x', private=True) == 'hf://me/x@1'
    assert capsys.readouterr().out == 'hf://me/x@1\n'
    assert sent['settings'] == ('me/x', True, None)
    assert sent['model.safetensors']['meta']['provenance'] == {'config': 'c', 'seed': 7}
    assert "rd.load('hf://me/x')" in sent['card']


@pytest.mark.parametrize('repo', ['x', 'me/x@main'])
def test_an_impossible_repository_is_refused(work_dir, repo):
    with pytest.raises(InputError, match='hf://USER/NAME|leave out @main'):
        push.run(push.Options(work_dir, repo))


def test_a_command_takes_a_model_of_the_hub(artifact, monkeypatch):
    folder, asked = artifact(), []
    monkeypatch.setattr(hub, 'fetch', lambda *words: (asked.append(words), folder)[1])
    assert rd.load('hf://me/x').folder == folder
    with pytest.raises(InputError, match='an artifact cannot be trained'):
        rd.train('repvit_ssdlite_coco', weights='hf://me/x', data='shapes')
    assert asked == [('hf://me/x', False), ('hf://me/x', True)]
