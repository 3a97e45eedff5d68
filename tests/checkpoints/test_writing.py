"""A safetensors file holds the weights of a checkpoint with config, classes and provenance, and is read like it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from repvit_dense.checkpoints.reading import CheckpointError, read
from repvit_dense.checkpoints.writing import write


@pytest.fixture
def checkpoint():
    shared = torch.arange(8.0).reshape(1, 2, 2, 2).contiguous(memory_format=torch.channels_last)
    meta = {
        'cfg': 'a = 1\n',
        'dataset_meta': {'classes': ('cell',), 'palette': [(1, 2, 3)]},
        'iter': 5,
        'seed': 0,
        'provenance': {'seed': 0},
    }
    return {'state_dict': {'a': shared, 'b': shared}, 'meta': meta, 'optimizer': {}}


def test_weights_and_meta_come_back(tmp_path, checkpoint):
    content = read(write(checkpoint, tmp_path / 'm.safetensors'))
    assert all(torch.equal(content['state_dict'][key], checkpoint['state_dict'][key]) for key in 'ab')
    assert content['meta'] == {
        'config_text': 'a = 1\n',
        'dataset_meta': {'classes': ['cell'], 'palette': [[1, 2, 3]]},
        'iter': 5,
        'provenance': {'seed': 0},
    }
    assert [path.name for path in tmp_path.iterdir()] == ['m.safetensors']


def test_bare_weights_are_written_too(tmp_path):
    assert read(write({'a': torch.zeros(1)}, tmp_path / 'm.safetensors'))['meta'] == {}


@pytest.mark.parametrize('text', ['[', '[]', '[' * 10**5, json.dumps({'dataset_meta': {'classes': [1]}})])
def test_a_broken_header_is_refused(tmp_path, text):
    save_file({'a': torch.zeros(1)}, tmp_path / 'm.safetensors', {'repvit_dense': text})
    with pytest.raises(CheckpointError, match='m.safetensors'):
        read(tmp_path / 'm.safetensors')
