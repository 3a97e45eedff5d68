"""Evaluate an artifact in place of a checkpoint, with the same data, metrics, table and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config


def check(cfg: 'Config', folder: str | Path) -> None:
    """Refuse an artifact that this config cannot evaluate, before anything heavy starts.

    Args:
        cfg: a whole config of mmdet or mmseg.
        folder: of the artifact.

    Raises:
        InputError: an unreadable artifact, one for another task than the config's, or one with other classes than the
            data.
    """
    from repvit_dense.artifact import manifest
    from repvit_dense.config import check_trained_classes, task

    about, cfg_task = manifest.read(folder), task(cfg)
    if about.task != cfg_task:
        raise InputError(
            f'{folder}: an artifact for task {about.task}, but {cfg.filename} evaluates {cfg_task}; '
            f'name the config that it was exported with{f" ({about.config})" if about.config else ""}'
        )
    cfg.load_from = str(folder)  # the name in the message
    check_trained_classes(cfg, {'meta': {'dataset_meta': {'classes': about.classes}}})
    cfg.load_from, cfg.resume = None, False


def use_artifact(cfg: 'Config', folder: str | Path, threads: int | None = None) -> None:
    """Replace the model of a config by an artifact, so that running the config evaluates the artifact.

    The artifact reads and preprocesses the images itself; the test pipeline only supplies the annotations.

    Args:
        cfg: a whole config of mmdet or mmseg that passed `check`.
        folder: of the artifact.
        threads: CPU threads of its runtime; None for the runtime's default.
    """
    from repvit_dense.artifact import manifest
    from repvit_dense.exporting import artifact_model

    if manifest.read(folder).task == 'panoptic':
        _remove_instance_metrics(cfg)
    name = artifact_model.DenseArtifactModel.__name__  # registered by the import above
    cfg.model = {'type': name, 'folder': str(folder), 'threads': threads}
    # There are no weights to average, and the hook would copy the whole model.
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or () if not str(hook['type']).endswith('EMAHook')]


def _remove_instance_metrics(cfg: 'Config') -> None:
    from repvit_dense.data.checks import warn

    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    panoptic = [metric for metric in metrics if 'Panoptic' in metric['type']]
    if len(panoptic) < len(metrics):
        warn('a panoptic artifact returns segments, not instances; the instance metrics are left out')
        cfg.test_evaluator = panoptic
