"""Input sizes: the default of a config, and the sizes that a model can be exported at. All in pixels."""

import math
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError
from repvit_dense.image_header import MAX_PIXELS

if TYPE_CHECKING:
    from mmengine.config import Config


def default_size(recipe: dict) -> tuple[int, int]:
    """Return the height and width that most images have after the test pipeline, rounded up to the divisor.

    If the pipeline keeps the aspect ratio, this is the widest image within its limits, but at most 4:3 if the limit of
    the longer side is more than twice that of the shorter one: such a limit is rarely reached.

    Args:
        recipe: as `preprocess.from_config` returns it.

    Raises:
        InputError: the pipeline sets no size.
    """
    limits = recipe['pad_to'] or recipe['scale']
    if limits is None:
        raise InputError('the test pipeline sets no image size; name one: --size H W')
    width, height = limits
    if recipe['keep_ratio'] and not recipe['pad_to']:
        height, width = sorted((height, width))
        width = width if width <= 2 * height else -(-4 * height // 3)
    return tuple(-(-side // recipe['divisor']) * recipe['divisor'] for side in (height, width))


def coarsest_stride(cfg: 'Config') -> int:
    """Return the stride of the coarsest feature map that has anchors, or 1 for a model without anchors."""
    neck, head = cfg.model.get('neck') or {}, cfg.model.get('rpn_head') or cfg.model.get('bbox_head') or {}
    strides = (head.get('anchor_generator') or {}).get('strides', [1])
    if neck.get('type') == 'SSDNeck':  # on the levels it adds, anchors are closer together than pixels
        return strides[len(neck['in_channels']) - 1] * math.prod(neck['level_strides'])
    return max(strides)


def smallest_dynamic_side(stride: int, divisor: int) -> int:
    """Return the smallest side at which a model with a dynamic size can be traced.

    A level of `ceil(side / stride) == 1` pixel would be traced as a constant. Levels up to the stride `divisor` are
    safe: the traced example is at least two of their pixels wide.
    """
    return divisor if stride <= divisor else (stride // divisor + 1) * divisor


def check_size(size: tuple[int, int], divisor: int) -> None:
    """Raise InputError if height or width is not a multiple of `divisor`."""
    if any(side < divisor or side % divisor for side in size):
        nearest = [max(divisor, -(-side // divisor) * divisor) for side in size]
        raise InputError(
            f'--size {size[0]} {size[1]}: height and width must be multiples of {divisor} pixels; '
            f'the next are {nearest[0]} {nearest[1]}'
        )


def check_pixels(size: tuple[int, int], batch: int) -> None:
    """Raise InputError if a batch has more pixels than any loader accepts in one image."""
    if batch * size[0] * size[1] > MAX_PIXELS:
        raise InputError(
            f'--size {size[0]} {size[1]} --batch {batch}: more than {MAX_PIXELS:,} pixels in a batch; choose less'
        )


def check_dynamic_size(size: tuple[int, int], smallest: int) -> None:
    """Raise InputError if height or width is below the smallest side of a dynamic size."""
    if min(size) < smallest:
        raise InputError(
            f'--size {size[0]} {size[1]} --dynamic size: below {smallest} pixels a side, the coarsest feature map of '
            f'this model is a single pixel, which cannot be dynamic; use '
            f'--size {max(size[0], smallest)} {max(size[1], smallest)}'
        )
