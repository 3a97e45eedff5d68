"""Values, types and arguments that no training can use are refused before it starts."""

import copy
import math

import pytest

from repvit_dense import config
from repvit_dense.config import arguments, keys, scores, values
from repvit_dense.errors import InputError


@pytest.fixture(scope='module')
def loaded():
    return {name: config.load(name) for name in ('repvit_maskrcnn_coco', 'repvit_segformer_shapes')}


@pytest.fixture
def change(loaded):
    """Return `change(key, value)`, a config with another value."""

    def call(key, value, name='repvit_segformer_shapes'):
        cfg = copy.deepcopy(loaded[name])
        cfg.merge_from_dict({key: value})
        return cfg

    return call


def check(cfg):
    values.check_sections(cfg, ('train', 'val'))
    keys.check_keys(cfg)
    arguments.check_arguments(cfg)
    values.check_values(cfg)
    scores.check_scores(cfg)


@pytest.mark.parametrize('name', config.names())
def test_packaged_configs_pass(name):
    check(config.load(name))


@pytest.mark.parametrize(
    'key, value, words',
    [
        ('train_dataloader.batch_size', 0, 'whole number from 1 to 65536'),
        ('train_dataloader.batch_size', 2.0, 'whole number from 1'),
        ('train_dataloader.batch_size', True, 'whole number from 1'),
        ('train_dataloader.num_workers', -1, 'whole number from 0 to 1024'),
        ('train_dataloader.prefetch_factor', 0, 'at least 1'),
        ('train_dataloader.batchsize', 2, "did you mean 'batch_size'"),
        ('train_dataloader.dataset', None, 'must be a dictionary'),
        ('provenance', {'license': 'MIT'}, "did you mean 'licence'"),
        ('provenance', {'licence': 5}, 'must be a dictionary of texts'),
        ('train_dataloader.dataset.type', 'BaseSegDatset', "did you mean 'BaseSegDataset'"),
        ('train_dataloader.dataset.data_rot', 'x', "did you mean 'data_root'"),
        ('train_dataloader.dataset.pipeline', [], 'has no pipeline'),
        ('train_dataloader.dataset.pipeline.1.type', 'LoadAnnotation', "did you mean 'LoadAnnotations'"),
        ('train_dataloader.dataset.pipeline', [5], r'pipeline\.0 = 5: must be a dictionary with a type'),
        ('train_dataloader.dataset.pipeline', [{'x': 1}], r'pipeline\.0: has no type'),
        ('train_dataloader.dataset.pipeline.1', {'type': 'RandomFlip', 'prob': 3}, 'RandomFlip cannot be built'),
        ('train_dataloader.sampler.type', 5, r'sampler\.type = 5: must be the name of a class'),
        ('train_cfg', None, 'has no train_cfg, which training needs'),
        ('train_cfg.max_iters', 0, 'whole number from 1'),
        ('train_cfg.val_interval', 0, 'at least 1'),
        ('optim_wrapper.optimizer.lr', 0, 'must be a number above 0'),
        ('optim_wrapper.optimizer.lr', math.nan, 'Invalid learning rate: nan'),
        ('optim_wrapper.optimizer.lr', math.inf, 'must be a number above 0'),
        ('optim_wrapper.optimizer.betas', (2, 3), 'AdamW cannot be built'),
        ('optim_wrapper.optimizer.type', 'AdamWW', "did you mean 'AdamW'"),
        ('train_dataloader.sampler', None, 'has no sampler'),
        ('train_dataloader.num_workers', 2000, 'whole number from 0 to 1024'),
        (
            'train_dataloader.dataset.pipeline',
            [{'type': 'Resize', 'scale': (0, 0)}],
            r'scale\.\d = 0: must be a number',
        ),
        ('val_dataloader.sampler.type', 'InfiniteSampler', 'the evaluation would never end'),
        ('val_evaluator.iou_metric', ['mIoU'], "did you mean 'iou_metrics'"),
        ('optim_wrapper.constructor', 'DefaultConstructor', r"constructor = 'DefaultConstructor': not registered"),
        ('param_scheduler.0.by_epoch', True, r'counts iterations .* param_scheduler\.0\.by_epoch=False'),
        ('default_hooks.checkpoint.by_epoch', True, r'default_hooks\.checkpoint\.by_epoch=False'),
        ('model.data_preprocessor.size', (0, 0), 'must be a number above 0'),
        ('model.backbone.drop_path_rate', 5, 'a number from 0 to 1'),
        ('param_scheduler.0.end', 0, 'at least 1'),
        ('param_scheduler.1.begin', 10**6, 'before it begins'),
        ('param_scheduler.0.type', 'LinearLr', "did you mean 'LinearLR'"),
        ('default_hooks.checkpoint.interval', 0, 'at least 1'),
        ('default_hooks.checkpoint.save_best', 'mIOU', r'not a score of val_evaluator \(aAcc, mIoU, mAcc\)'),
        ('default_hooks.loger.interval', 1, r'default_hooks\.loger: has no type'),
        ('custom_hooks', 5, 'must be a list of dictionaries'),
        ('custom_hooks', [{'type': 'EMAHook', 'momentun': 1}], "did you mean 'momentum'"),
        ('custom_hooks', [{'type': 'DenseRecentCheckpoint'}], "did you mean 'DenseRecentCheckpointHook'"),
        ('val_evaluator.iou_metrics', ['IoU'], 'must be some of mIoU, mDice, mFscore'),
        ('val_evaluator', None, 'has no val_evaluator, which validation needs'),
        ('val_evaluator', 5, 'must be a dictionary'),
        ('visualizer.vis_backends.0.type', 'LocalBackend', "did you mean 'LocalVisBackend'"),
        ('randomness', {'seed': -1}, 'whole number from 0 to 4294967295'),
        ('randomness', {'seed': 2**32}, 'whole number from 0 to 4294967295'),
        ('randomness', 5, 'must be a dictionary'),
        ('log_level', 'LOUD', 'must be one of DEBUG'),
        ('env_cfg.mp_cfg.mp_start_method', 'thread', 'must be one of fork, spawn'),
        ('model', None, 'has no model'),
        ('model.test_cfg.mode', 'hole', 'must be one of whole, slide'),
        ('model.test_cfg', {'mode': 'slide'}, 'needs crop_size and stride'),
        ('model.decode_head.num_classes', 0, 'at least 1'),
        ('model.decode_head.loss_decode.class_weight', [1, 2], 'has 2 numbers, but 12 are needed'),
        ('model.data_preprocessor.std', [1, 0, 1], r'std = \[1, 0, 1\]: must be a list of numbers per channel'),
        ('model.data_preprocessor.mean', [1, 2], 'mean and std must have one number per channel each'),
        ('model.decode_head.loss_decode.eps', math.nan, r'loss_decode\.eps = nan: is not a number'),
        ('work_dir', 5, 'work_dir = 5: must be text'),
        ('default_scope', 'nope', "must be 'mmdet' or 'mmseg'"),
    ],
)
def test_a_value_is_refused(change, key, value, words):
    with pytest.raises(InputError, match=words):
        check(change(key, value))


def test_workers_that_persist_must_exist(change):
    with pytest.raises(InputError, match='persistent_workers = True: needs num_workers of at least 1'):
        check(change('train_dataloader', {'num_workers': 0, 'persistent_workers': True}))


@pytest.mark.parametrize(
    'key, value, words',
    [
        ('model.test_cfg.rcnn.nms.type', 'exec("1")', r"nms\.type = 'exec\(\"1\"\)': must be one of nms, soft_nms"),
        ('model.test_cfg.rpn.nms.iou', 0.5, r'nms\.iou: nms has no such argument'),
        ('model.neck.out_channels', 0, 'at least 1'),
        (
            'model.roi_head.bbox_head.loss_cls.class_weight',
            [1.0] * 80,
            'but 81 are needed.* the last for the background',
        ),
        ('param_scheduler.1.milestones', [8, 'x'], 'must be a list of whole numbers'),
        ('train_dataloader.sampler.type', 'InfiniteSampler', 'an epoch would never end'),
        ('train_dataloader.batch_sampler', 5, 'must be a dictionary or None'),
        ('val_evaluator', {'metric': ['bbox', 'mask']}, 'must be some of bbox, segm'),
    ],
)
def test_a_value_of_a_detector_is_refused(change, key, value, words):
    with pytest.raises(InputError, match=words):
        check(change(key, value, 'repvit_maskrcnn_coco'))


@pytest.mark.parametrize('save_best', ['auto', None, 'coco/segm_mAP_50', ['coco/bbox_mAP', 'coco/segm_mAP']])
def test_scores_of_detectors(change, save_best):
    check(change('default_hooks.checkpoint.save_best', save_best, 'repvit_maskrcnn_coco'))


CONVERTED = {'type': 'OneCycleLR', 'eta_max': 0.1, 'total_steps': 9, 'end': 9, 'convert_to_iter_based': True}


@pytest.mark.parametrize(
    'key, value',
    [
        ('train_dataloader.collate_fn', {'type': 'default_collate'}),
        ('optim_wrapper.clip_grad', {'type': 'value', 'clip_value': 0.2}),
        ('custom_hooks', [{'type': 'ProfilerHook', 'on_trace_ready': {'type': 'tb_trace'}}]),
        ('log_processor.custom_cfg', [{'data_src': 'loss', 'method_name': 'mean', 'window_size': 'global'}]),
        ('param_scheduler', [{'type': 'ReduceOnPlateauLR', 'monitor': 'mIoU'}]),
        ('param_scheduler', [CONVERTED]),
        ('default_hooks.checkpoint', None),
    ],
)
def test_values_of_openmmlab_pass(change, key, value):
    check(change(key, value))


@pytest.mark.parametrize(
    'key, value, words',
    [
        (
            'optim_wrapper.clip_grad',
            {'type': 'values', 'clip_value': 0.2},
            r"clip_grad\.type = 'values': must be one of",
        ),
        ('log_processor.window_size', 'global', 'at least 1'),
        ('default_hooks', None, r'default_hooks\.checkpoint\.by_epoch = True \(the default\)'),
        ('train_cfg.max_iters', 10**300, 'from 1 to 1000000000000'),
        (
            'param_scheduler',
            [{'type': 'OneCycleLR', 'eta_max': 0.1, 'total_steps': 9}],
            'the training counts iterations',
        ),
    ],
)
def test_values_like_them_are_refused(change, key, value, words):
    with pytest.raises(InputError, match=words):
        check(change(key, value))


def test_milestones_after_the_end_are_said(change, capsys):
    check(change('train_cfg.max_epochs', 9, 'repvit_maskrcnn_coco'))
    assert 'the training ends after 9 epochs, so the learning rate does not change at 11' in capsys.readouterr().err


def test_a_test_needs_no_training(change):
    cfg = change('train_cfg', None)
    cfg.train_dataloader = cfg.optim_wrapper = cfg.param_scheduler = None
    values.check_sections(cfg, ('test',))
    with pytest.raises(InputError, match='has no train_dataloader'):
        values.check_sections(cfg, ('train',))
