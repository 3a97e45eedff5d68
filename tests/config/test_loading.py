"""Configs are found by path and by name, and changed by options."""

import re

import pytest
import torch

from repvit_dense import config
from repvit_dense.errors import InputError


@pytest.mark.parametrize('name', ['repvit_maskrcnn_coco', 'repvit_maskrcnn_coco.py', 'configs/repvit_maskrcnn_coco.py'])
def test_packaged_configs_are_found_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.find(name).name == 'repvit_maskrcnn_coco.py'
    assert config.load(name).model.backbone.arch == 'm1_1'


def test_a_file_precedes_a_packaged_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'repvit_maskrcnn_coco.py').write_text('answer = 42')
    assert config.load('repvit_maskrcnn_coco.py').answer == 42
    assert config.load(tmp_path / 'repvit_maskrcnn_coco.py').answer == 42


@pytest.mark.parametrize('name', ['repvit_maskrcnn_coc', 'no/such/repvit_maskrcnn_coco.py', 'configs', ''])
def test_an_unknown_name_lists_the_packaged_configs(name):
    """A wrong folder does not find the packaged config of the same name."""
    with pytest.raises(
        InputError, match='no such config file. Packaged ones: .*repvit_maskrcnn_coco, repvit_maskrcnn_sh'
    ):
        config.find(name)


@pytest.mark.parametrize('text', ['model = dict(', '1 / 0', "_base_ = './none.py'", 'x = nothing'])
def test_a_broken_config_is_named(tmp_path, text):
    path = tmp_path / 'broken.py'
    path.write_text(text)
    with pytest.raises(InputError, match='broken.py: cannot read this config: [A-Z][A-Za-z]+Error: .'):
        config.load(path)


def test_options_change_the_config():
    options = [
        'train_cfg.max_epochs=3',
        'model.backbone.frozen_stages=2',
        'optim_wrapper.optimizer.lr=1e-5',
        'custom_hooks.0.type=None',
        'model.neck.in_channels=1,2,3,4',
        'test_cfg.note=a=b',
        'load_from=my weights/a.pth',
        'test_cfg.names=("a", \'b\')',
    ]
    cfg = config.load('repvit_maskrcnn_coco', options)
    assert cfg.train_cfg.max_epochs == 3
    assert cfg.model.backbone.frozen_stages == 2
    assert cfg.optim_wrapper.optimizer.lr == 1e-5
    assert cfg.custom_hooks[0].type is None
    assert cfg.model.neck.in_channels == [1, 2, 3, 4]
    assert cfg.test_cfg.note == 'a=b'
    assert cfg.load_from == 'my weights/a.pth'
    assert cfg.test_cfg.names == ('a', 'b')
    assert cfg.model.backbone.arch == 'm1_1'


@pytest.mark.parametrize(
    'option, words',
    [
        ('nonsense', 'takes key=value pairs'),
        ('=1', 'takes key=value pairs'),
        ('train_cgf.max_epochs=1', "did you mean 'train_cfg'"),
        ('custom_hooks.99.type=x', 'cannot be applied'),
        ('load_from.x.y=1', 'cannot be applied'),
        ('model.neck.in_channels=[1,(2', 'Imbalanced brackets'),
    ],
)
def test_wrong_options_are_refused(option, words):
    with pytest.raises(InputError, match=re.escape(words)) as refused:
        config.load('repvit_maskrcnn_coco', ['train_cfg.max_epochs=1', option])
    assert option in str(refused.value)


def test_the_config_of_a_work_dir_and_of_a_checkpoint(tmp_path):
    cfg = config.load('repvit_maskrcnn_shapes')
    cfg.dump(tmp_path / 'run.py')
    torch.save({'meta': {'config': cfg.pretty_text}}, tmp_path / 'epoch_1.pth')
    for path in (tmp_path, tmp_path / 'epoch_1.pth'):
        assert config.load(path).to_dict() == cfg.to_dict()
        assert config.load(path, epochs=2).train_cfg.max_epochs == 2


def test_a_checkpoint_without_a_config_is_refused(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'weights.pth')
    with pytest.raises(InputError, match=r'weights\.pth: no config in this checkpoint'):
        config.load(tmp_path / 'weights.pth')
