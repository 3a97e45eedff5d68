"""Core ML models: conversion, and the content of the saved file; they run on macOS only."""

import json
import sys

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.deploy
ct = pytest.importorskip('coremltools')

from repvit_dense.errors import InputError  # noqa: E402
from repvit_dense.exporting.formats import coreml  # noqa: E402

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.parametrize('kind', ['semantic', 'detection'])
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_the_saved_model_has_an_image_input_and_named_outputs(graph, write, kind, precision):
    model = graph(kind, plain=True)
    path = write(model, 'coreml', precision=precision)
    description = ct.utils.load_spec(str(path)).description
    assert [value.name for value in description.input] == ['images', 'img_hw']
    image = description.input[0].type.imageType
    assert (image.height, image.width) == (64, 96)
    assert image.colorSpace == ct.proto.FeatureTypes_pb2.ImageFeatureType.RGB
    assert [value.name for value in description.output] == list(model.outputs)
    assert 'conv' in coreml.operators(path)


def test_the_saved_model_holds_classes_and_preprocessing(graph, write):
    metadata = ct.utils.load_spec(str(write(graph('semantic', plain=True), 'coreml'))).description.metadata.userDefined
    assert json.loads(metadata['classes']) == ['cat', 'dog']
    assert json.loads(metadata['preprocess']) == {'mean': MEAN, 'std': STD}


def test_only_layers_use_half_precision(graph, write):
    kinds = coreml.operators(write(graph('detection', plain=True), 'coreml', precision='fp16'))
    assert kinds['conv'] == {'float16'}
    assert kinds['gelu'] == {'float16'}
    assert kinds['topk'] == {'float32', 'int32'}  # values and indices
    assert kinds['sigmoid'] == {'float32'}


OPTIONS = {
    'repvit_rtmdet-ins_coco': ['model.test_cfg.nms_pre=60', 'model.test_cfg.max_per_img=20'],
    'repvit_ssdlite_coco': ['model.test_cfg.nms_pre=60', 'model.test_cfg.max_per_img=20'],
    'repvit_maskrcnn_coco': [
        'model.test_cfg.rpn.nms_pre=60',
        'model.test_cfg.rpn.max_per_img=40',
        'model.test_cfg.rcnn.max_per_img=20',
        'model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio=2',
        'model.roi_head.mask_roi_extractor.roi_layer.sampling_ratio=2',
    ],
    'repvit_detr_coco': ['model.encoder.num_layers=1', 'model.decoder.num_layers=1'],
    'repvit_mask2former_shapes-panoptic': [],
}


@pytest.mark.parametrize('name', OPTIONS)
def test_the_models_of_the_configs_convert(write, name):
    from repvit_dense import config
    from repvit_dense.exporting import folding, graphs
    from repvit_dense.model import build_model

    model = build_model(config.load(name, options=OPTIONS[name], backbone='repvit_m0_6')).requires_grad_(False)
    path = write(graphs.build(folding.fuse(model), plain=True), 'coreml', (96, 128), precision='fp16')
    kinds = coreml.operators(path)
    assert 'float16' in kinds['conv']
    # These compute boxes, or pixel indices, which half precision cannot represent beyond 2048.
    assert all('float16' not in kinds[kind] for kind in ('topk', 'exp', 'floor', 'minimum') if kind in kinds)


def test_a_saved_model_of_another_size_is_refused(graph, write):
    path = write(graph('semantic', plain=True), 'coreml')
    with pytest.raises(InputError, match='the image input is 64x96'):
        coreml.check_saved(path, (64, 64), {'seg': np.int32})
    with pytest.raises(InputError, match='the outputs are'):
        coreml.check_saved(path, (64, 96), {'seg': np.float32})


def test_pixels_are_normalised_and_padding_is_zeroed(graph):
    """Run the wrapped graph on an image with random padding and check the input of the wrapped graph."""
    seen = {}
    model = graph('semantic')
    model.model.backbone.register_forward_pre_hook(lambda module, inputs: seen.update(images=inputs[0]))
    image = torch.randint(0, 256, (1, 3, 64, 96)).float()
    coreml.from_pixels(model, MEAN, STD)(image, torch.tensor([[50.0, 70.0]]))
    expected = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    expected[:, :, 50:], expected[:, :, :, 70:] = 0, 0
    torch.testing.assert_close(seen['images'], expected)


@pytest.mark.skipif(sys.platform != 'darwin', reason='Core ML runs on macOS only')
def test_core_ml_agrees_with_torch(graph, write, close):
    from PIL import Image

    model = graph('detection', plain=True)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    sizes = torch.tensor([[64.0, 96.0]])
    outputs = ct.models.MLModel(str(write(model, 'coreml'))).predict(
        {'images': Image.fromarray(image), 'img_hw': sizes.numpy()}
    )
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    inputs = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None], sizes
    close(model, inputs, [outputs[name] for name in model.outputs], atol=1e-2)
