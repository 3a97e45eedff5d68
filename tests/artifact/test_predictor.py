"""Predictions of an artifact, in the pixels of the image."""

import subprocess
import sys
import textwrap

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from repvit_dense.artifact import preprocess
from repvit_dense.artifact.predictor import ImageModel, Predictor
from repvit_dense.artifact.selection import Selection
from repvit_dense.errors import InputError

SIZES = [(97, 131), (64, 96), (200, 40), (33, 250)]


@pytest.mark.parametrize('height, width', SIZES)
def test_boxes_are_in_pixels_of_the_image(artifact, image, height, width):
    result = Predictor(artifact('detection'))(image(height, width))
    shares = [[0.1, 0.2, 0.6, 0.7], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.3, 0.9]]
    assert result.boxes == pytest.approx(np.array(shares) * [width, height, width, height], rel=1e-4)
    assert result.scores == pytest.approx([0.9, 0.6, 0.4])
    assert result.labels.tolist() == [1, 0, 2]
    assert result.arrays.keys() == {'boxes', 'scores', 'labels'}


@pytest.mark.parametrize('kind', ['roi', 'image'])
def test_masks_have_the_size_of_the_image(artifact, image, kind):
    result = Predictor(artifact(kind))(image(97, 131))
    assert result.masks.shape == (3, 97, 131)
    assert result.masks.dtype == bool
    assert result.masks.any((1, 2)).all()


def test_objects_below_the_score_get_no_masks(artifact, image):
    """A crowded image has hundreds of them, each with a mask of the size of the image."""
    predict, pixels = Predictor(artifact('image')), image(97, 131)
    masks = predict(pixels).masks
    predict.selection = Selection(score=0.5)
    (fields,) = predict._predict([pixels])
    assert np.array_equal(fields['masks'], masks[:2])


@pytest.mark.parametrize('size', [(97, 131), (192, 256), (70, 70)])
def test_a_class_map_has_the_size_of_the_image(artifact, image, size):
    """Resized class by class as soft masks, as `interpolate` does."""
    pixels = image(*size)
    folder = artifact('semantic')
    recipe = Predictor(folder).manifest.preprocess
    tensor, (height, width) = preprocess.apply(pixels, recipe)
    seg = ((tensor[0] > 0).astype(int) + (tensor[1] > 0))[:height, :width]
    shares = F.one_hot(torch.from_numpy(seg)).movedim(2, 0)[None].float()
    expected = F.interpolate(shares, size, mode='bilinear')[0].argmax(0).numpy()
    result = Predictor(folder)(pixels).seg
    assert result.dtype == np.int32
    assert np.mean(result == expected) > 0.999  # rounding decides between equally strong classes
    assert len(np.unique(result)) == 3


def test_segments_number_things_and_stuff(artifact, image):
    result = Predictor(artifact('panoptic'))(image(97, 131))
    assert result.segments.shape == (97, 131)
    assert [part['number'] for part in result.segment_info] == sorted({*result.segments.ravel()} - {0})
    assert [(part['label'], part['is_thing']) for part in result.segment_info] == [(1, True), (0, True)]


def test_a_fixed_input_size(artifact, image):
    """A larger image is reduced; boxes stay in its pixels."""
    fixed = {'images': [1, 3, 64, 64], 'img_hw': [1, 2]}
    predict = Predictor(artifact('roi', inputs=fixed))
    for size in [(97, 131), (64, 64), (20, 30)]:
        result = predict(image(*size))
        assert result.boxes[0] == pytest.approx(np.array([0.1, 0.2, 0.6, 0.7]) * [*size[::-1], *size[::-1]], rel=1e-4)
        assert result.masks.shape[1:] == size


@pytest.mark.parametrize('batch', ['batch', 1, 2, 3])
def test_a_list_gives_the_results_of_its_images(artifact, image, batch):
    predict = Predictor(artifact('image', inputs={'images': [batch, 3, 'h', 'w'], 'img_hw': [batch, 2]}))
    images = [image(*size, seed=seed) for seed, size in enumerate([*SIZES, (97, 131)])]
    for result, pixels in zip(predict(images), images, strict=True):
        one = predict(pixels)
        assert result.arrays.keys() == one.arrays.keys()
        for name, value in one.arrays.items():
            assert np.mean(result.arrays[name] == value) > 0.999  # padding to the same size moves a pixel at the border


def test_no_detection(artifact, image, monkeypatch):
    predict = Predictor(artifact('roi'))
    run = predict._run
    monkeypatch.setattr(predict, '_run', lambda *inputs: run(*inputs) | {'count': np.zeros(1, np.int32)})
    result = predict(image(50, 60))
    assert result.boxes.shape == (0, 4)
    assert result.masks.shape == (0, 50, 60)


@pytest.mark.parametrize('kind', ['detection', 'roi', 'image', 'panoptic', 'semantic'])
@pytest.mark.parametrize('size', [(1, 1), (20000, 10), (10, 20000), (1, 300)])
def test_images_of_unusual_shape(artifact, kind, size):
    result = Predictor(artifact(kind))(np.full((*size, 3), 90, np.uint8))
    for name in ('masks', 'seg', 'segments'):
        if name in result.arrays:
            assert result.arrays[name].shape[-2:] == size
    if result.boxes is not None:
        assert result.boxes.max(0) == pytest.approx([size[1] / 2, size[0] / 2, size[1], size[0]], rel=1e-3)


def test_an_unusable_image_in_a_list_leaves_the_others(artifact, image, tmp_path):
    predict = Predictor(artifact('detection', inputs={'images': [2, 3, 'h', 'w'], 'img_hw': [2, 2]}))
    bad = tmp_path / 'notes.jpg'
    bad.write_bytes(b'hello')
    results = predict([image(40, 50), str(bad), bad, image(30, 40), np.zeros(3)])
    assert [isinstance(result, InputError) for result in results] == [False, True, True, False, True]
    assert results[3].boxes[1] == pytest.approx([20, 15, 40, 30], rel=1e-4)
    with pytest.raises(InputError, match='notes.jpg'):
        predict(bad)


class Fails(ImageModel):
    """A model that fails with images of a height over 100 pixels, or with every image; memory is short."""

    names, palette, title, batch_size = ['cat'], None, 'fails', 3

    def __init__(self, limit=100):
        self.limit = limit

    def _predict(self, images):
        if any(len(image) > self.limit for image in images):
            raise MemoryError(f'no {self.limit}\nGB')
        return [{'boxes': np.zeros((1, 4)), 'scores': np.ones(1), 'labels': np.zeros(1, int)} for _ in images]


def test_an_image_that_the_model_fails_with_leaves_the_others_of_its_batch(image, tmp_path):
    cv2.imwrite(str(tmp_path / 'tall.png'), image(101, 5))
    results = Fails()([image(40, 50), tmp_path / 'tall.png', image(100, 50), image(200, 7)])
    assert [isinstance(result, InputError) for result in results] == [False, True, False, True]
    assert str(results[1]) == f'{tmp_path / "tall.png"}: cannot be predicted (MemoryError: no 100 GB)'


def test_a_model_that_fails_with_every_image_ends_at_once(image):
    with pytest.raises(InputError, match='fails: the model fails with every image .MemoryError: no 10 GB'):
        Fails(10)([image(40, 50)] * 500)


def test_objects_with_numbers_that_are_not_finite_are_left_out_with_a_warning(image, capsys, monkeypatch):
    boxes = np.array([[0, 0, 4, 4], [0, 0, np.inf, 4], [1, 1, 2, 2]], np.float32)
    fields = {'boxes': boxes, 'scores': np.array([0.9, 0.8, np.nan]), 'labels': np.zeros(3, int)}
    monkeypatch.setattr(Fails, '_predict', lambda self, images: [fields])
    assert Fails()(image(40, 50)).boxes.tolist() == [[0, 0, 4, 4]]
    assert '2 of 3 objects are left out' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['roi', 'panoptic'])
def test_it_runs_without_torch_and_openmmlab(artifact, image, tmp_path, kind):
    """It imports little else, which keeps its start fast."""
    cv2.imwrite(str(tmp_path / 'x.png'), image(60, 70))
    code = """
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name in ('torch', 'torchvision', 'timm', 'mmcv', 'mmengine', 'mmdet', 'mmseg', 'matplotlib'):
                    raise ImportError(name)

        sys.meta_path.insert(0, Missing())
        from repvit_dense.artifact.predictor import Predictor
        result = Predictor(sys.argv[1], threads=1)(sys.argv[2])
        print(sorted(result.arrays))
        outside = {name.partition('.')[0] for name, value in sys.modules.items() if value} - sys.stdlib_module_names
        print(sorted(name for name in outside if not name.startswith('_')))
    """
    command = [sys.executable, '-c', textwrap.dedent(code), str(artifact(kind)), str(tmp_path / 'x.png')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, outside = map(eval, done.stdout.splitlines())
    assert names == sorted(Predictor(artifact(kind))(image(60, 70)).arrays)
    assert set(outside) <= {'repvit_dense', 'numpy', 'cv2', 'onnxruntime'}
    assert done.stderr == ''


def test_a_stream_does_not_read_ahead(artifact, image):
    """Images of the next batch are still unread when a result arrives."""
    read = []

    def images():
        for seed in range(6):
            read.append(seed)
            yield image(40, 50, seed=seed)

    model = Predictor(artifact('detection', inputs={'images': [2, 3, 'h', 'w'], 'img_hw': [2, 2]}))
    next(model.stream(images()))
    assert read == [0, 1]
