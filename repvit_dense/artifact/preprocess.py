"""Turn an image into the input of a model as the config's test pipeline does, with numpy and OpenCV only."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

DIVISOR = 32  # pixels; heights and widths of a batch are multiples of it in every export graph
# Steps of a test pipeline that do not change pixels.
NEUTRAL = ('LoadAnnotations', 'DenseLoadAnnotations', 'LoadPanopticAnnotations', 'PackDetInputs', 'PackSegInputs')
# Options of steps that an artifact supports with one value only.
FIXED: dict[str, dict[str, Any]] = {
    'LoadImageFromFile': {'color_type': 'color', 'imdecode_backend': 'cv2', 'to_float32': False},
    'Resize': {'scale_factor': None, 'interpolation': 'bilinear', 'backend': 'cv2'},
    'ResizeToMultiple': {'interpolation': (None, 'bilinear')},
    'Pad': {'size_divisor': None, 'pad_to_square': False, 'padding_mode': 'constant'},
}


class Geometry(NamedTuple):
    """Heights and widths of one image after each step, in pixels.

    Attributes:
        scaled: after resizing to the scale.
        resized: after resizing to a multiple, too; equal to `scaled` if the pipeline has no such step.
        image: with the padding of the pipeline, which the model treats as image.
        batch: with the padding of the batch; a multiple of the divisor.
    """

    scaled: tuple[int, int]
    resized: tuple[int, int]
    image: tuple[int, int]
    batch: tuple[int, int]


# --- from a config ----------------------------------------------------------------------------------------------------


def from_config(cfg: 'Config') -> dict:
    """Return the preprocessing of a config as data: its test pipeline, then its data_preprocessor.

    mmseg pads at test time only if `model.data_preprocessor.test_cfg.size_divisor` is set, and mmdet's DETR does not
    pad either. An artifact pads every image to multiples of 32 pixels, because its graph requires it, and crops the
    result. Convolutions near the right and lower border therefore see this padding instead of their own.

    Args:
        cfg: a complete config of mmdet or mmseg.

    Returns:
        `scale` [width, height] and `keep_ratio` of the resizing, or null; `multiple` in pixels to which it rounds up,
        or null; `pad_to` [width, height] and `pad_colour` (RGB, 0 to 255) of the pipeline's padding, or null; `mean`
        and `std` in RGB order, 0 to 255; `pad_value` after normalisation; `divisor` of the batch in pixels.

    Raises:
        InputError: an artifact does not support a step or one of its options.
    """
    recipe: dict[str, Any] = {'scale': None, 'keep_ratio': False, 'multiple': None, 'pad_to': None, 'pad_colour': None}
    order = ['LoadImageFromFile', 'Resize', 'ResizeToMultiple', 'Pad']
    for step in cfg.test_dataloader.dataset.pipeline:
        name = str(step['type']).rpartition('.')[2]
        if name in NEUTRAL:
            continue
        if name not in order:
            _refuse(f"step '{name}' of the test pipeline (or its position there)", ', '.join(FIXED))
        del order[: order.index(name) + 1]  # each once, in this order
        _check_options(name, step)
        if name == 'Resize':
            scale = step['scale']
            recipe['scale'] = [scale, scale] if isinstance(scale, int) else list(scale)
            recipe['keep_ratio'] = bool(step.get('keep_ratio', False))
        elif name == 'ResizeToMultiple':
            recipe['multiple'] = step.get('size_divisor', 32)
        elif name == 'Pad':
            recipe['pad_to'], recipe['pad_colour'] = list(step['size']), _colour(step.get('pad_val', 0))
    return recipe | _normalisation(cfg.model.data_preprocessor)


def _refuse(setting: str, supported: str) -> None:
    raise InputError(f'an artifact does not support {setting}. It supports {supported}')


def _check_options(name: str, step: Mapping) -> None:
    for option, fixed in FIXED[name].items():
        values = fixed if isinstance(fixed, tuple) else (fixed,)
        if step.get(option, values[0]) not in values:
            _refuse(f'{name}.{option}={step[option]} in the test pipeline', f'{option}={values[-1]}')
    if name in ('Resize', 'Pad') and not step.get('scale' if name == 'Resize' else 'size'):
        _refuse(f'{name} without a size in the test pipeline', f'{name} to a fixed size')


def _colour(value: float | Mapping | Sequence) -> list[int]:
    """Convert the BGR padding value of a pipeline to an RGB colour."""
    value = value.get('img', 0) if isinstance(value, Mapping) else value
    levels = [value] * 3 if isinstance(value, int | float) else list(value)
    return [int(level) for level in levels][::-1]


def _normalisation(part: Mapping) -> dict:
    if not part.get('bgr_to_rgb') or part.get('rgb_to_bgr'):
        _refuse('model.data_preprocessor.bgr_to_rgb=False', 'bgr_to_rgb=True')
    for name in ('mean', 'std'):
        if len(part.get(name) or ()) != 3:
            _refuse(f'model.data_preprocessor.{name}={part.get(name)}', f'a {name} per channel')
    at_test = part.get('test_cfg') or {}
    if at_test.get('size'):
        _refuse('model.data_preprocessor.test_cfg.size', 'test_cfg.size_divisor')
    divisor = part.get('pad_size_divisor') or at_test.get('size_divisor') or 1
    return {
        'mean': [float(value) for value in part['mean']],
        'std': [float(value) for value in part['std']],
        'pad_value': float(part.get('pad_value', part.get('pad_val', 0))),
        'divisor': math.lcm(DIVISOR, divisor),
    }


# --- one image --------------------------------------------------------------------------------------------------------


def geometry(image_hw: tuple[int, int], preprocess: Mapping, size: tuple[int, int] | None = None) -> Geometry:
    """Return the size of an image after each step.

    Args:
        image_hw: height and width of the image in pixels.
        preprocess: see `from_config`.
        size: height and width of a fixed input in pixels, or None. A larger image is reduced to fit; its aspect ratio
            is kept if the pipeline keeps it.
    """
    scaled = _scaled(image_hw, preprocess, size)
    multiple = preprocess['multiple'] or 1
    resized = _round_up(scaled, multiple)
    if size:
        resized = min(resized[0], size[0]), min(resized[1], size[1])
    image = resized
    if preprocess['pad_to']:
        width, height = preprocess['pad_to']
        if size:
            height, width = min(height, size[0]), min(width, size[1])
        image = max(resized[0], height), max(resized[1], width)
    return Geometry(scaled, resized, image, size or _round_up(image, preprocess['divisor']))


def _round_up(sides: tuple[int, int], multiple: int) -> tuple[int, int]:
    return math.ceil(sides[0] / multiple) * multiple, math.ceil(sides[1] / multiple) * multiple


def _scaled(image_hw: tuple[int, int], preprocess: Mapping, size: tuple[int, int] | None) -> tuple[int, int]:
    (height, width), scale = image_hw, preprocess['scale']
    if scale and not preprocess['keep_ratio']:
        return (min(scale[1], size[0]), min(scale[0], size[1])) if size else (scale[1], scale[0])
    # mmcv.rescale_size does this: the longer side fits the larger number, the shorter the smaller; halves round up.
    factor = min(max(scale) / max(image_hw), min(scale) / min(image_hw)) if scale else 1.0
    if size:
        factor = min(factor, size[0] / height, size[1] / width)
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def apply(
    image: np.ndarray, preprocess: Mapping, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Resize, pad and normalise an image; the numbers equal those of mmdet's or mmseg's pipeline.

    Args:
        image: `(H, W, 3)` BGR or `(H, W)` grey, uint8.
        preprocess: see `from_config`.
        size: height and width of a fixed input in pixels; None for the next multiples of the divisor.

    Returns:
        `(3, H', W')` float32, RGB, normalised, padded on the right and at the bottom; and the height and width of the
        part that is image, in pixels.
    """
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    steps = geometry(image.shape[:2], preprocess, size)
    if preprocess['scale'] or size:
        image = _resize(image, steps.scaled)
    if steps.resized != steps.scaled:
        image = _resize(image, steps.resized)
    canvas = np.full((3, *steps.batch), preprocess['pad_value'], np.float32)
    height, width = steps.image
    mean, std = (np.array(preprocess[name], np.float32)[:, None, None] for name in ('mean', 'std'))
    if steps.image != steps.resized:
        grey = np.array(preprocess['pad_colour'], np.float32)[:, None, None]
        canvas[:, :height, :width] = (grey - mean) / std
    inside = canvas[:, : steps.resized[0], : steps.resized[1]]
    np.subtract(image[..., ::-1].transpose(2, 0, 1), mean, out=inside, dtype=np.float32)
    np.divide(inside, std, out=inside)
    return canvas, steps.image


def _resize(image: np.ndarray, height_width: tuple[int, int]) -> np.ndarray:
    return cv2.resize(image, height_width[::-1], interpolation=cv2.INTER_LINEAR)
