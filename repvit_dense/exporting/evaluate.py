"""Evaluate an artifact where a checkpoint would be: the same data, metrics, table and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.structures import BaseDataElement

    from repvit_dense.artifact.manifest import Manifest


def check(cfg: 'Config', folder: str | Path) -> None:
    """Refuse an artifact that this config cannot evaluate, before anything heavy starts.

    Args:
        cfg: a whole config of mmdet or mmseg.
        folder: of the artifact.

    Raises:
        InputError: an artifact that cannot be read, of another task than the config's, or with other classes than the
            data.
    """
    from repvit_dense.artifact import manifest
    from repvit_dense.config import check_trained_classes, task

    found, wanted = manifest.read(folder), task(cfg)
    if found.task != wanted:
        raise InputError(
            f'{folder}: an artifact for task {found.task}, but {cfg.filename} evaluates {wanted}; '
            f'name the config that it was exported with{f" ({found.config})" if found.config else ""}'
        )
    cfg.load_from = str(folder)  # the name in the message
    check_trained_classes(cfg, {'meta': {'dataset_meta': {'classes': found.classes}}})
    cfg.load_from, cfg.resume = None, False


def use_artifact(cfg: 'Config', folder: str | Path, threads: int | None = None) -> None:
    """Put an artifact in the place of the config's model; what runs the config then evaluates it.

    The artifact reads the images themselves and does its own preprocessing: what the test pipeline makes of them is
    used for the annotations alone.

    Args:
        cfg: a whole config of mmdet or mmseg that passed `check`.
        folder: of the artifact.
        threads: how many its runtime may use.
    """
    from repvit_dense.artifact import manifest

    if manifest.read(folder).task == 'panoptic':
        _leave_out_instances(cfg)
    _register()
    cfg.model = {'type': 'ArtifactModel', 'folder': str(folder), 'threads': threads}
    # An average of weights has nothing to average, and would copy the model to do so.
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or () if not str(hook['type']).endswith('EMAHook')]


def _leave_out_instances(cfg: 'Config') -> None:
    from repvit_dense.data.checks import warn

    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    kept = [metric for metric in metrics if 'Panoptic' in metric['type']]
    if len(kept) < len(metrics):
        warn('a panoptic artifact gives segments, no separate instances: their metrics are left out')
        cfg.test_evaluator = kept


def _register() -> None:
    """Make the model known to mmengine; here, since importing this module must not import mmengine."""
    from mmengine.model import BaseModel
    from mmengine.registry import MODELS

    from repvit_dense.artifact.predictor import Predictor

    class ArtifactModel(BaseModel):
        """A predictor that a Runner takes for a model."""

        def __init__(self, folder: str, threads: int | None = None):
            super().__init__()
            self.predictor = Predictor(folder, threads)

        def test_step(self, data: dict) -> list:
            samples = data['data_samples']
            found = self.predictor.stream(sample.img_path for sample in samples)
            return [
                fill(sample, result, self.predictor.manifest) for sample, result in zip(samples, found, strict=True)
            ]

        def forward(self, *args, **kwargs):
            raise NotImplementedError('an artifact only predicts')

    MODELS.register_module(module=ArtifactModel, force=True)


def fill(sample: 'BaseDataElement', result: dict | InputError, manifest: 'Manifest') -> 'BaseDataElement':
    """Put what `Predictor` gives into a data sample of mmdet or mmseg, as their own models do. Returns the sample.

    Raises:
        InputError: the image could not be read.
    """
    import torch
    from mmengine.structures import InstanceData, PixelData

    if isinstance(result, InputError):
        raise result
    if 'seg' in result:
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(result['seg'])[None].long())
        return sample
    from mmdet.models.utils.misc import samplelist_boxtype2tensor

    samplelist_boxtype2tensor([sample])  # the annotations; a data_preprocessor would have done it
    if 'segments' in result:
        sample.pred_panoptic_seg = PixelData(sem_seg=torch.from_numpy(panoptic_ids(result, manifest))[None])
        return sample
    names = {'boxes': 'bboxes', 'scores': 'scores', 'labels': 'labels', 'masks': 'masks'}
    arrays = {names[key]: torch.from_numpy(value) for key, value in result.items()}
    arrays['labels'] = arrays['labels'].long()
    sample.pred_instances = InstanceData(**arrays)
    return sample


def panoptic_ids(result: dict, manifest: 'Manifest'):
    """mmdet's panoptic map `(H, W)` int32: class + 1000 * number of the thing; the class count where there is none."""
    import numpy as np
    from mmdet.evaluation import INSTANCE_OFFSET

    ids = np.full(max([0, *(part['number'] for part in result['segment_info'])]) + 1, len(manifest.classes), np.int32)
    things = 0
    for part in result['segment_info']:
        things += part['is_thing']
        ids[part['number']] = part['label'] + INSTANCE_OFFSET * (things if part['is_thing'] else 0)
    return ids[result['segments']]
