"""Check the weights that a training starts from, and load them."""

import copy
from typing import TYPE_CHECKING, Any

from repvit_dense.checkpoints import fetching
from repvit_dense.config.building import build_on_meta
from repvit_dense.config.data import dataset_meta, trained_classes
from repvit_dense.config.editing import UNFROZEN, set_class_counts
from repvit_dense.config.structure import class_heads, nested, scope
from repvit_dense.errors import InputError
from repvit_dense.screen import say

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

GO_ON = 'Or start from random weights: --offline, or from another model: --from WEIGHTS'


def find_pretrained(cfg: 'Config') -> None:
    """Find the published weights that parts of the model start from; download them if necessary. PyTorch is not needed.

    Offline, a part whose weights are in no cache starts from random weights, and is not frozen. A training that is
    resumed, or loads a whole model, needs none.

    Raises:
        InputError: there are no such weights, or they cannot be downloaded.
    """
    for part in _pretrained(cfg):
        name = str(part.init_cfg['checkpoint'])
        if cfg.get('load_from'):
            if not fetching.is_here(name):
                del part['init_cfg']
            continue
        fetching.check_source(name)
        try:
            fetching.locate(name)
        except fetching.CheckpointError as error:
            if not fetching.is_offline():
                raise InputError(f'{error}. {GO_ON}') from error
            del part['init_cfg']
            part.update({key: value for key, value in UNFROZEN.items() if key in part})
            say(f'{name}: in no cache of this machine, so {part.get("type")} starts from random weights (--offline)')


def drop_pretrained(cfg: 'Config') -> None:
    """Let no part of the model start from published weights, because others take their place."""
    for part in _pretrained(cfg):
        del part['init_cfg']


def _pretrained(cfg: 'Config') -> list[Any]:
    """Return the parts of the model that start from published weights."""
    parts = [part for part in nested(cfg.get('model')) if isinstance(part.get('init_cfg'), dict)]
    return [part for part in parts if part.init_cfg.get('type') == 'Pretrained' and part.init_cfg.get('checkpoint')]


def check_start(cfg: 'Config') -> None:
    """Check the weights that a training starts from before anything long begins; download them if necessary.

    These are `weights` of the config, a whole model, or else those of `init_cfg` of parts. A training that is resumed,
    or that loads a whole model strictly (`load_from`), needs neither.

    Raises:
        InputError: they cannot be read or downloaded, or do not fit the model.
    """
    from repvit_dense.checkpoints.reading import CheckpointError, read

    weights = cfg.get('weights')
    if cfg.get('load_from'):
        return
    if weights:
        start_from(build_on_meta(cfg, 'model'), cfg, read(weights, 'meta'))
        return
    for part in _pretrained(cfg):
        try:
            read(part.init_cfg['checkpoint'], 'meta')
        except CheckpointError as error:
            raise InputError(f'{error}. {GO_ON}') from error


def start_from(model: 'nn.Module', cfg: 'Config', checkpoint: dict) -> str:
    """Load the parts that fit of the checkpoint that `weights` of the config names; see `checkpoints.transfer`.

    Args:
        model: the model of the config; on the device meta, the checkpoint is only checked.
        cfg: the config of a training.
        checkpoint: content of the file.

    Returns:
        a line about what was loaded.

    Raises:
        CheckpointError: it does not fit.
    """
    from repvit_dense.checkpoints.transfer import Classes, transfer

    names = dataset_meta(cfg.train_dataloader.dataset, scope(cfg)).get('classes') or ()
    classes = Classes(list(names), class_layers(cfg), trained_classes(checkpoint))
    return transfer(model, checkpoint, str(cfg.weights), classes)


def class_layers(cfg: 'Config') -> dict[str, int]:
    """Return the tensors of a model whose shape depends on the number of classes, found by building it with more.

    The value is the number of rows for each class; 0 if the shape does not depend in this way, and for buffers, whose
    values are settings.
    """
    more, added = _with_more_classes(cfg)
    model = build_on_meta(cfg, 'model')
    larger = build_on_meta(more, 'model').state_dict()
    trained = {name for name, _ in model.named_parameters()}
    layers = {}
    for key, value in model.state_dict().items():
        if key not in larger or larger[key].shape != value.shape:
            layers[key] = _rows_per_class(value, larger[key], added) if key in trained and key in larger else 0
    return layers


def _with_more_classes(cfg: 'Config') -> tuple['Config', int]:
    """Return a config with one class more, and one stuff class more if there are any; and the number of both."""
    more = copy.deepcopy(cfg)
    heads = [part for _, part in class_heads(more.model)]
    stuff = max((part.get('num_stuff_classes') or 0 for part in heads), default=0)
    things = max((part.get('num_things_classes') or part.get('num_classes') or 0 for part in heads), default=0)
    added = 2 if stuff else 1
    set_class_counts(more.model, things + stuff + added, things + 1)
    return more, added


def _rows_per_class(value: Any, larger: Any, added: int) -> int:
    if value.ndim != larger.ndim or value.shape[1:] != larger.shape[1:]:
        return 0
    rows, rest = divmod(larger.shape[0] - value.shape[0], added)
    return 0 if rest else rows
