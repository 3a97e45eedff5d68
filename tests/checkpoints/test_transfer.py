"""Weights of another model: what fits is loaded, layers of other classes start anew, and one line says so."""

import pytest
import torch
from mmengine.config import ConfigDict

from repvit_dense import config
from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.checkpoints.transfer import Classes, transfer
from repvit_dense.config.building import build_on_meta
from repvit_dense.config.editing import set_class_counts
from repvit_dense.config.weights import class_layers

THINGS, ALL = ['a', 'b', 'c', 'd', 'e'], ['a', 'b', 'c', 'd', 'e', 'f', 'g']


def config_of(name, classes=None, **changes):
    """Return a packaged config without weights, for another number of classes."""
    cfg = config.load(name, ['model.backbone.init_cfg=None'])
    if classes:
        panoptic = 'panoptic' in name
        set_class_counts(cfg.model, len(classes), len(classes) - 2 if panoptic else len(classes))
    cfg.merge_from_dict(changes)
    return cfg


@pytest.mark.parametrize('name', config.names())
def test_every_head_starts_its_class_layers_anew_and_loads_the_rest(name):
    """The number of classes stays, so that only names tell the two apart."""
    cfg = config_of(name, ALL)
    model, layers = build_on_meta(cfg, 'model'), class_layers(cfg)
    heads = {key.partition('.')[0] for key in layers}
    assert heads
    assert heads <= {'roi_head', 'bbox_head', 'panoptic_head', 'decode_head', 'auxiliary_head'}
    others = [letter.upper() for letter in ALL]
    line = transfer(model, {'state_dict': model.state_dict()}, 'x.pth', Classes(others, layers, ALL))
    count = len(model.state_dict())
    assert line.startswith(f'{count - len(layers)} of {count} tensors (9')
    assert 'started anew because the classes differ: ' in line
    assert transfer(model, {'state_dict': model.state_dict()}, 'x.pth', Classes(ALL, layers, ALL)) == (
        f'all {count} tensors from x.pth'
    )
