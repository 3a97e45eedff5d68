"""Networks that several tests of backbones share."""

import pytest
import timm
import torch
from mmengine.registry import MODELS

from repvit_dense import catalogue
from repvit_dense.backbones import RepViT
from repvit_dense.backbones.repvit import ARCHS
from repvit_dense.checkpoints.layouts import convert


@pytest.fixture
def build_tiny(tiny_arch, randomize_bn):
    """Return `build_tiny(**arguments)`, a tiny RepViT with random batch norms; the same weights at every call."""

    def build(**arguments):
        torch.manual_seed(0)
        return randomize_bn(RepViT(tiny_arch, **arguments))

    return build


@pytest.fixture
def plain_twin(randomize_bn):
    """Return `plain_twin(arch, **arguments)`: a RepViT and timm's with the same random weights, in float64."""

    def build(arch, **arguments):
        dims = ARCHS[arch]
        plain = timm.create_model('repvit_m1_1', features_only=True, embed_dim=dims['embed_dims'], depth=dims['depths'])
        model = RepViT(arch, **arguments).double()
        model.load_state_dict(convert(randomize_bn(plain.double()).state_dict(), to='repvit_dense'))
        return model, plain

    return build


@pytest.fixture(scope='session')
def build_row():
    """Return `build_row(row, **options)`, the backbone of a row of the catalogue or of its name."""

    def build(row, **options):
        row = catalogue.find(row) if isinstance(row, str) else row
        return MODELS.build({'type': row.type, **row.args, **options})

    return build
