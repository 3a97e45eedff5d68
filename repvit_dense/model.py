"""Build the model of a config, load its weights and run it on an image."""

import copy
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from mmengine.config import Config
    from mmengine.structures import BaseDataElement
    from torch import nn


def load_model(cfg: 'Config', checkpoint: str, device: str | None = None, deploy: bool = False):
    """The trained model, and a function from an image to its prediction.

    Args:
        cfg: a whole config of mmdet or mmseg.
        checkpoint: path or URL.
        device: as torch names it; by default a GPU where there is one.
        deploy: fuse the model.

    Returns:
        model, with the classes of the training data in `dataset_meta`; and what `predictor` makes of it.
    """
    import torch

    from repvit_dense.checkpoints.layouts import load_checkpoint
    from repvit_dense.checkpoints.reading import read
    from repvit_dense.reparam import reparameterize_model

    content = read(checkpoint)
    model = build_model(cfg)
    load_checkpoint(model, content)
    model.dataset_meta = _meta(cfg, content)
    try:
        model = model.to(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    except (AssertionError, RuntimeError) as error:
        raise InputError(f'--device {device}: {str(error).splitlines()[0]}') from error
    if deploy:
        reparameterize_model(model, inplace=True)
    return model, predictor(model, cfg)


def build_model(cfg: 'Config') -> 'nn.Module':
    """The model of a config in eval mode, with random weights."""
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401  both register what they define
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = copy.deepcopy(cfg.model)  # some heads change their config (DETR's class weights)
    model.backbone.pop('init_cfg', None)
    return MODELS.build(model).eval()


def predictor(model: 'nn.Module', cfg: 'Config') -> 'Callable[[np.ndarray], BaseDataElement]':
    """`predict(image)`: takes `(H, W, 3)` uint8 in BGR order, gives mmdet's or mmseg's data sample in its pixels.

    The config's test pipeline decides about sizes.
    """
    import torch
    from mmengine.dataset import Compose, pseudo_collate

    pipeline = Compose(image_pipeline(cfg))

    @torch.inference_mode()
    def predict(image: 'np.ndarray') -> 'BaseDataElement':
        packed = pipeline({'img': image, 'img_id': 0, 'img_path': '', 'ori_shape': image.shape[:2]})
        return model.test_step(pseudo_collate([packed]))[0].cpu()

    return predict


def _meta(cfg: 'Config', checkpoint: dict) -> dict:
    """Names and colours of the classes: those that were trained, else those of the config's test data."""
    from repvit_dense.config import dataset_meta, trained_classes

    own = dataset_meta(cfg.test_dataloader.dataset, cfg.default_scope)
    classes = trained_classes(checkpoint)
    if not classes or tuple(classes) == tuple(own['classes']):
        return own
    return {'classes': classes, 'palette': checkpoint['meta'].get('dataset_meta', {}).get('palette', 'random')}


def image_pipeline(cfg: 'Config') -> list[dict]:
    """The test pipeline for an image in memory: nothing is read from a file, annotations least of all."""
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if 'Annotations' not in step.type]
    load = {
        **steps[0],
        'type': 'mmdet.LoadImageFromNDArray' if cfg.default_scope == 'mmdet' else 'LoadImageFromNDArray',
    }
    load.pop('backend_args', None)
    return [load, *steps[1:]]


def arrays(sample: 'BaseDataElement', num_classes: int) -> dict:
    """A data sample of mmdet or mmseg as `repvit_dense.artifact.predictor.Predictor` gives it: arrays by name."""
    import numpy as np

    found = {}
    instances, panoptic = sample.get('pred_instances'), sample.get('pred_panoptic_seg')
    if instances is not None:
        names = {'boxes': 'bboxes', 'scores': 'scores', 'labels': 'labels', 'masks': 'masks'}
        found |= {name: instances[key].numpy() for name, key in names.items() if key in instances}
    if panoptic is not None:
        from mmdet.evaluation import INSTANCE_OFFSET

        ids = panoptic.sem_seg[0].numpy()
        present, numbers = np.unique(ids, return_inverse=True)
        labels = present % INSTANCE_OFFSET
        ordinal = np.where(labels < num_classes, np.cumsum(labels < num_classes), 0)
        found['segments'] = ordinal[numbers].reshape(ids.shape)
        found['segment_info'] = [
            {'number': int(number), 'label': int(label)}
            for number, label in zip(ordinal, labels, strict=True)
            if number
        ]
    elif sample.get('pred_sem_seg') is not None:
        found['seg'] = next(iter(sample.pred_sem_seg.values()))[0].numpy()  # mmdet and mmseg name it differently
    return found
