"""Choose the split of the data that a test evaluates."""

import copy
import os
from typing import TYPE_CHECKING

from repvit_dense.config.structure import SOURCE_KEYS, datasets, metrics
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

SPLITS = ('train', 'val', 'test')
SUBSET_KEYS = (*SOURCE_KEYS, 'indices')


def use_split(cfg: 'Config', split: str | None = None) -> str:
    """Let a test evaluate a split; return its name.

    Training images are tested with the pipeline and the metrics of the validation, which augment nothing, and without
    the filter that leaves out images in training.

    Args:
        cfg: the config of a whole detector or segmentor.
        split: 'train', 'val' or 'test'; None for 'val', or 'test' without validation data.

    Raises:
        InputError: the config has no such split, or its metrics cannot be pointed at it.
    """
    present = splits(cfg)
    if split is None:
        split = 'val' if 'val' in present else 'test'
        if 'test' not in present:
            return split  # the test data of the config are those of val
    elif split not in present:
        raise InputError(
            f'--split {split}: the data has no such split with labels; it has {", ".join(present) or "none"}'
        )
    if split == 'val':
        cfg.test_dataloader, cfg.test_evaluator = (
            copy.deepcopy(cfg[f'val_{key}']) for key in ('dataloader', 'evaluator')
        )
    elif split == 'train':
        _use_training_data(cfg, 'val' if cfg.get('val_dataloader') else 'test')
    cfg.test_cfg = cfg.get('test_cfg') or cfg.get('val_cfg') or {}
    return split


def splits(cfg: 'Config') -> list[str]:
    """Return the splits of the data; 'test' is none of its own if it names the same files as 'val'."""
    sources = {split: _source(cfg, split) for split in SPLITS if cfg.get(f'{split}_dataloader')}
    return [split for split, source in sources.items() if split != 'test' or source != sources.get('val')]


def _source(cfg: 'Config', split: str) -> list:
    parts = datasets(cfg[f'{split}_dataloader'].dataset)
    return [[part.get(key) for key in SUBSET_KEYS] for part in parts]


def _use_training_data(cfg: 'Config', model: str) -> None:
    """Test on the training data, with the pipeline and metrics of the split `model`."""
    from repvit_dense.data.checks import warn

    parts = list(datasets(cfg.train_dataloader.dataset))
    template = next(datasets(cfg[f'{model}_dataloader'].dataset))
    rest = {key: value for key, value in template.items() if key not in SUBSET_KEYS}
    new = [
        copy.deepcopy({**rest, **{k: part[k] for k in SUBSET_KEYS if k in part}, 'test_mode': True}) for part in parts
    ]
    remaining = []
    for metric in copy.deepcopy(metrics(cfg, model)):
        if metric.get('ann_file') and len(parts) > 1:
            raise InputError(
                f'--split train: the training data are {len(parts)} data sets, but {metric["type"]} reads one file; '
                'evaluate one of them with --data'
            )
        if _point_at(metric, parts[0]):
            remaining.append(metric)
        else:
            warn(f'--split train: {metric["type"]} ({metric["ann_file"]}) is left out: it has no training data')
    loader = copy.deepcopy(cfg[f'{model}_dataloader'])
    loader.dataset = new[0] if len(new) == 1 else {'type': 'ConcatDataset', 'datasets': new}
    cfg.test_dataloader, cfg.test_evaluator = loader, remaining


def _point_at(metric: dict, dataset: dict) -> bool:
    """Set the ground truth of a metric to that of a data set; return whether it has one for this metric."""
    if 'ann_file' not in metric:
        return True
    panoptic = 'Panoptic' in metric['type']
    if panoptic != ('Panoptic' in dataset['type']):
        return False
    root, prefix = dataset.get('data_root') or '', dataset.get('data_prefix') or {}
    metric['ann_file'] = os.path.join(root, dataset['ann_file'])  # noqa: PTH118  as mmengine joins them
    if panoptic:
        metric['seg_prefix'] = os.path.join(root, prefix['seg'])  # noqa: PTH118
    return True
