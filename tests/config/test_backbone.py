"""A backbone by name: everything that depends on it follows, in every config."""

import pytest
from mmengine.registry import MODELS, init_default_scope

from repvit_dense import config
from repvit_dense.backbones import catalogue
from repvit_dense.errors import InputError

CONFIGS = sorted(file.stem for file in config.CONFIG_FOLDERS[0].glob('repvit_*.py'))
# A transformer with position tables, a network whose images are not normalised as ImageNet's, one of another library.
PEERS = ('swin_tiny', 'mobilevit_xxs', 'resnet18')


@pytest.fixture(params=CONFIGS)
def name(request):
    return request.param


@pytest.mark.parametrize('peer', PEERS)
def test_channels_follow(name, peer):
    cfg = config.load(name, backbone=peer)
    init_default_scope(cfg.default_scope)
    config.check_channels(cfg)  # raises where a part does not take what the built backbone gives
    assert cfg.model.backbone.type == catalogue.find(peer).type


def test_the_config_s_own_backbone_changes_no_channel(name):
    """The name of what is there already: only weights and their like may differ."""
    cfg = config.load(name)
    own = f'repvit_{cfg.model.backbone.arch}'
    swapped = config.load(name, backbone=own)
    assert swapped.model.backbone.tap == cfg.model.backbone.tap
    for part in cfg.model:
        if part != 'backbone':
            assert plain(swapped.model[part]) == plain(cfg.model[part]), part
    assert swapped.optim_wrapper == cfg.optim_wrapper


def plain(value):
    """Lists for tuples, all the way down."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def test_settings_of_the_training_are_kept():
    options = ['model.backbone.frozen_stages=1', 'model.backbone.with_cp=True']
    cfg = config.load('repvit_maskrcnn_coco', options)
    config.set_backbone(cfg, 'resnet18')
    assert (cfg.model.backbone.frozen_stages, cfg.model.backbone.with_cp, cfg.model.backbone.norm_eval) == (
        1,
        True,
        True,
    )
    assert 'arch' not in cfg.model.backbone and 'tap' not in cfg.model.backbone


def test_weights_follow_where_the_config_starts_from_some():
    cfg = config.load('repvit_maskrcnn_coco', backbone='mobilevit_s')
    assert cfg.model.backbone.init_cfg == {
        'type': 'Pretrained',
        'checkpoint': catalogue.find('mobilevit_s').default_weights,
    }
    assert 'init_cfg' not in config.load('repvit_maskrcnn_shapes', backbone='mobilevit_s').model.backbone


def test_a_backbone_without_published_weights_starts_from_nothing():
    assert 'init_cfg' not in config.load('repvit_maskrcnn_coco', backbone='mobile_former_26m').model.backbone


def test_pixels_are_normalised_as_the_weights_expect():
    cfg = config.load('repvit_maskrcnn_coco', backbone='mobilevit_s')
    assert (cfg.model.data_preprocessor.mean, cfg.model.data_preprocessor.std) == ([0.0] * 3, [255.0] * 3)


def test_a_peer_s_tables_do_not_decay_and_a_repvit_keeps_the_recipe():
    peer = config.load('repvit_maskrcnn_coco', backbone='swin_tiny').optim_wrapper
    assert peer.constructor == 'DenseNoDecayOptimWrapperConstructor'
    assert peer.paramwise_cfg.no_decay == list(catalogue.find('swin_tiny').no_decay)
    assert (
        config.load('repvit_maskrcnn_coco', backbone='m2_3').optim_wrapper
        == config.load('repvit_maskrcnn_coco').optim_wrapper
    )


@pytest.mark.parametrize('peer', [name for name, entry in catalogue.BACKBONES.items() if entry.no_decay])
def test_every_table_that_is_named_exists(peer):
    entry = catalogue.find(peer)
    names = [name for name, _ in MODELS.build({'type': entry.type, **entry.args}).named_parameters()]
    for table in entry.no_decay:
        assert any(table in name for name in names), table


def test_options_come_last():
    cfg = config.load('repvit_maskrcnn_coco', ['model.backbone.norm_eval=False'], backbone='resnet18')
    assert cfg.model.backbone.norm_eval is False


def test_nothing_stays_frozen_in_a_backbone_without_published_weights():
    published, unpublished = (
        config.load('repvit_maskrcnn_coco', backbone=name) for name in ('resnet18', 'edgevit_xxs')
    )
    assert published.model.backbone.norm_eval is True
    assert unpublished.model.backbone.norm_eval is False


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(InputError, match="unknown backbone 'mobilvit_s'; nearest: mobilevit_s"):
        config.load('repvit_maskrcnn_coco', backbone='mobilvit_s')


def test_a_config_without_a_backbone_is_refused(tmp_path):
    (tmp_path / 'own.py').write_text("model = dict(type='X')\n")
    with pytest.raises(InputError, match=r"own\.py: this config has no model\.backbone to replace by 'resnet18'"):
        config.load(tmp_path / 'own.py', backbone='resnet18')
