"""Fixtures for reading and loading checkpoints."""

import logging
import os

import pytest
import torch
from mmengine.logging import MMLogger

from repvit_dense.checkpoints.reading import read
from repvit_dense.compat import safe_loading as safe_loading_change


@pytest.fixture
def log():
    """Return the (level, text) records of mmengine's current logger, from now on."""
    records = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: records.append((record.levelno, record.getMessage()))
    logger = MMLogger.get_instance(os.urandom(4).hex(), log_level='INFO')  # the newest logger is the current one
    logger.addHandler(handler)
    return records


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    """Return the checkpoint directory of torch.hub, below `tmp_path`."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


@pytest.fixture
def safe_loading():
    """Let mmengine load through the safe reader, as during a run."""
    with safe_loading_change.patched(read):
        yield
