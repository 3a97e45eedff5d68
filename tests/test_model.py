"""Build a config's model, load its weights and run it."""

import numpy as np
import pytest
import torch

from repvit_dense import config
from repvit_dense.errors import InputError
from repvit_dense.model import _meta, build_model, load_model, predictor, set_limits

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


@pytest.mark.parametrize('device', ['nonsense', 'meta', 'cpu:7', 'cuda:99', 'xla', ' '])
def test_a_device_that_cannot_compute_is_refused_before_the_checkpoint_is_read(cfg, device):
    with pytest.raises(InputError, match=f'--device {device}: .'):
        load_model(cfg.copy(), 'no checkpoint', device)


def test_thin_images_are_predicted(cfg, checkpoint):
    predict = predictor(load_model(cfg.copy(), checkpoint, 'cpu'), cfg)
    for size in ((1, 1), (2, 20_000), (20_000, 1)):
        instances = predict(np.zeros((*size, 3), np.uint8)).pred_instances
        assert instances.masks.shape == (len(instances), *size)


def test_classes_come_from_the_config_if_the_checkpoint_has_none(cfg):
    assert _meta(cfg, {'meta': {}})['classes'] == CLASSES


@pytest.mark.parametrize('classes', [CLASSES[:-1], (*CLASSES, 'other')])
def test_another_number_of_names_than_the_model_has_classes_is_refused(cfg, classes):
    words = f'a.pth: its meta data name {len(classes)} classes, the model has 8'
    with pytest.raises(InputError, match=words):
        _meta(cfg, {'meta': {'dataset_meta': {'classes': classes}}}, 'a.pth')


def test_a_panoptic_model_counts_things_and_stuff():
    panoptic = config.load('repvit_mask2former_shapes-panoptic', backbone='repvit_m0_6')
    names = [f'class {number}' for number in range(12)]
    assert _meta(panoptic, {'meta': {'dataset_meta': {'classes': names}}})['classes'] == names


def test_weights_that_do_not_fit_are_named_with_their_file(cfg, tmp_path):
    torch.save({'state_dict': {'backbone.weight': torch.ones(1)}}, tmp_path / 'a.pth')
    with pytest.raises(InputError, match='a.pth: '):
        load_model(cfg.copy(), str(tmp_path / 'a.pth'), 'cpu')


@pytest.mark.parametrize(
    'name, path, limit',
    [
        ('repvit_maskrcnn_shapes', 'rcnn', 300),
        ('repvit_rtmdet-ins_coco', '', 300),
        ('repvit_ssdlite_coco', '', 300),
        ('repvit_detr_coco', '', 100),  # has no suppression, and no more queries
    ],
)
def test_limits_of_detectors(name, path, limit):
    cfg = config.load(name)
    suppresses = set_limits(cfg, 0.001, 0.33, 300)
    limits = cfg.model.test_cfg[path] if path else cfg.model.test_cfg
    assert limits.max_per_img == limit
    assert suppresses == ('nms' in limits)
    if suppresses:
        assert (limits.nms.iou_threshold, limits.score_thr) == (0.33, 0.001)
    set_limits(cfg, 0.5, None, 10)
    assert limits.max_per_img == limit and limits.get('score_thr', 0) <= 0.001


def test_a_segmentor_has_no_limits():
    assert not set_limits(config.load('repvit_segformer_shapes'), 0.001, 0.33, 300)
