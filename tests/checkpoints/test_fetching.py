"""Weights are looked for in all caches; a network that does not answer, or is forbidden, ends soon and clearly."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from repvit_dense import catalogue
from repvit_dense.checkpoints import fetching
from repvit_dense.checkpoints.fetching import CheckpointError, locate

LITE = catalogue.find('efficientnet_lite0')
NAME = 'timm/repvit_m1_1.dist_300e_in1k'


@pytest.fixture(autouse=True)
def online():
    yield
    fetching.set_offline(False)


def test_the_cache_of_the_hub_is_used(cache_dir, tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    monkeypatch.delenv('HF_HUB_CACHE', raising=False)
    file = tmp_path / 'hub/models--timm--repvit_m1_1.dist_300e_in1k/snapshots/0/model.safetensors'
    file.parent.mkdir(parents=True)
    file.touch()
    assert locate(NAME) == file


def test_files_of_installed_packages_are_used(cache_dir, tmp_path, monkeypatch):
    file = tmp_path / 'repvit_m0_6_distill_300e.pth'
    file.touch()
    package = SimpleNamespace(files=[Path('weights', file.name)], locate_file=lambda _: file)
    monkeypatch.setattr(fetching.metadata, 'distributions', lambda: [package])
    fetching._installed.cache_clear()
    assert locate(file.name) == file
    fetching._installed.cache_clear()


def test_the_package_of_a_row_holds_its_weights(cache_dir, tmp_path, monkeypatch, capsys):
    file = tmp_path / 'other-name.pth'
    file.touch()
    package = SimpleNamespace(files=[Path(file.name), Path('code.py')], locate_file=lambda part: tmp_path / part)
    monkeypatch.setattr(fetching.metadata, 'distribution', {LITE.package: package}.__getitem__)
    fetching._packaged.cache_clear()
    assert [locate(LITE.default_weights) for _ in range(2)] == [file, file]
    fetching._packaged.cache_clear()
    assert capsys.readouterr().err.splitlines() == [f'weights from the installed package {LITE.package}: {file}']


def test_the_package_of_a_row_is_named_where_it_is_missing(cache_dir, monkeypatch):
    monkeypatch.setattr(fetching, '_packaged', lambda package: [])
    fetching.set_offline(True)
    with pytest.raises(CheckpointError, match=f'pip install {LITE.package}$'):
        locate(LITE.default_weights)


def test_no_connection_is_opened_offline(cache_dir, monkeypatch):
    monkeypatch.setattr(fetching, '_connect', lambda url: pytest.fail(f'connects to {url}'))
    fetching.set_offline(True)
    with pytest.raises(CheckpointError, match='is in no cache, and --offline allows no download'):
        locate('repvit_m0_6_distill_300e.pth')


def test_a_server_that_does_not_answer(cache_dir, monkeypatch):
    monkeypatch.setattr(fetching, 'TIMEOUT', 0.1)
    with socket.create_server(('127.0.0.1', 0)) as silent, pytest.raises(CheckpointError, match='cannot be downloaded'):
        locate(f'http://127.0.0.1:{silent.getsockname()[1]}/a.pth')
    assert list(cache_dir.glob('*')) == []


@pytest.mark.parametrize('source, words', [('repvit_m0_6_distil_300e', 'did you mean'), ('x', 'list weights')])
def test_an_unknown_source_is_refused_without_a_download(source, words):
    with pytest.raises(CheckpointError, match=f'{source}: no such file.*{words}'):
        fetching.check_source(source)
