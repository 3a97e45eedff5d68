"""Configs and data sets small enough to check quickly."""

import copy

import pytest
from mmengine.config import Config

from repvit_dense.compat import panoptic_api
from repvit_dense.data import shapes


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Change to a working directory whose `data/shapes` has three images; return that folder."""
    monkeypatch.chdir(tmp_path)
    return shapes.generate('data/shapes', num_train=2, num_val=1, size=(64, 64))


@pytest.fixture
def panoptic():
    """Make `panopticapi` importable, as during a run."""
    with panoptic_api.patched():
        yield


@pytest.fixture
def plain():
    """Return an mmdet config with a part of every kind that has classes."""
    loader = {
        'dataset': {
            'type': 'CocoDataset',
            'data_root': 'old/',
            'ann_file': 'old.json',
            'data_prefix': {'img': 'old'},
            'metainfo': {'classes': ('old',)},
            'filter_cfg': {'filter_empty_gt': True},
            'pipeline': [{'type': 'LoadAnnotations', 'with_bbox': True}, {'type': 'Resize', 'scale': (64, 64)}],
        },
        'batch_size': 2,
    }
    model = {
        'backbone': {'num_classes': 1000},
        'rpn_head': {'num_classes': 1},
        'roi_head': {'bbox_head': [{'num_classes': 80}, {'num_classes': 80}], 'mask_head': {'num_classes': 80}},
    }
    evaluator = {'type': 'CocoMetric', 'ann_file': 'old/old.json', 'metric': 'bbox'}
    parts = {f'{split}_dataloader': copy.deepcopy(loader) for split in ('train', 'val', 'test')}
    parts |= {f'{split}_evaluator': copy.deepcopy(evaluator) for split in ('val', 'test')}
    return Config({'model': model, 'default_scope': 'mmdet', **parts})


@pytest.fixture
def semantic():
    """Return an mmseg config."""
    dataset = {
        'type': 'ADE20KDataset',
        'data_root': 'old/',
        'data_prefix': {'img_path': 'a', 'seg_map_path': 'b'},
        'reduce_zero_label': True,
        'pipeline': [{'type': 'LoadAnnotations', 'reduce_zero_label': True}],
    }
    parts = {f'{split}_dataloader': {'dataset': copy.deepcopy(dataset)} for split in ('train', 'val', 'test')}
    model = {
        'type': 'EncoderDecoder',
        'decode_head': {'num_classes': 150, 'loss_decode': {'class_weight': [0.5] * 75 + [2] * 75}},
        'auxiliary_head': [{'num_classes': 150, 'loss_decode': [{'type': 'X', 'class_weight': [1.0] * 150}]}],
    }
    evaluator = {'type': 'IoUMetric', 'iou_metrics': ['mIoU']}
    tta = [{'type': 'TestTimeAug', 'transforms': [[{'type': 'LoadAnnotations', 'reduce_zero_label': True}]]}]
    return Config({'model': model, 'default_scope': 'mmseg', 'val_evaluator': evaluator, 'tta_pipeline': tta, **parts})
