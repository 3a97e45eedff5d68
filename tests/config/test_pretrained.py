"""Published weights that a training starts from: found, missing, or not wanted."""

import pytest

from repvit_dense import config
from repvit_dense.checkpoints import fetching
from repvit_dense.errors import InputError


@pytest.fixture
def cfg(monkeypatch, tmp_path):
    """Return a config whose published weights are in no cache, on a machine without a network."""

    def refuse(url, path):
        raise fetching.CheckpointError(f'{url}: cannot be downloaded')

    monkeypatch.setattr(fetching, '_fetch', refuse)
    yield config.load('repvit_retinanet_coco', backbone='m0_9')
    fetching.set_offline(False)


def test_without_a_network_the_message_says_how_to_go_on(cfg):
    with pytest.raises(InputError, match=r'cannot be downloaded.*--offline.*--from WEIGHTS'):
        config.find_pretrained(cfg)


def test_offline_the_backbone_starts_from_random_weights_that_train(cfg, capsys):
    cfg.model.backbone.update(frozen_stages=1, norm_eval=True)
    fetching.set_offline(True)
    config.find_pretrained(cfg)
    assert 'starts from random weights' in capsys.readouterr().err
    assert 'init_cfg' not in cfg.model.backbone
    assert (cfg.model.backbone.frozen_stages, cfg.model.backbone.norm_eval) == (-1, False)


def test_a_training_that_is_resumed_needs_no_published_weights(cfg, capsys):
    cfg.load_from, cfg.resume = 'epoch_1.pth', True
    config.find_pretrained(cfg)
    assert capsys.readouterr().err == ''
    assert 'init_cfg' not in cfg.model.backbone


def test_a_mistyped_name_is_no_reason_to_start_from_random_weights(cfg):
    cfg.model.backbone.init_cfg.checkpoint = 'repvit_m0_9_distil'
    fetching.set_offline(True)
    with pytest.raises(InputError, match='did you mean'):
        config.find_pretrained(cfg)
