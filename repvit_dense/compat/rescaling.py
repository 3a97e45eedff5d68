"""Let mmcv resize every image to at least one pixel per side.

A strip of 20000x2 pixels, reduced to a width of 256, would have no height, and the error would end the run. An artifact
resizes in the same way, see `artifact.preprocess`.
"""

import threading
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


_lock, _users, _replaced = threading.Lock(), 0, None


@contextmanager
def patched() -> Iterator[None]:
    """Replace the function inside the context; may be nested, and entered by several threads."""
    global _users, _replaced  # noqa: PLW0603  the last one to leave restores the function
    with _lock:
        _replaced = _replaced if _users else install()
        _users += 1
    try:
        yield
    finally:
        from mmcv.image import geometric

        with _lock:
            _users -= 1
            if not _users:
                geometric._scale_size = _replaced
