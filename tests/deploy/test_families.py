"""One model of each family as an artifact, certified: what CI has of the table in docs/deploy.md."""

import pytest

from repvit_dense.benchmark import export_table

FAMILIES = [
    'repvit_segformer_shapes',
    'repvit_retinanet_coco',
    'repvit_maskrcnn_shapes',
    'repvit_mask2former_shapes-panoptic',
]


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_a_family_runs_on_onnx_runtime_and_openvino(name, monkeypatch):
    monkeypatch.setattr(export_table, 'BACKBONE', 'repvit_m0_6')
    monkeypatch.setattr(export_table, 'SIZE', (96, 128))
    written, errors = export_table.export_head(name, ['onnx', 'openvino'])
    assert errors == {}
    assert set(written) == {'onnx', 'openvino'}
    assert [row.failures for row in written.values()] == [[], []]
    assert all(row.parity.startswith(('99.', '100.')) for row in written.values())
