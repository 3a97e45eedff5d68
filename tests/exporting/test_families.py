"""Certified exports of one model of each family, an excerpt of the table in docs/deploy.md."""

import pytest

from repvit_dense import config
from repvit_dense.benchmark import random_models
from tools.pages import export_table

FAMILIES = [
    'repvit_segformer_shapes',
    'repvit_retinanet_coco',
    'repvit_maskrcnn_shapes',
    'repvit_mask2former_shapes-panoptic',
]


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_a_family_is_exported_to_onnx_and_openvino(name, monkeypatch):
    monkeypatch.setattr(export_table, 'BACKBONE', 'repvit_m0_6')
    monkeypatch.setattr(export_table, 'SIZE', (96, 128))
    written, errors = export_table.export_head(name, ['onnx', 'openvino'])
    assert errors == {}
    assert set(written) == {'onnx', 'openvino'}
    assert [row.failures for row in written.values()] == [[], []]
    assert all(row.parity.startswith(('99.', '100.')) for row in written.values())


@pytest.mark.deploy
@pytest.mark.parametrize('options', [{}, {'dynamic': ('size',)}], ids=['fixed', 'dynamic'])
@pytest.mark.parametrize(
    ('name', 'backbone'),
    [
        ('repvit_retinanet_coco', 'edgevit_xxs'),
        ('repvit_retinanet_coco', 'pvt_tiny'),  # its features are stored as tokens
        ('mobile-former_retinanet_coco', 'mobile_former_26m'),
        ('repvit_detr_coco', 'mobile_former_26m'),
    ],
)
def test_a_detector_on_a_backbone_with_attention_is_exported(name, backbone, options, tmp_path):
    targets = ['onnx'] if options else ['onnx', 'openvino']
    cfg = config.load(name, ['model.backbone.init_cfg=None'], backbone=backbone)
    rows, errors = random_models.export_artifacts(cfg, targets, tmp_path, (160, 160), **options)
    assert errors == {}
    assert [(row.target, row.failures) for row in rows] == [(target, []) for target in targets]
