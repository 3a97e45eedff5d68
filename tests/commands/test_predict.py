"""Prediction on images of one's own: the same as mmdet's own, whatever lies among the images, written whole."""

import argparse
import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from pycocotools import mask as coco_mask

from repvit_dense import config
from repvit_dense.commands import predict
from repvit_dense.errors import InputError
from repvit_dense.model import _meta, arrays, load_model

CLASSES = ('circle', 'square', 'triangle', 'star', 'ring', 'cross', 'heart', 'crescent')


@pytest.fixture(scope='module')
def cfg():
    return config.load('repvit_maskrcnn_shapes', ['model.test_cfg.rcnn.score_thr=0.0'])


@pytest.fixture(scope='module')
def checkpoint(cfg, tmp_path_factory):
    """Random weights, and the classes they would have been trained on."""
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'epoch_1.pth'
    meta = {'dataset_meta': {'classes': CLASSES, 'palette': [(10 * i, 0, 0) for i in range(8)]}}
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': meta}, path)
    return str(path)


@pytest.fixture
def images(tmp_path):
    """A colour image, a grey one of another size, one of the same name in a folder below; BGR."""
    folder = tmp_path / 'images'
    (folder / 'below').mkdir(parents=True)
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / 'a.png'), rng.integers(0, 255, (70, 90, 3), np.uint8))
    cv2.imwrite(str(folder / 'b.jpg'), rng.integers(0, 255, (64, 40), np.uint8))
    cv2.imwrite(str(folder / 'below' / 'a.png'), rng.integers(0, 255, (50, 50, 3), np.uint8))
    (folder / 'notes.txt').write_text('no image')
    return folder


def run(cfg, checkpoint, out, *arguments):
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    args = parser.parse_args([*map(str, arguments), '--out', str(out), '--score', '0', '--device', 'cpu'])
    return predict.run(args, cfg.copy(), checkpoint)


def test_predictions_are_those_of_mmdet(cfg, checkpoint, images):
    from mmdet.apis import inference_detector

    image = cv2.imread(str(images / 'a.png'))
    model, own = load_model(cfg.copy(), checkpoint, 'cpu')
    model.cfg = cfg
    expected, found = inference_detector(model, image).pred_instances, own(image).pred_instances
    assert len(found) > 0
    for key in ('bboxes', 'scores', 'labels', 'masks'):
        torch.testing.assert_close(found[key], expected[key])


def test_the_fused_form_finds_the_same(cfg, checkpoint, images):
    image = cv2.imread(str(images / 'a.png'))
    plain, fused = (
        load_model(cfg.copy(), checkpoint, 'cpu', deploy)[1](image).pred_instances for deploy in (False, True)
    )
    torch.testing.assert_close(fused.scores, plain.scores, rtol=1e-3, atol=1e-3)


def test_a_run_writes_a_picture_for_every_image_and_all_numbers(cfg, checkpoint, images, tmp_path):
    out = tmp_path / 'out'
    assert run(cfg, checkpoint, out, images) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        'a-2.jpg',
        'a.jpg',
        'b.jpg',
        'index.html',
        'predictions.json',
    ]
    results = json.loads((out / 'predictions.json').read_text())
    assert [entry['image'] for entry in results] == [str(images / name) for name in ('a.png', 'b.jpg', 'below/a.png')]
    first = results[0]['objects'][0]
    assert first['label'] in CLASSES
    assert coco_mask.decode(first['mask']).shape == (70, 90)
    assert 0 <= first['box'][0] <= first['box'][2] <= 90


def test_an_image_that_cannot_be_read_does_not_stop_the_others(cfg, checkpoint, images, tmp_path, capsys):
    out = tmp_path / 'out'
    assert run(cfg, checkpoint, out, images / 'notes.txt', images / 'b.jpg') == 2
    assert 'notes.txt: not an image' in capsys.readouterr().err
    assert (out / 'b.jpg').exists()
    assert len(json.loads((out / 'predictions.json').read_text())) == 1


@pytest.mark.parametrize('what', ['missing.jpg', 'below/empty'])
def test_nothing_to_predict_is_refused(images, what):
    (images / 'below' / 'empty').mkdir()
    with pytest.raises(InputError, match='no such image|no image in this folder'):
        predict.find_images([str(images / what)])


def test_an_unknown_device_is_refused(cfg, checkpoint):
    with pytest.raises(InputError, match='--device nonsense'):
        load_model(cfg.copy(), checkpoint, 'nonsense')


def test_classes_come_from_the_config_where_the_checkpoint_names_none(cfg):
    assert _meta(cfg, {'meta': {}})['classes'] == CLASSES


# --- what was found, as data ---


def test_what_scores_less_is_left_out():
    found = InstanceData(
        bboxes=torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 7]]),
        scores=torch.tensor([0.9, 0.2]),
        labels=torch.tensor([1, 0]),
    )
    objects = predict.describe(arrays(DetDataSample(pred_instances=found), 8), CLASSES, 0.3)['objects']
    assert objects == [{'label': 'square', 'score': 0.9, 'box': [0.0, 1.0, 2.0, 3.0]}]


def test_a_semantic_map_keeps_class_indices():
    sample = DetDataSample(pred_sem_seg=PixelData(sem_seg=torch.tensor([[[2, 2, 2, 0]]])))
    labels, segments = predict.segment(arrays(sample, 8), CLASSES)
    assert labels.tolist() == [[2, 2, 2, 0]]
    assert segments == [
        {'number': 2, 'label': 'triangle', 'share': 0.75},
        {'number': 0, 'label': 'circle', 'share': 0.25},
    ]


def test_a_panoptic_map_numbers_objects_and_leaves_void_out():
    """mmdet writes class + 1000 * object, and the number of classes where nothing was found."""
    ids = torch.tensor([[[1000, 2000, 2000, 8, 7, 7, 7, 7]]])
    labels, segments = predict.segment(arrays(DetDataSample(pred_panoptic_seg=PixelData(sem_seg=ids)), 8), CLASSES)
    assert labels.tolist() == [[2, 3, 3, 0, 1, 1, 1, 1]]
    assert [(entry['number'], entry['label'], entry['share']) for entry in segments] == [
        (1, 'crescent', 0.5),
        (3, 'circle', 0.25),
        (2, 'circle', 0.125),
    ]


def test_a_detector_has_no_segments():
    assert predict.segment(arrays(DetDataSample(), 8), CLASSES) is None
