"""Build a config's model, load its weights and run it."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData

from repvit_dense import config
from repvit_dense.errors import InputError
from repvit_dense.model import _meta, arrays, build_model, load_model, predictor

CLASSES = ('circle', 'square', 'triangle', 'star', 'ring', 'cross', 'heart', 'crescent')


@pytest.fixture(scope='module')
def cfg():
    return config.load('repvit_maskrcnn_shapes', ['model.test_cfg.rcnn.score_thr=0.0'], backbone='repvit_m0_6')


@pytest.fixture(scope='module')
def checkpoint(cfg, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'epoch_1.pth'
    torch.save({'state_dict': build_model(cfg).state_dict(), 'meta': {'dataset_meta': {'classes': CLASSES}}}, path)
    return str(path)


def test_predictions_equal_mmdet(cfg, checkpoint, image):
    from mmdet.apis import inference_detector

    pixels = image(70, 90)
    model = load_model(cfg.copy(), checkpoint, 'cpu')
    model.cfg = cfg
    expected, result = inference_detector(model, pixels).pred_instances, predictor(model, cfg)(pixels).pred_instances
    assert len(result) > 0
    for key in ('bboxes', 'scores', 'labels', 'masks'):
        torch.testing.assert_close(result[key], expected[key])


def test_the_fused_model_predicts_the_same(cfg, checkpoint, image):
    plain, fused = (
        predictor(load_model(cfg.copy(), checkpoint, 'cpu', fused), cfg)(image(70, 90)).pred_instances
        for fused in (False, True)
    )
    torch.testing.assert_close(fused.scores, plain.scores, rtol=1e-3, atol=1e-3)


def test_an_unknown_device_is_refused(cfg, checkpoint):
    with pytest.raises(InputError, match='--device nonsense'):
        load_model(cfg.copy(), checkpoint, 'nonsense')


def test_classes_come_from_the_config_if_the_checkpoint_has_none(cfg):
    assert _meta(cfg, {'meta': {}})['classes'] == CLASSES


def test_arrays_of_detections():
    instances = InstanceData(
        bboxes=torch.tensor([[0.0, 1, 2, 3]]), scores=torch.tensor([0.9]), labels=torch.tensor([1])
    )
    result = arrays(DetDataSample(pred_instances=instances), 8)
    assert result['boxes'].tolist() == [[0, 1, 2, 3]]
    assert result.keys() == {'boxes', 'scores', 'labels'}


def test_arrays_of_a_class_map():
    sample = DetDataSample(pred_sem_seg=PixelData(sem_seg=torch.tensor([[[2, 2, 2, 0]]])))
    assert arrays(sample, 8)['seg'].tolist() == [[2, 2, 2, 0]]


def test_arrays_of_a_panoptic_map():
    """mmdet writes class + 1000 * object, and the number of classes for pixels without a segment."""
    ids = torch.tensor([[[1000, 2000, 2000, 8, 7, 7, 7, 7]]])
    result = arrays(DetDataSample(pred_panoptic_seg=PixelData(sem_seg=ids)), 8)
    assert result['segments'].tolist() == [[2, 3, 3, 0, 1, 1, 1, 1]]
    assert result['segment_info'] == [
        {'number': 1, 'label': 7, 'is_thing': False},
        {'number': 2, 'label': 0, 'is_thing': True},
        {'number': 3, 'label': 0, 'is_thing': True},
    ]
