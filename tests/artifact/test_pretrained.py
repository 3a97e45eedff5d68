"""The models of the package: found by name, and as good on labelled images as when they were packaged."""

import json
from pathlib import Path

import pytest

from repvit_dense.artifact import manifest, pretrained
from repvit_dense.artifact.predictor import Predictor
from repvit_dense.commands import load
from tools.pages.pretrained import FLOORS, IMAGES, LARGEST, score


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize('name', pretrained.NAMES)
def test_the_scores_on_labelled_images_are_above_the_floors(name):
    record = json.loads((IMAGES / name / FLOORS).read_text())
    scores = score(pretrained.folder(name), IMAGES / name)
    assert all(scores[key] >= floor for key, floor in record['floors'].items()), scores


@pytest.mark.parametrize('name', pretrained.NAMES)
def test_a_packaged_model_is_small_verified_and_the_one_that_was_measured(name):
    folder = pretrained.folder(name)
    about = manifest.read(folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= LARGEST
    assert about.certificate['failures'] == []
    assert about.files[about.model] == json.loads((IMAGES / name / FLOORS).read_text())['model_sha256']


@pytest.mark.parametrize('name', pretrained.NAMES)
def test_the_card_says_what_the_model_is_not_for(name):
    card = (pretrained.folder(name) / 'README.md').read_text()
    assert 'license: "apache-2.0"' in card
    assert 'not for diagnosis' in card


# --- names ---


def test_a_name_is_that_of_a_packaged_model_wherever_an_artifact_is_accepted(capsys):
    model = load.run(load.Options('nuclei', threads=1))
    assert isinstance(model, Predictor)
    assert model.names == ['nucleus']
    assert pretrained.resolve(Path('nuclei')) == pretrained.folder('nuclei') == model.folder
    assert capsys.readouterr().err == ''


def test_other_names_are_left_alone():
    assert pretrained.folder('exported/onnx') is None
    assert pretrained.resolve('./nuclei') == './nuclei'


def test_an_artifact_in_the_current_directory_goes_first(artifact, tmp_path, capsys):
    artifact('roi').rename(tmp_path / 'nuclei')
    model = load.run(load.Options('nuclei', threads=1))
    assert model.folder == tmp_path / 'nuclei'
    assert f'the model in the folder {tmp_path}/nuclei' in capsys.readouterr().err


def test_a_work_dir_in_the_current_directory_goes_first(tmp_path):
    (tmp_path / 'nuclei').mkdir()
    (tmp_path / 'nuclei' / 'epoch_1.pth').touch()
    assert pretrained.resolve('nuclei') == tmp_path / 'nuclei'


def test_a_folder_of_images_is_no_model(tmp_path, capsys):
    (tmp_path / 'nuclei').mkdir()
    assert pretrained.resolve('nuclei') == pretrained.folder('nuclei')
    assert 'holds no model' in capsys.readouterr().err


@pytest.mark.parametrize(
    'command',
    [
        ('predict', 'nucleii', 'a.png'),
        ('serve', 'nucleii'),
        ('test', 'repvit_maskrcnn_shapes', '--artifact', 'nucleii'),
        ('benchmark', 'nucleii'),
    ],
)
def test_a_mistyped_name(refuse_in_a_line, command):
    assert "did you mean 'nuclei'?" in refuse_in_a_line(*command)


def test_a_packaged_model_cannot_be_trained(refuse_in_a_line):
    assert 'an artifact cannot be trained' in refuse_in_a_line(
        'train', 'repvit_maskrcnn_shapes', '--data', 'shapes', '--from', 'nuclei'
    )
