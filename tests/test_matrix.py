"""Every config on RepViT and two peers, one of convolutions and one with attention, trains, predicts and is scored."""

import matrix
import pytest

BACKBONES = ('repvit_m0_6', 'mobilenetv2', 'mobilevit_xxs')


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp('matrix')
    matrix.draw(folder)
    return folder


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('name', matrix.CONFIGS)
def test_a_head_on_a_backbone_trains_and_is_scored(name, backbone, drawn, monkeypatch):
    monkeypatch.chdir(drawn)
    scores = matrix.run_cell(name, backbone)
    assert any(key.endswith(('bbox_mAP', 'mIoU', 'PQ')) for key in scores)
