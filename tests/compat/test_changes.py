"""The table of changes to other libraries is complete, and a loader registered during a run stays."""

from pathlib import Path

import pytest
from mmengine.runner import CheckpointLoader

from repvit_dense import compat
from repvit_dense.compat import safe_loading

FOLDER = Path(compat.__file__).parent


def test_each_file_has_one_row():
    files = sorted(path.stem for path in FOLDER.iterdir() if not path.name.startswith('__'))
    assert sorted(change.file for change in compat.CHANGES) == files


@pytest.fixture
def schemes(monkeypatch):
    """Let the test change a copy of the loaders."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    return dict(CheckpointLoader._schemes)


def test_a_loader_registered_inside_stays_and_the_others_return(schemes):
    def load_empty(filename, map_location=None):
        return {}

    with safe_loading.patched(lambda source, map_location: {'read': source}):
        with safe_loading.patched(lambda source, map_location: {'nested': source}):
            assert CheckpointLoader.load_checkpoint('a.pth') == {'nested': 'a.pth'}
        assert CheckpointLoader.load_checkpoint('https://a/b.pth') == {'read': 'https://a/b.pth'}
        CheckpointLoader.register_scheme('empty://', load_empty)
    assert CheckpointLoader._schemes == {**schemes, 'empty://': load_empty}
