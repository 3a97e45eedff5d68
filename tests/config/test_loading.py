"""Configs are found by path and by name, and changed by options."""

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


@pytest.mark.parametrize(
    'name', ['repvit_maskrcnn_coc', 'no/such/repvit_maskrcnn_coco.py', 'configs', 'x' * 300, 'a\0b']
)
def test_an_unknown_name_lists_the_packaged_configs(name):
    """A wrong folder does not find the packaged config of the same name."""
    with pytest.raises(
        InputError, match='no such config file. Packaged ones: .*repvit_maskrcnn_coco, repvit_maskrcnn_sh'
    ):
        config.find(name)


@pytest.mark.parametrize('text', ['model = dict(', '1 / 0', 'x = nothing'])
def test_a_broken_config_is_named(tmp_path, text):
    path = tmp_path / 'broken.py'
    path.write_text(text)
    with pytest.raises(InputError, match='broken.py: cannot read this config: [A-Z][A-Za-z]+Error: .'):
        config.load(path)


def test_the_config_of_a_work_dir_and_of_a_checkpoint(tmp_path):
    cfg = config.load('repvit_maskrcnn_shapes')
    cfg.dump(tmp_path / 'run.py')
    torch.save({'meta': {'config': cfg.pretty_text}}, tmp_path / 'epoch_1.pth')
    for path in (tmp_path, tmp_path / 'epoch_1.pth'):
        assert config.load(path).to_dict() == cfg.to_dict()
        changed = config.load(path, change=lambda cfg: config.set_epochs(cfg, 2))
        assert changed.train_cfg.max_epochs == 2


def test_a_checkpoint_without_a_config_is_refused(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'weights.pth')
    with pytest.raises(InputError, match=r'weights\.pth: no config in this checkpoint'):
        config.load(tmp_path / 'weights.pth')
