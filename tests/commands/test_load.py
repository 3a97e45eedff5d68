"""`load`: work dirs, checkpoints, artifacts and names of the catalogue."""

import numpy as np
import pytest
import torch

from repvit_dense.artifact.predictor import Predictor
from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.commands import load
from repvit_dense.commands.load import Options
from repvit_dense.commands.trained_model import Model
from repvit_dense.errors import InputError


@pytest.fixture(scope='module')
def model(work_dir):
    return load.run(Options(str(work_dir), device='cpu'))


def test_a_work_dir(model, work_dir, image):
    assert isinstance(model, Model)
    assert model.checkpoint == str(work_dir / 'epoch_1.pth')
    assert model.names[0] == 'circle'
    result = model(image(70, 90))
    assert result.masks.shape == (len(result), 70, 90)
    assert (np.diff(result.scores) <= 0).all()


def test_a_checkpoint_brings_its_config(model, work_dir, image):
    """The config in the checkpoint is parsed, so no other file is needed."""
    alone = load.run(Options(work_dir / 'epoch_1.pth', device='cpu'))
    assert np.array_equal(alone(image(70, 90)).boxes, model(image(70, 90)).boxes)


def test_the_fused_model_finds_the_same(model, work_dir, image):
    fused = load.run(Options(str(work_dir), device='cpu', deploy=True))
    count = sum(parameter.numel() for parameter in fused.network.parameters())
    assert count < sum(parameter.numel() for parameter in model.network.parameters())
    assert fused(image(70, 90)).scores == pytest.approx(model(image(70, 90)).scores, abs=1e-3)


@pytest.mark.parametrize('name', ['x' * 300, 'x/' * 3000])
def test_a_name_that_is_too_long_is_that_of_no_config(name):
    with pytest.raises(InputError, match='no such config'):
        load.run(Options(name, 'x.pth'))


def test_a_list_and_a_stream_of_images(model, image, tmp_path):
    images = [image(70, 90), str(tmp_path / 'none.jpg'), image(40, 50, seed=1)]
    results = model(images)
    assert [isinstance(result, InputError) for result in results] == [False, True, False]
    streamed = [result for result in model.stream(iter(images)) if not isinstance(result, InputError)]
    assert np.array_equal(streamed[1].boxes, results[2].boxes)


def test_a_pil_image_equals_its_array(model, image):
    from PIL import Image

    pixels = image(70, 90)
    assert np.array_equal(model(Image.fromarray(pixels[..., ::-1])).boxes, model(pixels).boxes)


@pytest.mark.slow
def test_a_model_exports_itself(model, image, tmp_path):
    artifact = model.export('torch', out=tmp_path, size=(128, 128), max_detections=5)
    assert isinstance(artifact, Predictor)
    assert artifact.folder == tmp_path / 'torch'
    assert artifact.names == model.names
    assert artifact(image(128, 128)).boxes.shape[1] == 4


def test_an_export_format_that_does_not_exist(model):
    with pytest.raises(InputError, match='tflitee'):
        model.export('tflitee')


def test_an_artifact(artifact, image):
    predictor = load.run(Options(artifact('roi'), threads=1))
    assert isinstance(predictor, Predictor)
    assert len(predictor(image(40, 50))) == 3
    with pytest.raises(InputError, match='an artifact cannot be exported again'):
        predictor.export('onnx')


@pytest.mark.parametrize('options', [{'device': 'cuda'}, {'deploy': True}, {'checkpoint': 'x.pth'}, {'data': 'coco'}])
def test_options_of_a_checkpoint_do_not_go_with_an_artifact(artifact, options):
    with pytest.raises(InputError, match=f'--{next(iter(options))} does not go with an artifact'):
        load.run(Options(artifact('roi'), **options))


@pytest.fixture
def downloads(monkeypatch):
    """Return the names of published weights that were asked for; nothing is downloaded."""
    from repvit_dense.checkpoints import loading, reading

    names = []

    def read(source, map_location='cpu'):
        names.append(str(source))
        raise CheckpointError(f'{source}: not downloaded in a test')

    monkeypatch.setattr(reading, 'read', read)
    monkeypatch.setattr(loading, 'read', read)
    return names


@pytest.mark.parametrize('name', ['repvit_m1_1_coco.pth', 'repvit_m2_3_ade20k'])
def test_a_published_model_has_its_recipe_and_backbone(downloads, name):
    options = load._resolve_published(Options(name))
    assert options.backbone == name[: len('repvit_m1_1')]
    assert options.config == ('repvit_maskrcnn_coco' if 'coco' in name else 'repvit_semfpn_ade20k')
    with pytest.raises(InputError):
        load.run(Options(name))
    assert downloads == [options.checkpoint]
    assert options.checkpoint.removesuffix('.pth') == name.removesuffix('.pth')


@pytest.mark.parametrize('name', ['m1_1', 'repvit_m1_1'])
def test_a_backbone_of_the_catalogue_loads_its_published_weights(downloads, name):
    with pytest.raises(CheckpointError):
        load.run(Options(name))
    (weights,) = downloads
    assert 'repvit_m1_1' in weights


def test_a_backbone_of_the_catalogue_is_a_module(monkeypatch):
    from repvit_dense.checkpoints import loading

    monkeypatch.setattr(loading, 'load_checkpoint', lambda module, source: None)
    backbone = load.run(Options('m0_6'))
    assert not backbone.training
    assert [tuple(feature.shape[1:]) for feature in backbone(torch.zeros(1, 3, 64, 64))] == [
        (40, 16, 16),
        (80, 8, 8),
        (160, 4, 4),
        (320, 2, 2),
    ]


def test_a_backbone_without_published_weights_is_refused():
    with pytest.raises(InputError, match='no weights were published'):
        load.run(Options('edgevit_xs'))


@pytest.mark.parametrize('name', ['nonsense', 'repvit_maskrcnn_shapes'])
def test_a_name_without_weights_is_refused(name):
    with pytest.raises(InputError, match='no such config file|a config has no weights'):
        load.run(Options(name))


def test_no_threads(work_dir):
    with pytest.raises(InputError, match='--threads 0: must be 1 or more'):
        load.run(Options(str(work_dir), threads=0))


def test_limits_of_a_trained_model(work_dir, image):
    """They are set before the model chooses, so more objects than its own limit are possible."""
    model = load.run(Options(str(work_dir), device='cpu', iou=0.01, max_detections=500, size=96))
    result = model(image(70, 90))
    boxes, labels = result.boxes, result.labels
    for number, box in enumerate(boxes):
        others = boxes[number + 1 :][labels[number + 1 :] == labels[number]]
        sides = np.clip(np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2]), 0, None)
        areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - sides.prod(1)
        assert (sides.prod(1) <= 0.0101 * areas).all()
    model = load.run(Options(str(work_dir), device='cpu', score=0.0, max_detections=2, classes=['circle', 'Star']))
    result = model(image(70, 90))
    assert len(result) <= 2
    assert set(result.labels) <= {0, 3}


def test_tiles_of_a_trained_model(work_dir, image):
    tiled = load.run(Options(str(work_dir), device='cpu', tile=64, max_detections=5, iou=0.3))
    assert tiled.selection.iou == 0.3  # of objects of two tiles too, which no suppression of the model sees
    result = tiled(image(70, 90))
    assert result.masks.shape == (len(result), 70, 90)
    assert 0 < len(result) <= 5


@pytest.mark.parametrize('size', [64, (96, 64)])
def test_the_size_of_an_artifact(artifact, image, size):
    loaded = load.run(Options(artifact('detection'), size=size))
    assert loaded.manifest.preprocess['scale'] == ([64, 64] if size == 64 else [96, 64])
    assert loaded(image(40, 50)).boxes[0] == pytest.approx([5, 8, 30, 28], rel=1e-4)
    fixed = artifact('detection', inputs={'images': [1, 3, 32, 32], 'img_hw': [1, 2]})
    with pytest.raises(InputError, match='this artifact has a fixed input of 32x32 pixels'):
        load.run(Options(fixed, size=size))
    load.run(Options(fixed, size=32))


@pytest.mark.parametrize('options', [{'iou': 0.5}, {'max_detections': 5}])
def test_a_segmentor_has_no_detections_to_limit(artifact, options):
    with pytest.raises(InputError, match='does not go with .* a semantic model'):
        load.run(Options(artifact('semantic'), **options))
