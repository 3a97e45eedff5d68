"""Check the names, files and folders of a command before PyTorch and OpenMMLab are imported, which takes seconds."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repvit_dense.artifact import hub, pretrained
from repvit_dense.artifact.manifest import is_artifact
from repvit_dense.checkpoints import fetching
from repvit_dense.checkpoints.work_dir import find_checkpoint
from repvit_dense.commands.launcher import is_restarted
from repvit_dense.config import devices
from repvit_dense.errors import InputError, nearest
from repvit_dense.files import check_writable, is_file, is_folder

# Fields that may name a model on the hub -> whether it has to be a checkpoint.
TRAINABLE = {'config': False, 'model': False, 'artifact': False, 'checkpoint': True, 'weights': True}


def check_names(options: Any) -> None:
    """Refuse a name that stands for nothing, and a place that cannot be written to.

    An option means the same in every command, so a field is recognised by its name. `offline` takes effect here, and
    the name of a packaged model becomes its folder; a model on the hub becomes its local copy.

    Raises:
        InputError: names the option and, if there is a similar name, that one.
    """
    fetching.set_offline(getattr(options, 'offline', False))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in TRAINABLE and hub.is_address(value):
            value = hub.fetch(value, TRAINABLE[field.name])
            setattr(options, field.name, value)
        if field.name in ('config', 'artifact', 'model') and value is not None:
            value = pretrained.resolve(value)
            setattr(options, field.name, value)
        if field.name in CHECKS and value not in (None, False, []):
            CHECKS[field.name](value)


def stands_for_model(name: str | Path) -> bool:
    """Return whether a name is a work dir or a checkpoint file, which hold config and weights."""
    from repvit_dense.config import CHECKPOINT_SUFFIXES

    path = Path(name)
    return (is_folder(path) and not is_artifact(path)) or (path.suffix in CHECKPOINT_SUFFIXES and is_file(path))


def _check_config(name: str | Path) -> None:
    from repvit_dense import catalogue, config
    from repvit_dense.config.dumped import written_config

    if is_folder(name):
        if not is_artifact(name):
            written_config(name)
    elif not stands_for_model(name) and not catalogue.is_known(str(name)):
        config.find(name)


def _check_backbone(name: str) -> None:
    from repvit_dense import catalogue

    try:
        catalogue.find(name)
    except ValueError as error:
        raise InputError(f'--backbone {name}: {error}') from error


def _check_data(name: str | Path) -> None:
    from repvit_dense.data import layouts

    layouts.check_name(str(name))


def _check_options(texts: list[str]) -> None:
    from repvit_dense.config.cfg_options import split

    for text in texts:
        split(text)


def _check_checkpoint(name: str | Path) -> None:
    if is_folder(name):
        find_checkpoint(str(name))
    else:
        fetching.check_source(str(name))


def _check_resume(name: str | Path) -> None:
    if name != 'auto' and not is_restarted():  # a restarted job continues from its last checkpoint
        _check_checkpoint(name)


def _check_weights(name: str | Path) -> None:
    if is_artifact(pretrained.resolve(name)):
        raise InputError(
            f'--from {name}: an artifact cannot be trained; name the work dir or checkpoint it was exported from'
        )
    _check_checkpoint(name)


def _check_artifact(name: str | Path) -> None:
    if not is_artifact(name):
        hint = nearest(str(name), pretrained.NAMES)
        raise InputError(f'--artifact {name}: no artifact there; name a folder that `export` wrote{hint}')


CHECKS: dict[str, Callable[[Any], None]] = {
    'config': _check_config,
    'backbone': _check_backbone,
    'data': _check_data,
    'cfg_options': _check_options,
    'checkpoint': _check_checkpoint,
    'weights': _check_weights,
    'resume': _check_resume,
    'artifact': _check_artifact,
    'device': devices.check,
    'work_dir': check_writable,
    'show_dir': check_writable,
    'out': check_writable,
}
