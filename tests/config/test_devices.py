"""A device that is not there is refused without PyTorch."""

import sys

import pytest

from repvit_dense.config import devices
from repvit_dense.errors import InputError


@pytest.mark.parametrize('device', ['gpu', 'cuda:', 'cuda:x', '0', 'cpu:1', '', 0])
def test_other_words(device):
    with pytest.raises(InputError, match='expected cpu, cuda, or the number of a GPU'):
        devices.check(device)


@pytest.mark.parametrize(
    'number, device, words',
    [
        (0, 'cuda', 'there is no GPU here'),
        (0, 'cuda:0', 'there is no GPU'),
        (2, 'cuda:2', '2 GPUs here, cuda:0 to cuda:1'),
    ],
)
def test_gpus_that_are_not_there(monkeypatch, number, device, words):
    monkeypatch.setattr(devices, 'count', lambda: number)
    monkeypatch.setattr(devices, 'UNCOUNTED', ())
    with pytest.raises(InputError, match=words):
        devices.check(device)


@pytest.mark.parametrize('device', [None, 'cpu', 'cuda', 'cuda:1'])
def test_devices_that_are_there(monkeypatch, device):
    monkeypatch.setattr(devices, 'count', lambda: 2)
    devices.check(device)


def test_a_launcher_chooses_the_gpu(monkeypatch):
    monkeypatch.setattr(devices, 'count', lambda: 2)
    devices.check('cuda', 'pytorch')
    with pytest.raises(InputError, match='the launcher gives every process its GPU'):
        devices.check('cuda:1', 'pytorch')


@pytest.mark.parametrize('visible', ['', '-1'])
def test_gpus_that_are_hidden(monkeypatch, visible):
    monkeypatch.delitem(sys.modules, 'torch')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    assert devices.count() == 0
