"""During a command, notices of other libraries go to the log; errors, true warnings and the user's text are shown."""

import logging
import os
import pickle
import sys
import warnings

import pytest
from mmengine.logging import MMLogger

from repvit_dense.compat import child_processes, mmcv_ops, panoptic_api, quiet, rescaling

RECORDS = {
    'an error of a library': ('/site-packages/mmdet/a.py', 'error("text")', 'error: text\n'),
    'a warning of a library': ('/site-packages/mmdet/a.py', 'warning("text")', ''),
    'a warning about the run': ('/site-packages/mmengine/hooks/a.py', 'warning("text")', 'warning: text\n'),
    'a deprecation': ('/site-packages/mmengine/hooks/a.py', 'warning("text is deprecated")', ''),
    'a warning of the user': ('/home/me/hooks.py', 'warning("text")', 'warning: text\n'),
    'information of the user': ('/home/me/hooks.py', 'info("text")', ''),
    'for the screen': ('/site-packages/repvit_dense/a.py', 'info("text", extra={"screen": True})', 'text\n'),
}
WARNINGS = {
    'a notice': ('/site-packages/mmdet/a.py', 'UserWarning', ''),
    'about the GPU': ('/site-packages/torch/cuda/a.py', 'UserWarning', 'warning: text\n'),
    'of the standard library for programmers': (os.__file__, 'FutureWarning', ''),
    'for programmers': ('/dist-packages/torch/functional.py', 'FutureWarning', ''),
}


def run(file, code, **names):
    """Run code as if it was in a file of this name."""
    exec(compile(code, file, 'exec'), {'__name__': 'somewhere', 'logging': logging, 'warnings': warnings, **names})


@pytest.fixture
def logger():
    """`logger()` builds a logger of mmengine, whose stream is the stdout of that moment."""
    names = []

    def build():
        names.append(f'quiet {len(names)}')
        return MMLogger(names[-1], logger_name='mmengine')

    return build


@pytest.mark.parametrize(('file', 'shown'), [('/site-packages/mmdet/a.py', ''), ('/home/me/hooks.py', '1 2\n')])
def test_prints(file, shown, capsys):
    with quiet.quiet():
        run(file, 'print(1, 2)')
    assert capsys.readouterr() == (shown, '')


@pytest.mark.parametrize(('file', 'code', 'shown'), RECORDS.values(), ids=RECORDS)
def test_records_of_mmengine(file, code, shown, logger, capsys):
    with quiet.quiet():
        run(file, f'logger.{code}', logger=logger())
    assert capsys.readouterr() == ('', shown)


@pytest.mark.parametrize(('file', 'shown'), [('/site-packages/nncf/a.py', ''), ('/home/me/a.py', 'text\n')])
def test_records_of_other_loggers(file, shown, capsys):
    with quiet.quiet():
        logger = logging.Logger('other')
        logger.addHandler(logging.StreamHandler(sys.stdout))
        run(file, 'logger.info("text")', logger=logger)
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(('file', 'category', 'shown'), WARNINGS.values(), ids=WARNINGS)
def test_warnings(file, category, shown, capsys):
    with warnings.catch_warnings(record=True) as passed_on, quiet.quiet():
        warnings.resetwarnings()
        run(file, f'warnings.warn("text", {category})')
    assert capsys.readouterr().err == shown
    assert passed_on == []


def test_warnings_of_the_user_are_passed_on():
    with pytest.warns(UserWarning, match='text'), quiet.quiet():
        run('/home/me/hooks.py', 'warnings.warn("text")')


def test_the_log_gets_the_notices_from_before_and_after_it_was_opened(logger, capsys):
    texts = []
    with quiet.quiet():
        run('/site-packages/lib/a.py', 'print("early", 1)')
        log = logger()
        log.handlers.append(type('Store', (logging.Handler,), {'emit': lambda _, record: texts.append(record.msg)})())
        quiet.log_to(log)
        run('/site-packages/lib/a.py', 'print("late"); print(); warnings.warn("odd")')
    assert texts[:2] == ['early 1', 'late'] and texts[-1].endswith('a.py:1: UserWarning: odd')
    assert capsys.readouterr() == ('', '')


def test_everything_is_restored(logger, capsys):
    before = sys.stdout, warnings.showwarning
    with pytest.raises(ZeroDivisionError), quiet.quiet(), quiet.quiet():
        log = logger()
        raise ZeroDivisionError
    assert (sys.stdout, warnings.showwarning) == before
    log.info('from a logger that outlives the command')
    assert 'outlives' in capsys.readouterr().out


def test_verbose_changes_nothing(capsys):
    with quiet.quiet(verbose=True):
        run('/site-packages/mmdet/a.py', 'print("notice")')
    assert capsys.readouterr().out == 'notice\n'


def test_a_spawned_worker_is_quiet_like_its_parent(monkeypatch):
    started = []
    monkeypatch.setattr(quiet, 'start', lambda: started.append(True))
    for change in (mmcv_ops, panoptic_api, rescaling):  # made for the rest of a worker's life
        monkeypatch.setattr(change, 'install', lambda: None)
    loud = pickle.dumps(child_processes.Preparation())
    with quiet.quiet():
        hushed = pickle.dumps(child_processes.Preparation())
    pickle.loads(loud)
    assert started == []
    pickle.loads(hushed)
    assert started == [True]
