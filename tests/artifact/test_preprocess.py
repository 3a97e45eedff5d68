"""Preprocessing, compared with the pipelines of mmdet and mmseg."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from repvit_dense import config
from repvit_dense.artifact import preprocess
from repvit_dense.errors import InputError
from repvit_dense.model import image_pipeline

CONFIGS = sorted(path.stem for path in (Path(__file__).parents[2] / 'configs').glob('*.py'))
SIZES = [(64, 64), (97, 131), (333, 128), (1, 1), (15, 700)]
PLAIN = {
    'scale': [640, 480],
    'keep_ratio': True,
    'multiple': None,
    'pad_to': None,
    'pad_colour': None,
    'mean': [0.0] * 3,
    'std': [1.0] * 3,
    'pad_value': 0.0,
    'divisor': 32,
}


@pytest.fixture(scope='module')
def theirs():
    """Return `theirs(cfg, image)`: batch and unpadded size from the config's pipeline and data_preprocessor."""
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401  both register their transforms
    from mmengine.dataset import Compose, pseudo_collate
    from mmengine.registry import MODELS, init_default_scope

    def run(cfg, image):
        init_default_scope(cfg.default_scope)
        pipeline = Compose(image_pipeline(cfg))
        packed = pipeline({'img': image, 'img_id': 0, 'img_path': '', 'ori_shape': image.shape[:2]})
        batch = MODELS.build(cfg.model.data_preprocessor)(pseudo_collate([packed]), False)
        return batch['inputs'][0].numpy(), batch['data_samples'][0].img_shape[:2]

    return run


@pytest.mark.parametrize('name', CONFIGS)
def test_the_same_numbers_as_the_pipeline_of_the_config(theirs, name):
    cfg = config.load(name)
    how = preprocess.from_config(cfg)
    for seed, size in enumerate(SIZES):
        image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        expected, img_shape = theirs(cfg, image)
        result, true_hw = preprocess.apply(image, how)
        height, width = expected.shape[1:]
        assert true_hw == tuple(img_shape)
        assert result.dtype == np.float32
        assert not any(side % 32 for side in result.shape[1:])
        assert np.array_equal(result[:, :height, :width], expected)
        # An artifact pads further, by less than one multiple.
        assert not result[:, height:].any()
        assert not result[:, :, width:].any()
        assert result.shape[1] - height < 32
        assert result.shape[2] - width < 32


def test_a_grey_image_is_one_of_equal_channels(image):
    grey = image(50, 70)[..., 0]
    one, two = (preprocess.apply(part, PLAIN)[0] for part in (grey, cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)))
    assert np.array_equal(one, two)


def test_without_a_scale_the_image_keeps_its_size(image):
    pixels = image(50, 70)
    result, true_hw = preprocess.apply(pixels, PLAIN | {'scale': None})
    assert (result.shape, true_hw) == ((3, 64, 96), (50, 70))
    assert np.array_equal(result[:, :50, :70], pixels[..., ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize(
    'image_hw, changes, scaled, told',
    [
        ((480, 640), {}, (240, 320), (240, 320)),  # 640 x 480 would be too large
        ((640, 480), {}, (320, 240), (320, 240)),
        ((100, 10), {'scale': [80, 80]}, (80, 8), (80, 8)),  # fits as the pipeline makes it
        ((480, 640), {'keep_ratio': False}, (320, 320), (320, 320)),
        ((480, 640), {'keep_ratio': False, 'scale': [256, 128]}, (128, 256), (128, 256)),
        ((480, 640), {'pad_to': [640, 640]}, (240, 320), (320, 320)),
        ((100, 100), {'scale': [64, 64], 'pad_to': [96, 96]}, (64, 64), (96, 96)),
        ((20000, 10), {}, (320, 1), (320, 1)),
        ((10, 20000), {'multiple': 32}, (1, 320), (32, 320)),
    ],
)
def test_an_image_fits_into_a_fixed_input(image_hw, changes, scaled, told):
    steps = preprocess.geometry(image_hw, PLAIN | changes, (320, 320))
    assert (steps.scaled, steps.image, steps.batch) == (scaled, told, (320, 320))


def test_a_fixed_input_is_filled(image):
    how = PLAIN | {'pad_to': [96, 96], 'pad_colour': [1, 2, 3], 'pad_value': -1.0, 'scale': [64, 64]}
    result, true_hw = preprocess.apply(image(30, 60), how, (128, 160))
    assert (result.shape, true_hw) == ((3, 128, 160), (96, 96))
    assert result[:, 80, 80].tolist() == [1.0, 2.0, 3.0]
    assert result[:, 100, 150].tolist() == [-1.0] * 3


# --- unsupported configs ---


def steps(*more):
    return [{'type': 'LoadImageFromFile'}, *more, {'type': 'PackDetInputs'}]


RESIZE = {'type': 'Resize', 'scale': (64, 64), 'keep_ratio': True}


@pytest.mark.parametrize(
    'pipeline, words',
    [
        (steps({'type': 'RandomFlip', 'prob': 0.5}), "step 'RandomFlip'"),
        (steps({'type': 'TestTimeAug', 'transforms': []}), "step 'TestTimeAug'"),
        (steps({'type': 'Pad', 'size': (64, 64)}, RESIZE), "step 'Resize'"),
        (steps(RESIZE, RESIZE), "step 'Resize'"),
        (steps(RESIZE | {'interpolation': 'nearest'}), 'Resize.interpolation=nearest'),
        (steps(RESIZE | {'backend': 'pillow'}), 'Resize.backend=pillow'),
        (steps({'type': 'Resize', 'scale_factor': 0.5}), 'Resize.scale_factor=0.5'),
        (steps({'type': 'mmdet.Pad', 'size_divisor': 32}), 'Pad.size_divisor=32'),
        (steps({'type': 'Pad', 'pad_to_square': True}), 'Pad.pad_to_square=True'),
        ([{'type': 'LoadImageFromFile', 'color_type': 'grayscale'}], 'LoadImageFromFile.color_type=grayscale'),
    ],
)
def test_an_unsupported_step_is_refused(pipeline, words):
    cfg = config.load('repvit_maskrcnn_shapes')
    cfg.test_dataloader.dataset.pipeline = pipeline
    with pytest.raises(InputError) as raised:
        preprocess.from_config(cfg)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    'changes', [{'bgr_to_rgb': False}, {'mean': None, 'std': None}, {'test_cfg': {'size': (64, 64)}}]
)
def test_an_unsupported_normalisation_is_refused(changes):
    cfg = config.load('repvit_segformer_shapes')
    cfg.model.data_preprocessor.update(changes)
    with pytest.raises(InputError, match=f'model.data_preprocessor.{next(iter(changes))}'):
        preprocess.from_config(cfg)


def test_other_divisors_are_kept_as_well():
    cfg = config.load('repvit_segformer_shapes')
    cfg.model.data_preprocessor.test_cfg = {'size_divisor': 48}
    assert preprocess.from_config(cfg)['divisor'] == 96


def test_padding_at_test_time_makes_mmseg_and_an_artifact_the_same(theirs):
    """`data_preprocessor.test_cfg.size_divisor` removes the only difference."""
    cfg = config.load('repvit_segformer_shapes')
    cfg.model.data_preprocessor.test_cfg = {'size_divisor': 32}
    pixels = torch.randint(0, 256, (97, 131, 3), dtype=torch.uint8).numpy()
    expected, _ = theirs(cfg, pixels)
    assert np.array_equal(preprocess.apply(pixels, preprocess.from_config(cfg))[0], expected)
