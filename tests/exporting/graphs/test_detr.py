"""DETR as a graph: the detections are mmdet's own."""

import numpy as np
import pytest
import torch

from repvit_dense.errors import InputError
from repvit_dense.model import predictor

SMALL = ['model.encoder.num_layers=2', 'model.decoder.num_layers=2', 'model.data_preprocessor.pad_size_divisor=32']
BATCHES = ([(96, 128)], [(71, 61), (96, 128)], [(40, 33)])


@pytest.fixture(scope='module')
def prepare(build_model, spread, make_batch, samples):
    def build(*options):
        model = build_model('repvit_detr_coco', *SMALL, *options)
        for layer in model.decoder.layers:  # queries that look at different things
            layer.self_attn.attn.in_proj_weight.mul_(4)
            layer.cross_attn.attn.in_proj_weight.mul_(4)
        images, img_hw = make_batch([(71, 61), (96, 128)])
        head, found = model.bbox_head, samples(images, img_hw)
        spread(lambda inputs: model.predict(inputs, found), images, {head.fc_cls: 2, head.fc_reg: 1})
        return model

    return build


@pytest.fixture(scope='module')
def model(prepare):
    return prepare()


@pytest.fixture(scope='module')
def boxes_of():
    """One image's detections as a dict: of mmdet's instances, or of a graph's outputs."""

    def pick(found, i=None):
        if i is None:
            return {'boxes': found.bboxes, 'scores': found.scores, 'labels': found.labels}
        return {name: value[i] for name, value in zip(('boxes', 'scores', 'labels'), found, strict=False)}

    return pick


@pytest.mark.parametrize('plain', [False, True], ids=['operators', 'plain'])
@pytest.mark.parametrize('sizes', BATCHES, ids=str)
def test_detections_are_those_of_mmdet(model, build_graph, make_batch, samples, matched, boxes_of, sizes, plain):
    images, img_hw = make_batch(sizes)
    found = build_graph(model, plain)(images, img_hw)
    for i, sample in enumerate(model.predict(images, samples(images, img_hw), rescale=False)):
        assert matched(boxes_of(found, i), boxes_of(sample.pred_instances)) == 1
        assert len(sample.pred_instances.labels.unique()) > 10
    assert found[1].diff(dim=1).max() <= 0
    assert found[3].tolist() == [100] * len(sizes)
    assert (found[2].dtype, found[3].dtype) == (torch.int32, torch.int32)


def test_a_whole_image_is_predicted_as_by_mmdet(model, build_graph, matched, boxes_of):
    """From pixels on, of an odd-sized image: the config's test pipeline, data preprocessor and scaling back."""
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


def test_as_many_detections_as_the_config_says(prepare, build_graph, make_batch):
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
        found, expected = run(*batch), graph(*batch)
        for i in range(len(sizes)):
            assert matched(boxes_of(found, i), boxes_of(expected, i)) == 1


def test_the_plain_form_can_be_exported(model, build_graph, make_batch, export_plain, matched, boxes_of):
    batch = make_batch([(64, 90), (50, 96)])
    graph = build_graph(model, plain=True)
    found, expected = export_plain(graph, batch)(*batch), graph(*batch)
    for i in range(2):
        assert matched(boxes_of(found, i), boxes_of(expected, i)) == 1
