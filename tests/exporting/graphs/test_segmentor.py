"""Semantic segmentors as graphs, compared with the predictions of mmseg."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense.exporting.graphs import segmentor
from repvit_dense.model import predictor

MODELS = {
    'repvit_segformer_shapes': [],
    'repvit_semfpn_shapes': [],
    'repvit_upernet_ade20k': ['model.decode_head.channels=32'],
    'repvit_deeplabv3_voc': ['model.decode_head.channels=32'],
}
REST = [pytest.param(name, marks=pytest.mark.deploy) for name in list(MODELS)[1:]]
BATCHES = ([(96, 64)], [(61, 90), (96, 37)], [(33, 1)])


@pytest.fixture(scope='module')
def prepare(build_model, rescale, make_batch):
    def build(name, *options):
        model = build_model(name, *options)
        rescale(model.predict, make_batch([(96, 64), (61, 90)])[0], {model.decode_head.conv_seg: 1})
        return model

    return build


@pytest.fixture(scope='module', params=MODELS)
def model(request, prepare):
    return prepare(request.param, *MODELS[request.param])


@pytest.fixture(scope='module', params=[False, True], ids=['operators', 'plain'])
def graph(request, model, build_graph):
    return build_graph(model, request.param)


@pytest.mark.parametrize('sizes', BATCHES, ids=str)
def test_classes_agree_with_mmseg(model, graph, make_batch, sizes):
    images, img_hw = make_batch(sizes)
    expected = torch.cat([sample.pred_sem_seg.data for sample in model.predict(images)])
    (seg,) = graph(images, img_hw)
    assert seg.dtype == torch.int32
    assert len(expected.unique()) > 1
    assert (seg == expected).float().mean() > 0.999  # classes may tie


def test_the_prediction_of_an_image_agrees_with_mmseg(prepare, build_graph):
    """Start from an image; include test pipeline, data preprocessor and the resizing of mmseg."""
    model = prepare('repvit_segformer_shapes')
    image = np.random.default_rng(0).integers(0, 255, (160, 128, 3), np.uint8)  # a size that the pipeline keeps
    expected = predictor(model, model.cfg)(image).pred_sem_seg.data
    pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float()
    pixels = (pixels - model.data_preprocessor.mean) / model.data_preprocessor.std
    (seg,) = build_graph(model)(pixels[None], torch.tensor([[160.0, 128.0]]))
    assert len(expected.unique()) > 3
    assert (seg == expected).float().mean() > 0.999


def test_a_single_class_is_compared_with_its_threshold(prepare, build_graph, make_batch):
    options = ['model.decode_head.num_classes=2', 'model.decode_head.out_channels=1']
    model = prepare('repvit_segformer_shapes', *options, 'model.decode_head.threshold=0.4')
    images, img_hw = make_batch([(64, 96)])
    expected = model.predict(images)[0].pred_sem_seg.data
    assert 0 < expected.float().mean() < 1
    assert (build_graph(model)(images, img_hw)[0] == expected).float().mean() > 0.999


def test_norms_of_the_head_are_folded(model, graph):
    assert any(isinstance(part, _BatchNorm) for part in model.decode_head.modules())
    assert not any(isinstance(part, _BatchNorm) for part in graph.head.modules())


# --- parts ---


@pytest.mark.parametrize('scale', [2, 4, 32])
@pytest.mark.parametrize('smooth', [1, 4], ids=['rough', 'smooth'])
def test_argmax_upsampled(scale, smooth):
    logits = F.interpolate(torch.randn(2, 7, 3, 5), scale_factor=smooth, mode='bilinear')
    size = [side * scale for side in logits.shape[2:]]
    expected = F.interpolate(logits, size=size, mode='bilinear').argmax(1)
    assert (segmentor.argmax_upsampled(logits, scale) == expected).float().mean() > 0.999


def test_argmax_upsampled_of_a_single_class_in_onnx_runtime(tmp_path):
    """Check the case without class borders, in which no cell has to be computed."""
    import onnxruntime

    class Upsample(nn.Module):
        def forward(self, logits):
            return segmentor.argmax_upsampled(logits, 4)

    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 1] = 1
    path = tmp_path / 'upsample.onnx'
    torch.onnx.export(Upsample().eval(), (torch.randn(1, 3, 2, 2),), path, dynamo=True, input_names=['logits'])
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (seg,) = session.run(None, {'logits': logits.numpy()})
    assert seg.shape == (1, 8, 8)
    assert (seg == 1).all()


@pytest.mark.parametrize('size', [(1, 1), (3, 7), (8, 12), (5, 31)], ids=str)
@pytest.mark.parametrize('bins', [2, 3, 6])
def test_pooling_agrees_with_torch(size, bins):
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(segmentor.Pool(bins)(x), F.adaptive_avg_pool2d(x, bins))


# --- exports ---


@pytest.mark.parametrize('dynamic', [False, True], ids=['static', 'dynamic'])
@pytest.mark.parametrize('name', ['repvit_segformer_shapes', *REST])
def test_onnx_runtime_agrees(prepare, build_graph, make_batch, run_onnx, name, dynamic):
    graph = build_graph(prepare(name, *MODELS[name]))
    run = run_onnx(graph, make_batch([(64, 96), (64, 64)]), dynamic)
    for sizes in [[(96, 64)], [(61, 90), (32, 32), (50, 128)]] if dynamic else [[(64, 90), (50, 96)]]:
        images, img_hw = make_batch(sizes, seed=5)
        assert (run(images, img_hw)[0] == graph(images, img_hw)[0]).float().mean() > 0.999


def test_the_plain_graph_can_be_exported(model, build_graph, make_batch, export_plain):
    graph = build_graph(model, plain=True)
    images, img_hw = make_batch([(64, 90), (50, 96)])
    assert (export_plain(graph, (images, img_hw))(images, img_hw)[0] == graph(images, img_hw)[0]).float().mean() > 0.999
