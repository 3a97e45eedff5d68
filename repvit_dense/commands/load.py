"""`repvit_dense.load`: load a trained model, an artifact or a published model."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.artifact.manifest import is_artifact
from repvit_dense.commands.base import CHECKPOINT, ModelOptions, checkpoint_of, default_work_dir, open_config
from repvit_dense.errors import InputError
from repvit_dense.options import option, whole_number

if TYPE_CHECKING:
    from torch import nn

    from repvit_dense.artifact.predictor import ImageModel, Predictor
    from repvit_dense.backbones.catalogue import Backbone


@dataclasses.dataclass
class Options(ModelOptions):
    """Options of `load`, shared by `predict`."""

    config: str | Path = option(
        positional=True,
        help='work dir, checkpoint, folder of an artifact, name of the catalogue, or a config with a checkpoint',
    )
    checkpoint: str | Path | None = option(None, positional=True, nargs='?', help=CHECKPOINT)
    _: dataclasses.KW_ONLY
    device: str | None = option(None, help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)')
    threads: int | None = option(None, type=whole_number(1, 1024), metavar='N', help='CPU threads (default: all cores)')
    deploy: bool = option(False, help='fuse the model')


def run(options: Options) -> 'ImageModel | Any':
    """Load a trained model, an artifact or a published model.

    Returns:
        for a work dir, a checkpoint file (`.pth`), a config with a checkpoint, or a published detector or segmentor of
        the catalogue (`repvit_m1_1_coco.pth`): a `Model`. For the folder of an artifact: a `Predictor`, which needs
        neither torch nor OpenMMLab. Both map an image to a `Result`. For a backbone of the catalogue (`m1_1`): the
        `torch.nn.Module` in eval mode with its published weights, which maps `(B, 3, H, W)` to features.

    Raises:
        InputError: there is nothing of this name, or it cannot be read or downloaded.
    """
    if is_artifact(options.config):
        return _load_artifact(options)
    from repvit_dense.backbones import catalogue

    name = str(options.config)
    entry = catalogue.BACKBONES.get(name) or catalogue.BACKBONES.get(f'repvit_{name}')
    if entry:
        return _load_backbone(entry)
    options = _resolve_published(options)
    cfg = open_config(options, default_work_dir(options))
    checkpoint = checkpoint_of(options, options.checkpoint)
    from repvit_dense.commands.trained_model import Model

    return Model(cfg, checkpoint, options.device, options.deploy, options.threads)


def _load_artifact(options: Options) -> 'Predictor':
    from repvit_dense.artifact.predictor import Predictor

    for name in ('checkpoint', 'backbone', 'data', 'cfg_options', 'device', 'deploy'):
        if getattr(options, name):
            raise InputError(f'--{name.replace("_", "-")} does not go with an artifact, which holds a fixed model')
    return Predictor(options.config, options.threads)


def _load_backbone(entry: 'Backbone') -> 'nn.Module':
    from repvit_dense.checkpoints.loading import load_checkpoint
    from repvit_dense.model import build_backbone

    if not entry.default_weights:
        raise InputError(f'{entry.name}: no weights were published for this backbone; train it with a config')
    backbone = build_backbone(entry)
    load_checkpoint(backbone, entry.default_weights)
    return backbone


def _resolve_published(options: Options) -> Options:
    """Replace the name of a published detector or segmentor by its recipe, backbone and checkpoint."""
    from repvit_dense.backbones import catalogue

    name = str(options.config)
    entry = catalogue.PUBLISHED.get(name) or catalogue.PUBLISHED.get(f'{name}.pth')
    if entry is None:
        return options
    return dataclasses.replace(options, config=entry.config, backbone=entry.backbone, checkpoint=entry.name)
