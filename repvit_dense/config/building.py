"""Build the model of a config on PyTorch's meta device, which takes no memory, and run it there."""

import copy
import os
import re
import shutil
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.config.arguments import REGISTRIES, look_up, parts, signature
from repvit_dense.config.structure import expected_in_channels, feature_consumers, one_line, scope
from repvit_dense.errors import InputError, nearest, shorten
from repvit_dense.files import is_folder
from repvit_dense.screen import say

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

DEFAULT_SIZE = 512  # pixels


def check_channels(cfg: 'Config', backbone: 'nn.Module | None' = None) -> None:
    """Raise InputError if neck or heads expect other channels than the backbone's features have.

    Args:
        cfg: the config.
        backbone: its backbone if it is built already.
    """
    if not cfg.model.get('backbone'):
        return
    channels = getattr(backbone or build_on_meta(cfg, 'model.backbone'), 'out_channels', ())
    for path, part in feature_consumers(cfg.model) if channels else ():
        actual = part.in_channels
        try:
            expected = expected_in_channels(part, channels)
        except (IndexError, TypeError) as error:
            raise InputError(
                f'{path}: in_channels = {actual} and in_index = {part.get("in_index")} do not select among the '
                f'{len(channels)} feature maps of the backbone'
            ) from error
        if actual != expected if isinstance(actual, int) else list(actual) != expected:
            option = ','.join(str(expected).strip('[]').split(', '))
            raise InputError(
                f'{path}.in_channels = {actual}, but the backbone gives {expected}. '
                f'Set it: --cfg-options {path}.in_channels={option}'
            )


def check_model(cfg: 'Config', training: bool) -> None:
    """Refuse a model that cannot be built, or cannot be trained with its batch size.

    Raises:
        InputError: a part has unusable arguments or other channels than the backbone, a batch norm would see a single
            value per channel, or the disk has no space for a checkpoint.
    """
    try:
        model = build_on_meta(cfg, 'model')
    except InputError:
        check_channels(cfg)  # a more precise message, if they are the reason
        raise
    check_channels(cfg, getattr(model, 'backbone', None))
    if not training:
        return
    if cfg.get('work_dir'):
        _check_space(cfg.work_dir, model)
    _check_custom_keys(cfg, model)
    batch_size = (cfg.get('train_dataloader') or {}).get('batch_size')
    if batch_size == 1 and _is_alone(cfg):
        norm = _norm_without_variance(model, _image_size(cfg))
        if norm:
            raise InputError(
                f'train_dataloader.batch_size = 1: the batch norm {norm} of this model sees one value per channel '
                'then, and cannot be trained. Use 2 images or more: --cfg-options train_dataloader.batch_size=2, or '
                'several processes (--launcher), whose batch norms are synchronised'
            )


def check_last_batch(cfg: 'Config', images: int) -> None:
    """Refuse a last batch of an epoch with a single image, if a batch norm would see a single value per channel.

    Args:
        cfg: the config.
        images: number of images of an epoch.

    Raises:
        InputError: says how to avoid it.
    """
    loader = cfg.get('train_dataloader') or {}
    size = loader.get('batch_size', 1)
    drop_last = loader.get('drop_last') or (loader.get('batch_sampler') or {}).get('drop_last')
    if drop_last or size == 1 or images % size != 1 or not _is_alone(cfg):
        return
    norm = _norm_without_variance(build_on_meta(cfg, 'model'), _image_size(cfg))
    if norm:
        raise InputError(
            f'train_dataloader: the last of {images} images is alone in its batch of at most {size}; the '
            f'batch norm {norm} of this model sees one value per channel then, and cannot be trained. Leave the image '
            'out: --cfg-options train_dataloader.drop_last=True, or change train_dataloader.batch_size'
        )


def _is_alone(cfg: 'Config') -> bool:
    """Return whether the training has a single process; the batch norms of several are synchronised."""
    return cfg.get('launcher', 'none') == 'none' or os.environ.get('WORLD_SIZE') == '1'


def _check_custom_keys(cfg: 'Config', model: 'nn.Module') -> None:
    """Warn of settings for parameters that the model does not have."""
    keys = ((cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}).get('custom_keys') or {}
    names = [name for name, _ in model.named_parameters()]
    for key in keys:
        if not any(key in name for name in names):
            say(f"warning: optim_wrapper.paramwise_cfg.custom_keys: no parameter of the model has '{key}' in its name")


def _check_space(work_dir: str, model: 'nn.Module') -> None:
    """Refuse a disk without space for one checkpoint: weights and two states of the optimizer, in float32."""
    needed = 3 * 4 * sum(parameter.numel() for parameter in model.parameters())
    folder = next((path for path in (Path(work_dir), *Path(work_dir).absolute().parents) if is_folder(path)), Path())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f'{work_dir}: a checkpoint of this model needs {needed / 1e6:,.0f} MB, but {free / 1e6:,.0f} MB are free '
            'on this disk; free some space or name another folder: --work-dir DIR'
        )


def build_on_meta(cfg: 'Config', path: str) -> Any:
    """Build the part of the config at a path, 'model' or 'model.backbone', on the device meta where it can be."""
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401  both register their models
    import torch
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(scope(cfg))
    part = cfg.model.backbone if path == 'model.backbone' else cfg.model
    try:
        try:
            with torch.device('meta'):
                return MODELS.build(copy.deepcopy(part))  # some heads change their config
        except (NotImplementedError, RuntimeError):  # reads a value while being built, as Swin its drop path rates
            return MODELS.build(copy.deepcopy(part))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'{path}: cannot be built, {explain(cfg, error)}') from error


def explain(cfg: 'Config', error: Exception) -> str:
    """Return why the model could not be built; for a `type` that is not registered, its place and a similar name."""
    text = shorten(one_line(error), 1000) or str(traceback.extract_tb(error.__traceback__)[-1].line)  # an assertion
    unknown = re.match(r'(\S+) is not in the .* registry', text)
    unregistered = 'Cannot find None in registry' in text  # from mmcv, which does not name it
    argument = re.search(r"got an unexpected keyword argument '(\w+)'", text)
    for part in parts(cfg, 'model'):
        name = str(part.content.get('type'))
        if (unknown and name == unknown[1]) or (unregistered and part.kind is None):
            known = look_up(name, scope(cfg), REGISTRIES['model'])[1]
            return f"{part.path}.type = '{name}' is not registered{nearest(name, known)}"
        if argument and part.kind is not None and argument[1] in part.content:
            accepted = signature(part.kind)
            if not accepted.is_open and argument[1] not in accepted.parameters:
                hint = nearest(argument[1], accepted.parameters)
                return f'{part.path}.{argument[1]}: {part.kind.__name__} has no such argument{hint}'
    return f'{type(error).__name__}: {text}'


def _norm_without_variance(model: 'nn.Module', size: int) -> str | None:
    """Return the name of a live batch norm that sees a map of one pixel, of one image; None if there is none."""
    import torch

    norms = {module: name for name, module in model.named_modules() if 'BatchNorm' in type(module).__name__}
    entered: list[str] = []
    handles = [module.register_forward_pre_hook(lambda module, _: entered.append(norms[module])) for module in norms]
    model.to('meta').train()
    heads = getattr(model, 'auxiliary_head', None)
    heads = heads if isinstance(heads, torch.nn.ModuleList) else [heads] if heads is not None else []
    runs: list[Any] = [model._forward, *(lambda images, head=head: head(model.extract_feat(images)) for head in heads)]
    found = None
    with torch.device('meta'), torch.no_grad():
        for run in runs:
            try:
                run(torch.zeros(1, 3, size, size))
            except Exception as error:  # not all of mmdet's heads run without images; the parts before them did
                if 'more than 1 value per channel' in str(error):
                    found = entered[-1]
    for handle in handles:
        handle.remove()
    return found


def _image_size(cfg: 'Config') -> int:
    """Return the side of the training images as far as the config says it, in pixels."""
    sizes = [(cfg.model.get('data_preprocessor') or {}).get('size')]
    pipeline: Any = (cfg.train_dataloader.get('dataset') or {}).get('pipeline') or ()
    sizes += [step.get(key) for step in reversed(pipeline) for key in ('crop_size', 'size', 'scale')]
    for size in sizes:
        if (
            isinstance(size, list | tuple)
            and len(size) == 2
            and all(isinstance(side, int) and side > 31 for side in size)
        ):
            return max(size)
    return DEFAULT_SIZE
