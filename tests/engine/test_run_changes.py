"""A run changes other libraries only for its own time, see `repvit_dense.compat.CHANGES`."""

import multiprocessing
import re
import runpy
import sys
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader

snapshot = runpy.run_path(str(Path(__file__).parents[1] / 'snapshot.py'))

IN_A_RUN = {'CheckpointLoader', '_config', 'panopticapi'}


def changed():
    """Return the parts that differ from those of a process without a run."""
    loaders = {loader.__module__ for loader in CheckpointLoader._schemes.values()}
    return {
        *(['CheckpointLoader'] if loaders == {'repvit_dense.compat.safe_loading'} else []),
        *(['_config'] if 'repvit_dense' in multiprocessing.current_process()._config else []),
        *(['panopticapi'] if 'panopticapi' in sys.modules else []),
    }


class Look(Hook):
    """Record the changes at each stage; raise an error in the iteration `fail_at`."""

    def __init__(self, fail_at=None):
        self.seen, self.fail_at = {}, fail_at

    def before_run(self, runner):
        self.seen['run'] = changed()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen['train'] = changed()
        if batch_idx == self.fail_at:
            raise ZeroDivisionError

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen['val'] = changed()

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen['test'] = changed()


def take_after_a_run(work_dir, toy):
    """Run once, because mmengine and torch import and set up parts of themselves during the first run; then record."""
    runner = toy(work_dir)
    runner.train()
    runner.test()
    return snapshot['take']()


def differences(before):
    """Return the changes since `before` in the libraries that a run uses, without the state of the random generator."""
    lines = snapshot['changes'](before, snapshot['take']())
    relevant = re.compile(rf'\w+ (module|registry|setting (?!random)|attribute ({"|".join(snapshot["LIBRARIES"])})\b)')
    return [line for line in lines if relevant.match(line)]


def test_a_run_makes_its_changes_and_undoes_them(tmp_path, toy):
    before = take_after_a_run(tmp_path / 'first', toy)
    look = Look()
    runner = toy(tmp_path / 'run', hooks=[look])
    assert changed() == set()
    runner.train()
    assert changed() == set()
    runner.val()
    runner.test()
    assert look.seen == dict.fromkeys(('run', 'train', 'val', 'test'), IN_A_RUN)
    assert differences(before) == []


def test_a_run_that_fails_undoes_its_changes(tmp_path, toy):
    before = take_after_a_run(tmp_path / 'first', toy)
    look = Look(fail_at=1)
    with pytest.raises(ZeroDivisionError):
        toy(tmp_path / 'run', hooks=[look]).train()
    assert look.seen['train'] == IN_A_RUN
    assert differences(before) == []


def test_a_runner_that_cannot_be_built_undoes_its_changes(tmp_path, toy):
    before = take_after_a_run(tmp_path / 'first', toy)
    with pytest.raises(KeyError, match='NoSuchHook'):
        toy(tmp_path / 'run', default_hooks={'first': {'type': 'NoSuchHook'}})
    assert differences(before) == []
