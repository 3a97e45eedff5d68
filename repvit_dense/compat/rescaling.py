"""Let mmcv resize every image to at least one pixel per side.

A strip of 20000x2 pixels, reduced to a width of 256, would have no height, and the error would end the run. An artifact
resizes in the same way, see `artifact.preprocess`.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def patched() -> Iterator[None]:
    """Replace the function of mmcv that scales a size inside the context; may be nested."""
    from mmcv.image import geometric

    original = geometric._scale_size

    def scale_size(size, scale):
        width, height = original(size, scale)
        return max(1, width), max(1, height)

    geometric._scale_size = scale_size
    try:
        yield
    finally:
        geometric._scale_size = original
