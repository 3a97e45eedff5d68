"""Change the image size of a config: every step of its pipelines, padding, sliding windows and fixed anchors.

Sizes are (width, height) here. mmdet's transforms have that order; mmseg's crops, the sizes of data preprocessors and
sliding windows have (height, width).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from repvit_dense.config.structure import nested, scope
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

Size = tuple[int, int]
LOADERS = ('train', 'val', 'test')
DIVISOR = 32  # the coarsest stride of the backbones
SMALLEST, LARGEST = 32, 8192
CROPS = ('RandomCrop', 'Pad', 'CachedMosaic', 'Mosaic')  # steps that determine the size of a training image
SCALES = ('Resize', 'RandomResize', 'RandomChoiceResize')
# Keys of a step that hold a size, or a list of sizes.
KEYS = ('scale', 'scales', 'img_scale', 'size', 'crop_size', 'max_size', 'img_scales')


def set_size(cfg: 'Config', size: int | Size) -> None:
    """Train and evaluate on images of another size.

    Everything that is counted in pixels of the network's input changes in proportion, so the recipe's ranges remain.
    Detectors: images are fitted into the size with their aspect ratio kept, or take it if the recipe crops, pads or
    distorts them to one size. Segmentors that crop: the crops have the size, and whole images are resized in
    proportion to them.

    Args:
        cfg: the config of a detector or segmentor.
        size: width and height in pixels, one number for a square.

    Raises:
        InputError: the size is out of range, not a multiple of 32 although the recipe's images have one fixed size, or
            the config has no size to change.
    """
    new = (size, size) if isinstance(size, int) else (size[0], size[1])
    text = f'--size {new[0]}x{new[1]}' if new[0] != new[1] else f'--size {new[0]}'
    if not all(SMALLEST <= side <= LARGEST for side in new):
        raise InputError(f'{text}: width and height must be from {SMALLEST} to {LARGEST} pixels')
    if is_fixed(cfg) and any(side % DIVISOR for side in new):
        near = sorted({max(SMALLEST, side // DIVISOR * DIVISOR + step) for side in new for step in (0, DIVISOR)})
        raise InputError(
            f'{text}: must be a multiple of {DIVISOR} for this config, such as {" or ".join(map(str, near))}'
        )
    if scope(cfg) == 'mmseg' and not _crop(cfg) and new[0] != new[1] and _preprocessor(cfg).get('size'):
        raise InputError(
            f'{text}: this config pads images of any orientation to one size; give one number, such as {max(new)}'
        )
    old, crop = current_size(cfg), _crop(cfg)
    if old is None:
        raise InputError(f'{text}: the pipelines of this config resize no image, so there is no size to change')
    for split in LOADERS:
        steps = list(nested(cfg.get(f'{split}_dataloader')))
        if split == 'train':
            steps += nested(cfg.get('custom_hooks'))  # a pipeline for the last epochs
        if split == 'test':
            steps += nested(cfg.get('tta_pipeline'))
        reference = _pipeline_size(steps, crop if scope(cfg) == 'mmseg' else None) or old
        for step in steps:
            _scale_step(step, reference, new, scope(cfg) == 'mmseg', crop is not None)
    _scale_model(cfg, old, new)


def current_size(cfg: 'Config') -> Size | None:
    """Return width and height that test images of a detector, or training crops of a segmentor, have at most."""
    crop = _crop(cfg) if scope(cfg) == 'mmseg' else None
    return crop or _pipeline_size(list(nested(cfg.get('test_dataloader') or cfg.get('val_dataloader'))))


def training_size(cfg: 'Config') -> Size | None:
    """Return width and height of a training image at most, (longer, shorter) if its aspect ratio is kept."""
    return _crop(cfg) or _pipeline_size(list(nested(cfg.get('train_dataloader'))))


def scale_factor(cfg: 'Config', image: Size) -> float | None:
    """Return how many times larger an image is in training, on average; None if nothing resizes it."""
    size = training_size(cfg)
    if size is None:
        return None
    shorter = min(size) / min(image)
    return shorter if crops_images(cfg) else min(max(size) / max(image), shorter)


def crops_images(cfg: 'Config') -> bool:
    """Return whether a segmentor trains on crops, whose size is that of the shorter side of whole images."""
    return scope(cfg) == 'mmseg' and _crop(cfg) is not None


def is_fixed(cfg: 'Config') -> bool:
    """Return whether all training images have one size."""
    steps = list(nested(cfg.get('train_dataloader')))
    distorted = any(step.get('type') == 'Resize' and not step.get('keep_ratio') for step in steps)
    return bool(_crop(cfg) or distorted or _preprocessor(cfg).get('size'))


def _preprocessor(cfg: 'Config') -> dict:
    return (cfg.get('model') or {}).get('data_preprocessor') or {}


def _crop(cfg: 'Config') -> Size | None:
    """Return the size that a step of the training pipeline crops or pads to; None if there is no such step."""
    for step in nested(cfg.get('train_dataloader')):
        if step.get('type') in CROPS and step.get('crop_type', 'absolute') == 'absolute':
            value = step.get('crop_size') or step.get('size') or step.get('img_scale')
            if value:
                pair = _pair(value)
                return pair[::-1] if scope(cfg) == 'mmseg' and step['type'] == 'RandomCrop' else pair
    return None


def _pipeline_size(steps: list[dict], crop: Size | None = None) -> Size | None:
    """Return the size that a pipeline crops, pads or else resizes to; the largest one of a range."""
    crops = [step for step in steps if step.get('type') in CROPS and step.get('crop_type', 'absolute') == 'absolute']
    fixed = [step.get('crop_size') or step.get('size') or step.get('img_scale') for step in crops]
    if crop or any(fixed):
        return crop or _pair(next(filter(None, fixed)))
    sizes = [
        _pair(value)
        for step in steps
        if step.get('type') in SCALES
        for key in ('scale', 'scales')
        for value in _sizes(step.get(key))
    ]
    return (max(w for w, _ in sizes), max(h for _, h in sizes)) if sizes else None


def _sizes(value: Any) -> Iterator[Any]:
    """Yield the sizes of a value: a number, a pair of numbers, or a list of those."""
    if isinstance(value, list | tuple) and (len(value) != 2 or not all(isinstance(side, int) for side in value)):
        yield from value
    elif value:
        yield value


def _pair(value: Any) -> Size:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _scale_step(step: dict, old: Size, new: Size, semantic: bool, cropped: bool) -> None:
    """Scale the sizes of one step of a pipeline."""
    uniform = min(new) / min(old)  # whole images around a crop keep their aspect ratio
    for key in KEYS:
        value = step.get(key)
        if not _is_size(value) or (key == 'size' and step.get('type') not in ('Pad', 'Resize')):
            continue
        flipped = semantic and key == 'crop_size'
        whole = semantic and cropped and key != 'crop_size' and step.get('type') not in CROPS
        bounds = step.get('crop_type') == 'absolute_range'  # smallest and largest side, not width and height
        factors = (uniform, uniform) if whole or bounds else (new[0] / old[0], new[1] / old[1])
        step[key] = _scale(value, factors[::-1] if flipped else factors)
    border = step.get('border')
    if step.get('type') == 'RandomAffine' and isinstance(border, list | tuple):  # cuts the image out of a mosaic
        step['border'] = [round(side * new[i] / old[i]) for i, side in enumerate(border[:2])]


def _is_size(value: Any) -> bool:
    """Return whether a value is a number of pixels, or a list of those; fractions are parts of an image."""
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_size(item) for item in value)
    return isinstance(value, int) and not isinstance(value, bool)


def _scale(value: Any, factors: tuple[float, float]) -> Any:
    """Scale a number, a pair of numbers, or a list of numbers or pairs; the kind of list stays."""
    if isinstance(value, int):
        return max(1, round(value * min(factors)))
    kind = type(value) if type(value) in (list, tuple) else list
    if len(value) == 2 and all(isinstance(side, int) for side in value):
        return kind(max(1, round(side * factor)) for side, factor in zip(value, factors, strict=True))
    return kind(_scale(item, factors) for item in value)


def _scale_model(cfg: 'Config', old: Size, new: Size) -> None:
    """Scale the sizes in the model: padding of batches, sliding windows and the anchors of SSD."""
    model = cfg.get('model') or {}
    preprocessor = _preprocessor(cfg)
    turned = (new[1] / old[1], new[0] / old[0])
    for part in (preprocessor, preprocessor.get('test_cfg') or {}):
        if part.get('size'):
            part['size'] = _scale(part['size'], turned)
    for part in preprocessor.get('batch_augments') or ():
        if part.get('size'):  # the size of training images, which need not be that of test images
            part['size'] = new[::-1]
        if part.get('random_size_range'):
            part['random_size_range'] = _scale(part['random_size_range'], (min(new) / min(old),) * 2)
    test = model.get('test_cfg') or {}
    for key in ('crop_size', 'stride'):
        if test.get('mode') == 'slide' and test.get(key):
            test[key] = _scale(test[key], turned)
    anchors = (model.get('bbox_head') or {}).get('anchor_generator') or {}
    if str(anchors.get('type')).endswith('SSDAnchorGenerator'):
        _set_anchors(model, anchors, min(new) / min(old), new)


def _set_anchors(model: dict, anchors: dict, factor: float, new: Size) -> None:
    """Set the anchors of SSD: their sides, and their distances, which are those of the cells of each feature map."""
    if not anchors.get('min_sizes'):
        raise InputError('--size: the anchors of this SSD are chosen for its own size; set min_sizes and max_sizes')
    for key in ('min_sizes', 'max_sizes'):
        anchors[key] = [max(1, round(side * factor)) for side in anchors[key]]
    neck = model.get('neck') or {}
    if neck.get('type') != 'SSDNeck':
        return
    levels = len(neck['in_channels'])  # of the backbone
    strides: list[Any] = list(anchors['strides'][:levels])
    cells = tuple(-(-side // strides[-1]) for side in new)
    for stride, padding in zip(neck['level_strides'], neck['level_paddings'], strict=True):
        cells = tuple((side + 2 * padding - 3) // stride + 1 for side in cells)  # a 3x3 convolution
        pair = tuple(round(side / cell) for side, cell in zip(new, cells, strict=True))
        strides.append(pair[0] if pair[0] == pair[1] else pair)
    anchors['strides'] = strides
