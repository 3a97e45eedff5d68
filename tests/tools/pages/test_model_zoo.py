"""Test measured cells and published results of the model zoo page."""

import pytest
import torch

from repvit_dense import catalogue, config
from repvit_dense.benchmark.subjects import sharpen_classifier
from repvit_dense.errors import InputError
from repvit_dense.model import build_model, predictor
from tools.pages import model_zoo
from tools.pages.model_zoo import Cell, Options, to_markdown

CELL = Cell('repvit_semfpn_ade20k', 'repvit_m1_1', (512, 704), 11_981_574, 7_731_312, 39.06, 9.6, 0.5, 0.125)


@pytest.fixture(scope='module')
def measured():
    """Return the cell of SSDLite on RepViT-M0.6."""
    return model_zoo.measure('repvit_ssdlite_coco', 'repvit_m0_6', rounds=2)


def test_parameters_are_those_of_the_fused_model(measured):
    assert measured.backbone_params == 2_147_072  # without the blocks after the last feature
    cfg = config.load('repvit_ssdlite_coco', backbone='repvit_m0_6')
    head = sum(p.numel() for name, p in build_model(cfg).named_parameters() if not name.startswith('backbone'))
    assert measured.params == 2_147_072 + head


def test_macs_are_proportional_to_the_pixels(measured):
    """An independent counter finds 0.385 GMACs at 224x224."""
    assert measured.size == (320, 320)
    assert measured.backbone_macs == pytest.approx(0.385 * (320 / 224) ** 2, rel=0.02)
    assert measured.macs > measured.backbone_macs


def test_the_model_takes_longer_than_the_backbone(measured):
    assert measured.seconds > measured.backbone_seconds > 0


def test_a_sharpened_classifier_gives_detections():
    cfg = config.load('repvit_maskrcnn_shapes')
    torch.manual_seed(0)
    model = build_model(cfg)
    sharpen_classifier(model)
    prediction = predictor(model, cfg)(torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy())
    assert len(prediction.pred_instances) >= 0.5 * cfg.model.test_cfg.rcnn.max_per_img


def test_a_row_has_measurements_and_the_published_result():
    page = to_markdown([CELL], 'a machine')
    row = '| repvit_m1_1 | 7.73 / 11.98 | 9.6 / 39.1 | 125 / 500 | 40.6 mIoU (arXiv 2307.09283, tables 4 and 5) |'
    assert row in page.splitlines()
    assert 'Measured with a machine.' in page


def test_a_published_result_without_measurement_has_a_row():
    assert '| repvit_m2_3 | not measured | not measured | not measured | 46.1 mIoU' in to_markdown([CELL], '')


def test_a_pair_without_published_result_is_marked():
    page = to_markdown([CELL._replace(backbone='vit_tiny')], '')
    assert '| vit_tiny | 7.73 / 11.98 | 9.6 / 39.1 | 125 / 500 | not trained here |' in page.splitlines()


def test_every_packaged_config_but_the_small_ones_is_a_head():
    names = model_zoo.heads()
    assert 'repvit_maskrcnn_coco' in names and not any('shapes' in name for name in names)
    for name in names:
        assert 10 < len(model_zoo._title(name)) < 200
        assert model_zoo._image_size(name)


@pytest.mark.parametrize('name', model_zoo.PUBLISHED)
def test_published_results_belong_to_known_configs_and_backbones(name):
    assert name in model_zoo.heads()
    assert set(model_zoo.PUBLISHED[name]) <= set(catalogue.BACKBONES)


def test_an_unknown_backbone_is_refused_before_the_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(model_zoo, 'measure', lambda *cell: pytest.fail('measured first'))
    with pytest.raises(InputError, match="--backbones: unknown backbone 'resnet99'"):
        model_zoo.run(Options(file=tmp_path / 'zoo.md', backbones=['resnet18', 'resnet99']))


def test_the_page_has_every_head(tmp_path, monkeypatch):
    monkeypatch.setattr(model_zoo, 'measure', lambda head, name, rounds: CELL._replace(config=head, backbone=name))
    model_zoo.run(Options(file=tmp_path / 'zoo.md', backbones=['resnet18', 'm1_1']))
    page = (tmp_path / 'zoo.md').read_text()
    assert page.count('| resnet18 |') >= len(model_zoo.heads())
    assert page.count('| repvit_m1_1 |') == len(model_zoo.heads())
    assert [path.name for path in tmp_path.iterdir()] == ['zoo.md']
