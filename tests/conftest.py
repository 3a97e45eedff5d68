"""Fixtures that several test files share."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

TINY = {'embed_dims': (8, 16, 24, 32), 'depths': (1, 2, 1, 2)}


@torch.no_grad()
def _randomize_bn(module, generator=None):
    for bn in module.modules():
        if not isinstance(bn, _BatchNorm):
            continue
        bn.running_mean.uniform_(-0.2, 0.2, generator=generator)
        bn.running_var.uniform_(0.5, 1.5, generator=generator)
        if bn.affine:
            bn.weight.uniform_(0.3, 0.7, generator=generator)
            bn.bias.uniform_(-0.2, 0.2, generator=generator)
    return module


@pytest.fixture
def tiny_arch():
    """The smallest RepViT that still has every kind of block."""
    return dict(TINY)


@pytest.fixture(scope='session')
def randomize_bn():
    """`randomize_bn(module, generator=None)` draws all batch-norm tensors and returns the module.

    The zero weights and unit variances of a fresh network hide errors.
    """
    return _randomize_bn


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def tiny(tiny_arch, randomize_bn):
    """A tiny backbone in eval mode whose batch norms have something to do."""
    from repvit_dense.backbones import RepViT

    return randomize_bn(RepViT(tiny_arch)).eval()


def pytest_collection_modifyitems(items):
    """Tests that fork first: what runs artifacts leaves threads behind, with which no process forks safely."""
    items.sort(key=lambda item: 'engine' not in item.path.parts and item.path.stem != 'test_annotations')
