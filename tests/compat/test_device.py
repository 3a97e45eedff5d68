"""A run uses the device that was named, and mmengine its own afterwards."""

import mmengine.device
import pytest
import torch

from repvit_dense.compat.device import on_device
from repvit_dense.errors import InputError


def test_the_cpu_although_there_is_a_gpu(monkeypatch):
    from mmengine.device import utils

    monkeypatch.setattr(utils, 'DEVICE', 'cuda')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with on_device('cpu'):
        assert mmengine.device.get_device() == 'cpu'
        assert not torch.cuda.is_available()
    assert mmengine.device.get_device() == 'cuda'
    assert torch.cuda.is_available()


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(InputError, match='--device cuda:1: torch finds 1 GPUs'), on_device('cuda:1'):
        pass


def test_no_device_leaves_the_choice():
    before = mmengine.device.get_device()
    with on_device(None):
        assert mmengine.device.get_device() == before
