"""Test the measurements that start a process."""

import pytest

from repvit_dense.benchmark import process
from repvit_dense.benchmark.subjects import BackboneSubject, ConfigSubject
from repvit_dense.benchmark.workload import Workload
from repvit_dense.errors import InputError

WORKLOAD = Workload(2, (64, 64))


def test_the_help_page_of_a_command_is_timed():
    timed = process.help_page('doctor')
    assert timed.name == 'doctor --help'
    assert timed.call() is None


def test_the_error_message_of_a_failed_process_is_reported():
    with pytest.raises(InputError, match='no such command|invalid choice'):
        process.help_page('nothing').call()


def test_a_backbone_runs_in_a_new_process():
    process.first_prediction(BackboneSubject('repvit_m0_6', WORKLOAD)).call()


def test_data_loading_of_a_backbone_is_refused():
    with pytest.raises(InputError, match='only a config has data'):
        process.data_loading(BackboneSubject('repvit_m0_6', WORKLOAD), 1)


def test_the_wait_for_data_is_a_fraction_of_the_iteration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, 'LOADING_STEPS', 3)
    row = process.data_loading(ConfigSubject('repvit_maskrcnn_shapes', WORKLOAD), 1)
    assert len(row['seconds']) == 2
    assert 0 < row['share'] < 1
    assert row['parts']['waiting'] < row['median']


def test_a_training_without_an_iteration_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='no_such_config: the training ended before its first iteration'):
        process.first_iteration('no_such_config')
