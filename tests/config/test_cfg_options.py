"""`--cfg-options`: each option takes effect, or is refused in one message."""

import copy
import re

import pytest

from repvit_dense import config
from repvit_dense.config import cfg_options
from repvit_dense.errors import InputError


@pytest.fixture(scope='module')
def loaded():
    return {name: config.load(name) for name in ('repvit_maskrcnn_coco', 'repvit_segformer_shapes')}


@pytest.fixture
def mask_rcnn(loaded):
    return copy.deepcopy(loaded['repvit_maskrcnn_coco'])


@pytest.fixture
def segformer(loaded):
    return copy.deepcopy(loaded['repvit_segformer_shapes'])


def value_of(cfg, key):
    for step in key.split('.'):
        cfg = cfg[int(step)] if isinstance(cfg, list | tuple) else cfg[step]
    return cfg


@pytest.mark.parametrize(
    'option, expected',
    [
        ('train_cfg.max_epochs=3', 3),
        ('train_cfg.max_epochs=1e1', 10),
        ('model.backbone.frozen_stages=2', 2),
        ('model.backbone.init_cfg=None', None),
        ('optim_wrapper.optimizer.lr=1e-5', 1e-5),
        ('optim_wrapper.optimizer.lr=1', 1),
        ('optim_wrapper.optimizer.betas=(0.9,0.99)', (0.9, 0.99)),
        ('optim_wrapper.accumulative_counts=4', 4),
        ('optim_wrapper.paramwise_cfg.bias_lr_mult=2', 2),
        ('model.neck.in_channels=1,2,3,4', [1, 2, 3, 4]),
        ('val_evaluator.metric=bbox', ['bbox']),
        ('model.test_cfg.rcnn.max_per_img=10', 10),
        ('model.test_cfg.rpn.min_bbox_size=1', 1),
        ('train_dataloader.pin_memory=True', True),
        ('train_dataloader.dataset.indices=8', 8),
        ('default_hooks.checkpoint.save_best=None', None),
        ('default_hooks.checkpoint.save_optimizer=False', False),
        ('default_hooks.early.type=EarlyStoppingHook', 'EarlyStoppingHook'),
        ('randomness.diff_rank_seed=true', True),
        ('load_from=my weights/a,b[1].pth', 'my weights/a,b[1].pth'),
        ('load_from=2024', '2024'),
        ("load_from='None'", 'None'),
        ('work_dir="runs, first"', 'runs, first'),
        ('find_unused_parameters=True', True),
    ],
)
def test_an_option_takes_effect(mask_rcnn, option, expected):
    config.apply_option(mask_rcnn, option)
    value = value_of(mask_rcnn, option.partition('=')[0])
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    'text, expected',
    [
        ('("a", \'b\')', ('a', 'b')),
        ('[a b, 1, (2, 3.5), [true, None]]', ['a b', 1, (2, 3.5), [True, None]]),
        ('(1,),(2,)', [(1,), (2,)]),
        ('[]', []),
        ("'5'", '5'),
        ("don't", "don't"),
        ('1_0', '1_0'),
        ('none', 'none'),
        ('a[1', 'a[1'),
    ],
)
def test_the_value_of_a_text(text, expected):
    assert cfg_options.parse(text) == expected


@pytest.mark.parametrize(
    'option, words',
    [
        ('nonsense', 'takes key=value pairs'),
        ('=1', 'takes key=value pairs'),
        ('model..type=1', 'takes key=value pairs'),
        # keys
        ('train_cgf.max_epochs=1', "nothing reads the key 'train_cgf'; did you mean 'train_cfg'?"),
        ('train_cfg.max_epoch=1', "did you mean 'max_epochs'?"),
        ('train_dataloader.batchsize=1', "did you mean 'batch_size'?"),
        ('train_dataloader.dataset.data_rot=x', "did you mean 'data_root'?"),
        ('optim_wrapper.optimiser.lr=1', "did you mean 'optimizer'?"),
        ('optim_wrapper.optimizer.learning_rate=1', "nothing reads the key 'optim_wrapper.optimizer.learning_rate'"),
        ('optim_wrapper.paramwise_cfg.norm_decay=0', "did you mean 'norm_decay_mult'?"),
        ('default_hooks.chekpoint.interval=1', "did you mean 'checkpoint'?"),
        ('default_hooks.checkpoint.intervall=1', "did you mean 'interval'?"),
        ('model.test_cfg.rcnn.score_thresh=1', "did you mean 'score_thr'?"),
        ('model.rpn_head.loss_cls.loss_wieght=1', "did you mean 'loss_weight'?"),
        ('randomness.sed=1', "did you mean 'seed'?"),
        ('env_cfg.mp_cfg.mp_start=fork', "did you mean 'mp_start_method'?"),
        ('model.backbone._delete_=True', "nothing reads the key 'model.backbone._delete_'"),
        ('launcher=pytorch', 'use --launcher'),
        ('data_root=x/', "'data_root' is a variable of the config file"),
        ('data_root=x/', 'set it at its place: train_dataloader.dataset.data_root, val_dataloader.dataset.data_root'),
        ('custom_imports.imports=[os]', 'nothing reads it afterwards'),
        ('custom_hooks.99.type=x', 'cannot be applied, custom_hooks has the entries 0 to 4'),
        ('custom_hooks.-1.type=x', 'cannot be applied'),
        ('load_from.x=1', 'cannot be applied'),
        # values
        ('train_dataloader.batch_size=abc', 'must be a number, not text'),
        ('train_dataloader.batch_size=True', 'must be a number, not True or False'),
        ('train_dataloader.batch_size=[2]', 'must be a number, not a list'),
        ('train_dataloader.batch_size=None', 'must be a number, not None'),
        ('train_dataloader.batch_size=1e400', '1e400 is not a finite number'),
        ('train_dataloader.batch_size=nan', 'nan is not a finite number'),
        ('train_dataloader.batch_size=99999999999999999999', 'is too large'),
        ('train_cfg.max_epochs=1.5', 'must be a whole number, not a number'),
        ('train_dataloader.persistent_workers=1', 'must be True or False, not a whole number'),
        ('train_dataloader.dataset.pipeline=5', 'must be a list or None, not a whole number'),
        ('custom_hooks=5', 'must be a list or None, not a whole number'),
        ('model=ResNet', 'must be a dictionary or None, not text'),
        ('randomness.deterministic=5', 'must be True or False, not a whole number'),
        ('resume=abc', 'must be True or False, not text'),
        ('model.data_preprocessor.mean=[a,b,c]', 'must be a list of numbers'),
        ("model.backbone=dict(type='x')", 'a dictionary cannot be given; set its keys one by one'),
        ('model.backbone={a: b}', 'a dictionary cannot be given'),
        ('model.neck.in_channels=[1,(2', 'the brackets or quotes do not match'),
        ('model.neck.in_channels=[1]]', 'the brackets do not match'),
    ],
)
def test_an_option_is_refused(mask_rcnn, option, words):
    before = copy.deepcopy(mask_rcnn.to_dict())
    with pytest.raises(InputError, match=re.escape(words)) as refused:
        config.apply_option(mask_rcnn, option)
    assert f'--cfg-options {option}: ' in str(refused.value) or words in 'takes key=value pairs'
    assert mask_rcnn.to_dict() == before


def test_a_segmentor_reads_other_keys(segformer):
    config.apply_option(segformer, 'model.test_cfg.stride=(8,8)')
    with pytest.raises(InputError, match=r"'model\.test_cfg\.modus'; did you mean 'mode'"):
        config.apply_option(segformer, 'model.test_cfg.modus=slide')


def test_a_key_that_is_given_twice():
    with pytest.raises(InputError, match='train_cfg.max_epochs is given twice'):
        config.load('repvit_maskrcnn_coco', ['train_cfg.max_epochs=1', 'resume=True', 'train_cfg.max_epochs=2'])
