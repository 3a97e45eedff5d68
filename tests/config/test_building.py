"""The model is built and run without memory; a batch norm that would see one value is found."""

import pytest

from repvit_dense import config
from repvit_dense.config import building
from repvit_dense.errors import InputError


@pytest.mark.parametrize(
    'name, module',
    [
        ('repvit_deeplabv3_voc', 'decode_head.image_pool.1.bn'),
        ('repvit_upernet_ade20k', 'decode_head.psp_modules.0.1.bn'),
        ('repvit_ssdlite_coco', 'neck.extra_layers'),
    ],
)
def test_a_batch_norm_after_a_global_pool_needs_two_images(name, module):
    cfg = config.load(name, ['train_dataloader.batch_size=1'], backbone='m0_6')
    with pytest.raises(InputError, match=rf'batch_size = 1: the batch norm {module}.* train_dataloader.batch_size=2'):
        building.check_model(cfg, training=True)
    building.check_model(cfg, training=False)
    cfg.launcher = 'pytorch'  # batch norms are synchronised
    building.check_model(cfg, training=True)


@pytest.mark.parametrize(
    'images, changes, refused',
    [(5, {}, True), (4, {}, False), (5, {'drop_last': True}, False), (5, {'batch_size': 3}, False)],
)
def test_a_last_batch_of_one_image(images, changes, refused):
    cfg = config.load('repvit_deeplabv3_voc', backbone='m0_6')
    cfg.train_dataloader.update({'batch_size': 2, **changes})
    if refused:
        with pytest.raises(InputError, match='the last of 5 images is alone .* train_dataloader.drop_last=True'):
            building.check_last_batch(cfg, images)
    else:
        building.check_last_batch(cfg, images)


def test_settings_of_parameters_that_do_not_exist(capsys):
    cfg = config.load('repvit_segformer_shapes')
    cfg.merge_from_dict({'optim_wrapper.paramwise_cfg.custom_keys': {'head': {}, 'hed': {}}})
    building.check_model(cfg, training=True)
    assert capsys.readouterr().err == (
        "warning: optim_wrapper.paramwise_cfg.custom_keys: no parameter of the model has 'hed' in its name\n"
    )


@pytest.mark.parametrize('name', ['repvit_segformer_shapes', 'repvit_semfpn_shapes', 'repvit_maskrcnn_shapes'])
def test_other_heads_train_with_one_image(name):
    building.check_model(config.load(name, ['train_dataloader.batch_size=1']), training=True)


def test_a_disk_without_space(monkeypatch, tmp_path):
    cfg = config.load('repvit_segformer_shapes')
    cfg.work_dir = str(tmp_path / 'none' / 'w')
    building.check_model(cfg, training=True)
    monkeypatch.setattr(building.shutil, 'disk_usage', lambda folder: type('Usage', (), {'free': 1_000_000}))
    with pytest.raises(InputError, match=r'a checkpoint of this model needs 2\d MB, but 1 MB are free'):
        building.check_model(cfg, training=True)


@pytest.mark.parametrize(
    'key, value, words',
    [
        ('decode_head.type', 'SegFormerHead', r"decode_head\.type = 'SegFormerHead' is not .*'SegformerHead'"),
        ('decode_head.norm_cfg.type', 'BM', r"decode_head\.norm_cfg\.type = 'BM' is not registered"),
        (
            'decode_head.chanels',
            3,
            r"decode_head\.chanels: SegformerHead has no such argument; did you mean 'channels'",
        ),
        ('decode_head.dropout_ratio', 2, 'ValueError: dropout probability has to be between 0 and 1'),
        ('backbone', None, 'cannot be built, TypeError'),
    ],
)
def test_a_model_that_cannot_be_built(key, value, words):
    cfg = config.load('repvit_segformer_shapes')
    cfg.merge_from_dict({f'model.{key}': value})
    with pytest.raises(InputError, match=words):
        building.check_model(cfg, training=False)


@pytest.mark.parametrize('changes', [{'in_index': [0, 1, 2, 9]}, {'in_channels': 40}])
def test_features_that_do_not_exist(changes):
    cfg = config.load('repvit_segformer_shapes')
    cfg.model.decode_head.update(changes)
    with pytest.raises(InputError, match='do not select among the 4 feature maps'):
        building.check_channels(cfg)
