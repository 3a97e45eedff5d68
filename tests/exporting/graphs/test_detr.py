"""DETR as a graph, compared with the detections of mmdet."""

import numpy as np
import pytest
import torch

from repvit_dense.errors import InputError
from repvit_dense.model import predictor

SMALL = ['model.encoder.num_layers=2', 'model.decoder.num_layers=2', 'model.data_preprocessor.pad_size_divisor=32']
BATCHES = ([(96, 128)], [(71, 61), (96, 128)], [(40, 33)])


@pytest.fixture(scope='module')
def prepare(build_model, rescale, make_batch, samples):
    def build(*options):
        model = build_model('repvit_detr_coco', *SMALL, *options)
        for layer in model.decoder.layers:  # queries attend to different pixels
            layer.self_attn.attn.in_proj_weight.mul_(4)
            layer.cross_attn.attn.in_proj_weight.mul_(4)
        images, img_hw = make_batch([(71, 61), (96, 128)])
        head, data_samples = model.bbox_head, samples(images, img_hw)
        rescale(lambda inputs: model.predict(inputs, data_samples), images, {head.fc_cls: 2, head.fc_reg: 1})
        return model

    return build


@pytest.fixture(scope='module')
def model(prepare):
    return prepare()


@pytest.fixture(scope='module')
def boxes_of():
    """Return `boxes_of(outputs, i=None)`: detections as a dict, of mmdet's instances or of image i of a graph."""

    def pick(outputs, i=None):
        if i is None:
            return {'boxes': outputs.bboxes, 'scores': outputs.scores, 'labels': outputs.labels}
        return {name: value[i] for name, value in zip(('boxes', 'scores', 'labels'), outputs, strict=False)}

    return pick


@pytest.mark.parametrize('plain', [False, True], ids=['operators', 'plain'])
@pytest.mark.parametrize('sizes', BATCHES, ids=str)
def test_detections_agree_with_mmdet(model, build_graph, make_batch, samples, matched, boxes_of, sizes, plain):
    images, img_hw = make_batch(sizes)
    outputs = build_graph(model, plain)(images, img_hw)
    for i, sample in enumerate(model.predict(images, samples(images, img_hw), rescale=False)):
        assert matched(boxes_of(outputs, i), boxes_of(sample.pred_instances)) == 1
        assert len(sample.pred_instances.labels.unique()) > 10
    assert outputs[1].diff(dim=1).max() <= 0
    assert outputs[3].tolist() == [100] * len(sizes)
    assert (outputs[2].dtype, outputs[3].dtype) == (torch.int32, torch.int32)


def test_the_prediction_of_an_image_agrees_with_mmdet(model, build_graph, matched, boxes_of):
    """Start from an image of odd size; include test pipeline, data preprocessor and the scaling of boxes."""
    cfg = model.cfg.copy()
    cfg.test_dataloader.dataset.pipeline[1].scale = (96, 72)
    image = np.random.default_rng(0).integers(0, 255, (45, 59, 3), np.uint8)
    sample = predictor(model, cfg)(image)
    seen = {}
    hook = model.backbone.register_forward_pre_hook(lambda _, inputs: seen.update(images=inputs[0]))
    predictor(model, cfg)(image)
    hook.remove()
    boxes, scores, labels, _ = build_graph(model)(seen['images'], torch.tensor([sample.img_shape]).float())
    scale = torch.tensor(sample.scale_factor).float().repeat(2)
    assert matched(boxes_of((boxes / scale, scores, labels), 0), boxes_of(sample.pred_instances)) == 1


def test_the_config_sets_the_number_of_detections(prepare, build_graph, make_batch):
    boxes, scores, labels, count = build_graph(prepare('model.test_cfg.max_per_img=7'))(*make_batch([(64, 64)]))
    assert (boxes.shape, scores.shape, labels.shape, count.tolist()) == ((1, 7, 4), (1, 7), (1, 7), [7])


def test_a_sigmoid_head_is_refused(model, build_graph, monkeypatch):
    monkeypatch.setattr(model.bbox_head.loss_cls, 'use_sigmoid', True)
    with pytest.raises(InputError, match='use_sigmoid'):
        build_graph(model)


@pytest.mark.parametrize('dynamic', [False, True], ids=['static', 'dynamic'])
def test_onnx_runtime_agrees(model, build_graph, make_batch, run_onnx, matched, boxes_of, dynamic):
    graph = build_graph(model)
    run = run_onnx(graph, make_batch([(64, 96), (64, 64)]), dynamic)
    for sizes in [[(96, 64)], [(61, 90), (32, 32), (50, 128)]] if dynamic else [[(64, 90), (50, 96)]]:
        batch = make_batch(sizes, seed=5)
        outputs, expected = run(*batch), graph(*batch)
        for i in range(len(sizes)):
            assert matched(boxes_of(outputs, i), boxes_of(expected, i)) == 1


def test_the_plain_graph_can_be_exported(model, build_graph, make_batch, export_plain, matched, boxes_of):
    batch = make_batch([(64, 90), (50, 96)])
    graph = build_graph(model, plain=True)
    outputs, expected = export_plain(graph, batch)(*batch), graph(*batch)
    for i in range(2):
        assert matched(boxes_of(outputs, i), boxes_of(expected, i)) == 1
