"""Build the model of a config, load its weights and run it on an image."""

import copy
from contextlib import nullcontext
from typing import TYPE_CHECKING

from repvit_dense import plugin
from repvit_dense.config.building import explain
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import numpy as np
    import torch
    from mmengine.config import Config
    from mmengine.structures import BaseDataElement
    from torch import nn

    from repvit_dense.catalogue import Backbone


def build_model(cfg: 'Config') -> 'nn.Module':
    """Build the model of a config of mmdet or mmseg in eval mode, with random weights."""
    plugin.load()
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401  both register their models
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = copy.deepcopy(cfg.model)  # some heads change their config (DETR's class weights)
    if 'backbone' in model:
        model.backbone.pop('init_cfg', None)
    try:
        return MODELS.build(model).eval()
    except Exception as error:
        raise InputError(f'model: cannot be built, {explain(cfg, error)}') from error


def build_backbone(entry: 'Backbone') -> 'nn.Module':
    """Build a backbone of the catalogue in eval mode, with random weights."""
    plugin.load()
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401  both register their models
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmdet')
    return MODELS.build({'type': entry.type, **entry.args, 'init_cfg': None}).eval()


def load_model(cfg: 'Config', checkpoint: str, device: str | None = None, fused: bool = False) -> 'nn.Module':
    """Build the model of a config and load a checkpoint.

    Args:
        cfg: a complete config of mmdet or mmseg.
        checkpoint: path or URL.
        device: as in torch; default: a GPU if there is one.
        fused: fuse the model.

    Returns:
        the model in eval mode, with the classes it was trained on in `dataset_meta`.

    Raises:
        InputError: the checkpoint does not fit, or the device does not exist.
    """
    plugin.load()
    from repvit_dense.checkpoints.loading import load_checkpoint
    from repvit_dense.checkpoints.reading import read
    from repvit_dense.reparam import reparameterize_model

    target = _find_device(device)
    content = read(checkpoint)
    model = build_model(cfg)
    load_checkpoint(model, content, name=str(checkpoint))
    model.dataset_meta = _meta(cfg, content, checkpoint)
    model = model.to(target)
    if fused:
        reparameterize_model(model, inplace=True)
    return model


def _find_device(name: str | None) -> 'torch.device':
    """Return a device that torch can compute on; refuse any other.

    Raises:
        InputError: there is no such device.
    """
    import torch

    try:
        device = torch.device(name or ('cuda' if torch.cuda.is_available() else 'cpu'))
        if device.type == 'cpu' and device.index:
            raise RuntimeError('the CPU is one device, cpu')
        torch.zeros(1, device=device).cpu()
    except (AssertionError, RuntimeError, TypeError) as error:
        raise InputError(f'--device {name}: cannot be used here ({str(error).splitlines()[0]})') from error
    return device


def set_limits(cfg: 'Config', score: float | None, iou: float | None, max_detections: int | None) -> bool:
    """Let a detector return the objects that the limits ask for: its own limits may leave them out.

    Args:
        cfg: the config of a detector or segmentor.
        score: the model's own threshold is lowered to it.
        iou: the threshold of the non-maximum suppression is set to it.
        max_detections: the model's own limit is raised to it, if it suppresses objects; others choose among queries.

    Returns:
        whether the model has a non-maximum suppression, whose threshold is `iou` now.
    """
    limits = cfg.model.get('test_cfg') or {}
    limits = limits.get('rcnn') or limits
    suppression = limits.get('nms') or {}
    suppresses = 'iou_threshold' in suppression
    if score is not None and limits.get('score_thr', 0) > score:
        limits['score_thr'] = score
    if iou is not None and suppresses:
        suppression['iou_threshold'] = iou
    if max_detections is not None and suppresses and 'max_per_img' in limits:
        limits['max_per_img'] = max(limits['max_per_img'], max_detections)
    return suppresses


def predictor(
    model: 'nn.Module', cfg: 'Config', clock: 'Callable[[str], AbstractContextManager]' = nullcontext
) -> 'Callable[[np.ndarray], BaseDataElement]':
    """Return a function from an image `(H, W, 3)` BGR uint8 to mmdet's or mmseg's data sample in its pixels.

    The config's test pipeline decides at which size the network sees the image.

    Args:
        model: in eval mode.
        cfg: its config.
        clock: called with the name of each part of the work, returns a context manager around it.
    """
    import torch
    from mmengine.dataset import Compose, pseudo_collate

    from repvit_dense.compat import rescaling

    pipeline = Compose(image_pipeline(cfg))

    @torch.inference_mode()
    def predict(image: 'np.ndarray') -> 'BaseDataElement':
        with clock('pre-processing'), rescaling.patched():
            packed = pipeline({'img': image, 'img_id': 0, 'img_path': '', 'ori_shape': image.shape[:2]})
        with clock('inference'):
            return model.test_step(pseudo_collate([packed]))[0].cpu()

    return predict


def _meta(cfg: 'Config', checkpoint: dict, name: str = 'the checkpoint') -> dict:
    """Return names and colours of the trained classes, or of the config's test data if the checkpoint names none.

    Raises:
        InputError: the checkpoint names more or fewer classes than any part of the model has.
    """
    from repvit_dense.config import class_heads, dataset_meta, trained_classes

    meta = dataset_meta(cfg.test_dataloader.dataset, cfg.default_scope)
    classes = trained_classes(checkpoint)
    if not classes or tuple(classes) == tuple(meta['classes']):
        return meta
    heads = [part for _, part in class_heads(cfg.model)]
    things_and_stuff = ('num_things_classes', 'num_stuff_classes')
    counts = {head.get('num_classes') or sum(head.get(key, 0) for key in things_and_stuff) for head in heads}
    if counts and len(classes) not in counts:
        raise InputError(
            f'{name}: its meta data name {len(classes)} classes, the model has {max(counts)}; names would be wrong. '
            'Get it again, or remove the classes from its meta data: those of the config are taken then'
        )
    return {'classes': classes, 'palette': checkpoint['meta'].get('dataset_meta', {}).get('palette', 'random')}


def image_pipeline(cfg: 'Config') -> list[dict]:
    """Return the test pipeline for an image in memory: no file is read, and no annotation."""
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if 'Annotations' not in step.type]
    load = {
        **steps[0],
        'type': 'mmdet.LoadImageFromNDArray' if cfg.default_scope == 'mmdet' else 'LoadImageFromNDArray',
    }
    load.pop('backend_args', None)
    return [load, *steps[1:]]
