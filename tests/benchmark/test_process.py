"""Processes are started, watched and stopped."""

import pytest

from repvit_dense.benchmark import process
from repvit_dense.benchmark.subjects import BackboneSubject, ConfigSubject, Setting
from repvit_dense.errors import InputError

SETTING = Setting(2, (64, 64))


def test_help_is_asked_for():
    subject = process.help_page('doctor')
    assert subject.name == 'doctor --help'
    assert subject.call() is None


def test_a_process_that_fails_says_why():
    with pytest.raises(InputError, match='no such command|invalid choice'):
        process.help_page('nothing').call()


def test_a_backbone_gives_its_first_result():
    process.first_result(BackboneSubject('repvit_m0_6', SETTING)).call()


def test_a_backbone_has_no_data_to_load():
    with pytest.raises(InputError, match='only a config has data'):
        process.loading(BackboneSubject('repvit_m0_6', SETTING), 1)


def test_the_wait_for_data_is_a_share(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, 'STEPS_OF_LOADING', 3)
    row = process.loading(ConfigSubject('repvit_maskrcnn_shapes', SETTING), 1)
    assert len(row['seconds']) == 2
    assert 0 < row['share'] < 1
    assert row['parts']['waiting'] < row['median']


def test_a_training_that_does_not_start_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='no_such_config: no iteration was done'):
        process.first_iteration('no_such_config')
