"""Let mmcv resize every image to at least one pixel per side.

A strip of 20000x2 pixels, reduced to a width of 256, would have no height, and the error would end the run. An artifact
resizes in the same way, see `artifact.preprocess`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


def install() -> Callable:
    """Replace the function of mmcv that scales a size; return the one before."""
    from mmcv.image import geometric

    original = geometric._scale_size

    def scale_size(size: tuple[int, int], scale: float | tuple[float, float]) -> tuple[int, int]:
        width, height = original(size, scale)
        return max(1, width), max(1, height)

    geometric._scale_size = scale_size
    return original


@contextmanager
def patched() -> Iterator[None]:
    """Replace the function inside the context; may be nested."""
    original = install()
    try:
        yield
    finally:
        from mmcv.image import geometric

        geometric._scale_size = original
