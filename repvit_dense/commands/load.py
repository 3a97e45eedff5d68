"""`repvit_dense.load`: load a trained model, an artifact or a published model."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.artifact import pretrained
from repvit_dense.artifact.manifest import is_artifact
from repvit_dense.commands.base import CHECKPOINT, ModelOptions, checkpoint_of, default_work_dir, open_config
from repvit_dense.commands.names import check_names
from repvit_dense.errors import InputError
from repvit_dense.options import image_size, option, whole_number
from repvit_dense.screen import say

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

    from repvit_dense.artifact.predictor import ImageModel, Predictor


ARTIFACT_LACKS = ['checkpoint', 'backbone', 'data', 'cfg_options', 'device', 'deploy']
LIMITS = ['score', 'iou', 'max_detections', 'classes', 'size', 'tile']
OVERLAP, LEAST_OVERLAP, MOST_OVERLAP = 0.2, 0.05, 0.75  # shares of a tile


@dataclasses.dataclass
class ResultOptions(ModelOptions):
    """Say how a model runs and which objects its results keep; shared by `load` and `predict`."""

    _: dataclasses.KW_ONLY
    device: str | None = option(None, help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)')
    threads: int | None = option(None, type=whole_number(1, 1024), metavar='N', help='CPU threads (default: all cores)')
    deploy: bool = option(False, help='run the fused model')
    score: float | None = option(None, type=float, help='leave out objects below this score')
    iou: float | None = option(
        None, type=float, help='of two objects of a class that overlap more, leave one out (default: of the model)'
    )
    max_detections: int | None = option(
        None, type=whole_number(1, 100_000), metavar='N', help='objects per image at most (default: of the model)'
    )
    classes: list[str] | None = option(
        None, nargs='+', metavar='NAME', help='leave out other classes; names, or numbers from 0'
    )
    size: int | tuple[int, int] | None = option(
        None, type=image_size, metavar='N|WxH', help='size of the images in pixels (default: of the model)'
    )
    tile: int | None = option(
        None,
        type=whole_number(64, 8192),
        metavar='N',
        help='predict larger images in overlapping tiles of NxN pixels, and merge the results',
    )
    overlap: float | None = option(None, type=float, help='share of a tile that the next one overlaps (default: 0.2)')

    def __post_init__(self) -> None:
        self.classes = [self.classes] if isinstance(self.classes, str | int) else self.classes


@dataclasses.dataclass
class Options(ResultOptions):
    """Options of `load`."""

    config: str | Path = option(
        positional=True,
        help='work dir, checkpoint, folder of an artifact, packaged model (nuclei), name of the catalogue, or a config '
        'with a checkpoint',
    )
    checkpoint: str | Path | None = option(None, positional=True, nargs='?', help=CHECKPOINT)


def check_limits(options: ResultOptions) -> None:
    """Refuse options of results that are out of range, before anything is loaded.

    Raises:
        InputError: names the option.
    """
    for name, low, high in (('score', 0, 1), ('iou', 0, 1), ('overlap', LEAST_OVERLAP, MOST_OVERLAP)):
        value = getattr(options, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and low <= value <= high):
            raise InputError(f'--{name} {value}: must be a number between {low} and {high}')
    if options.overlap is not None and not options.tile:
        raise InputError('--overlap: is the overlap of tiles; give --tile too, such as --tile 640')


def run(options: Options) -> 'ImageModel | Any':
    """Load a trained model, an artifact or a published model.

    Returns:
        for a work dir, a checkpoint file (`.pth`), a config with a checkpoint, or a published detector or segmentor of
        the catalogue (`repvit_m1_1_coco.pth`): a `Model`. For the folder of an artifact or a packaged
        model (`nuclei`): a `Predictor`, which needs neither torch nor OpenMMLab. Both map an image to a `Result`. For a
        backbone of the catalogue (`m1_1`): the `torch.nn.Module` in eval mode with its published weights, which maps
        `(B, 3, H, W)` to features.

    Raises:
        InputError: there is nothing of this name, or it cannot be read or downloaded.
    """
    options = dataclasses.replace(options, config=pretrained.resolve(options.config))
    if is_artifact(options.config):
        _refuse(options, ARTIFACT_LACKS, 'an artifact, which holds a fixed model')
    check_names(options)
    check_limits(options)
    if is_artifact(options.config):
        return _select(_load_artifact(options), options, options.iou)
    from repvit_dense import catalogue

    name = str(options.config)
    if catalogue.is_backbone(name):
        _refuse(options, [*ARTIFACT_LACKS, *LIMITS], 'a backbone, which has features and no results')
        return _load_backbone(name)
    options = _resolve_published(options)
    iou = options.iou  # if the model has no suppression to set

    def change(cfg: 'Config') -> None:
        nonlocal iou
        from repvit_dense.config.sizes import set_size
        from repvit_dense.model import set_limits

        if options.size:
            set_size(cfg, options.size)
        iou = None if set_limits(cfg, options.score, options.iou, options.max_detections) else options.iou

    cfg = open_config(options, default_work_dir(options), change)
    checkpoint = checkpoint_of(options, options.checkpoint)
    from repvit_dense.commands.trained_model import Model

    return _select(Model(cfg, checkpoint, options.device, options.deploy, options.threads), options, iou)


def _select(model: 'ImageModel', options: Options, iou: float | None) -> 'ImageModel':
    """Let the model keep the objects that the options ask for, and predict in tiles."""
    from repvit_dense.artifact.selection import Selection, find_labels
    from repvit_dense.artifact.tiles import Tiled

    if model.task in ('semantic', 'panoptic'):
        _refuse(options, ['iou', 'max_detections'], f'{model.title}, a {model.task} model without detections')
    labels = find_labels(options.classes, model.names) if options.classes else None
    if options.tile:  # objects of two tiles may overlap, too
        iou = options.iou
    model.selection = Selection(options.score or 0.0, labels, iou, options.max_detections)
    return Tiled(model, options.tile, options.overlap or OVERLAP) if options.tile else model


def _refuse(options: Options, names: list[str], subject: str) -> None:
    for name in names:
        if getattr(options, name):
            raise InputError(f'--{name.replace("_", "-")} does not go with {subject}')


def _load_artifact(options: Options) -> 'Predictor':
    from repvit_dense.artifact.predictor import Predictor

    if options.iou:
        say('--iou: this artifact has suppressed overlapping objects already; more of them are left out, never fewer')
    return Predictor(options.config, options.threads, options.size)


def _load_backbone(name: str) -> 'nn.Module':
    from repvit_dense import catalogue
    from repvit_dense.checkpoints.loading import load_checkpoint
    from repvit_dense.model import build_backbone

    try:
        entry = catalogue.find(name)
    except ValueError as error:
        raise InputError(str(error)) from error
    if not entry.default_weights:
        raise InputError(f'{entry.name}: no weights were published for this backbone; train it with a config')
    backbone = build_backbone(entry)
    load_checkpoint(backbone, entry.default_weights)
    return backbone


def _resolve_published(options: Options) -> Options:
    """Replace the name of a published detector or segmentor by its recipe, backbone and checkpoint."""
    from repvit_dense import catalogue

    name = str(options.config)
    entry = catalogue.PUBLISHED.get(name) or catalogue.PUBLISHED.get(f'{name}.pth')
    if entry is None:
        return options
    return dataclasses.replace(options, config=entry.config, backbone=entry.backbone, checkpoint=entry.name)
