"""What counts as an image in a folder, and masks in COCO's compressed form."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def images_in(folder: Path) -> list[Path]:
    """All images in a folder and below, sorted."""
    return sorted(path for path in folder.rglob('*') if path.suffix.lower() in SUFFIXES)


def run_lengths(mask: 'np.ndarray') -> dict:
    """A binary mask `(H, W)` as COCO's run lengths, ready for JSON: `size` and `counts`."""
    import numpy as np  # here, not above: `--help` reads SUFFIXES and needs no array
    from pycocotools import mask as codec

    encoded = codec.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {'size': list(encoded['size']), 'counts': encoded['counts'].decode()}
