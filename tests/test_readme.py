"""The make targets of the README, and its configs and figures. tests/test_docs.py runs its other commands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminal import COLUMNS, Terminal, visible

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
# Six drawn images instead of 600, one epoch.
TINY_SHAPES = (
    '--cfg-options embedded_data.root={tmp}/shapes embedded_data.num_train=4 embedded_data.num_val=2 '
    'train_dataloader.dataset.data_root={tmp}/shapes val_dataloader.dataset.data_root={tmp}/shapes '
    'test_dataloader.dataset.data_root={tmp}/shapes train_cfg.max_epochs=1 '
    'val_evaluator.ann_file={tmp}/shapes/annotations/instances_val2017.json '
    'test_evaluator.ann_file={tmp}/shapes/annotations/instances_val2017.json'
)


def run(command: str, **env) -> str:
    environment = {**os.environ, 'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}', **env}
    done = subprocess.run(
        shlex.split(command), cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def run_on_terminal(command: str) -> list[str]:
    """Run a command as `run` does, and return the lines that stay visible on a terminal."""
    terminal = Terminal()
    done = subprocess.Popen(
        shlex.split(command),
        cwd=ROOT,
        env={**os.environ, 'COLUMNS': str(COLUMNS)},
        stdin=subprocess.DEVNULL,
        stdout=terminal.side,
        stderr=terminal.side,
    )
    code, lines = done.wait(), visible(terminal.close())
    assert code == 0, '\n'.join(lines[-40:])
    return lines


def test_the_readme_stays_short():
    assert len(README.splitlines()) <= 100


def test_make_test_runs_the_tests():
    assert re.search(r'\d+ passed', run('make test COVERAGE=', PYTEST_ADDOPTS='tests/test_errors.py'))


def test_make_lint_passes():
    assert 'All checks passed' in run('make lint')


def test_make_bench_prints_a_table():
    assert 'of 1 targets met' in run('make bench BENCH_OPTIONS="inference --rounds 1"')


@pytest.mark.slow
def test_make_demo_leaves_curves_and_a_page(tmp_path):
    lines = run_on_terminal(f'make demo DEMO={tmp_path}/demo DEMO_OPTIONS="{TINY_SHAPES.format(tmp=tmp_path)}"')
    assert len(lines) <= 60, '\n'.join(lines)
    assert (tmp_path / 'demo' / 'curves.png').is_file()
    page = (tmp_path / 'demo' / 'predictions' / 'index.html').read_text()
    assert page.count('<figure>') == 2  # validation pictures


def test_make_demo_photos_leaves_a_page(tmp_path):
    photo = next((ROOT / 'tests' / 'golden' / 'nuclei' / 'images').glob('histology*'))
    assert 'Next:' in run(f'make demo-photos PHOTOS={photo} DEMO_PHOTOS={tmp_path}/photos')
    assert photo.stem in (tmp_path / 'photos' / 'index.html').read_text()


def test_results_of_the_readme_are_on_the_page_of_results():
    results = (ROOT / 'docs' / 'results.md').read_text()
    rows = README[README.index('| command |') : README.index('Nobody has trained')].splitlines()[2:]
    figures = [figure for row in rows if row for figure in re.findall(r'\d\.\d+x?', row.split('|')[3])]
    assert len(figures) >= 7
    for figure in figures:
        assert figure in results
