"""Images that calibrate int8, and that artifact and model are compared on."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError
from repvit_dense.files import is_folder

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config

    Batch = tuple[np.ndarray, np.ndarray]  # images (B, 3, H, W) and img_hw (B, 2), both float32

BATCHES = 3  # that artifact and model are compared on
CALIBRATION = 100  # images, unless the user names another number


def dataset_images(cfg: 'Config', split: str, count: int) -> 'Iterator[np.ndarray]':
    """Yield up to `count` images `(H, W, 3)` uint8 BGR, spread evenly over a split of the config's data set.

    Unreadable images are skipped with a warning; a missing folder yields nothing.
    """
    from repvit_dense import config
    from repvit_dense.artifact.images import read_image, warn
    from repvit_dense.data.reading import images_in

    if not cfg.get(f'{split}_dataloader'):
        return
    dataset = next(config.datasets(cfg[f'{split}_dataloader'].dataset))
    prefix = dataset.get('data_prefix') or {}
    folder = Path(dataset.get('data_root') or '', prefix.get('img', prefix.get('img_path', '')))
    paths = images_in(folder) if is_folder(folder) else []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        try:
            yield read_image(path)
        except InputError as error:
            warn(f'{error}; skipped')


def drawn_images(count: int) -> 'list[np.ndarray]':
    """Draw images `(480, 640, 3)` uint8 of smooth noise and sharp rectangles; the same ones on every call."""
    import cv2
    import numpy as np

    random = np.random.default_rng(0)
    drawn = []
    for _ in range(count):
        image = cv2.resize(random.integers(0, 256, (12, 16, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
        for _ in range(12):
            (x, y), sides = random.integers(0, (600, 440)), random.integers(20, 200, 2)
            colour = [int(level) for level in random.integers(0, 256, 3)]
            cv2.rectangle(image, (int(x), int(y)), (int(x + sides[0]), int(y + sides[1])), colour, -1)
        drawn.append(image)
    return drawn


def compared_shapes(
    batch: int, size: tuple[int, int], dynamic: tuple[str, ...], divisor: int, smallest: int
) -> list[tuple[int, tuple[int, int]]]:
    """Return batch size and (height, width) of each compared batch; dynamic axes vary between batches.

    Args:
        batch: batch size of the export.
        size: height and width of the export in pixels.
        dynamic: dynamic axes, from `targets.DYNAMIC`.
        divisor: sides are multiples of it.
        smallest: no side is below it.
    """
    counts = [batch, *range(2, BATCHES + 1)] if 'batch' in dynamic else [batch] * BATCHES
    height, width = size
    varied = [size, (height + divisor, width), (height, max(smallest, width - divisor))]
    return list(zip(counts, varied if 'size' in dynamic else [size] * BATCHES, strict=True))


def make_batches(images: 'list[np.ndarray]', recipe: dict, shapes: list[tuple[int, tuple[int, int]]]) -> 'list[Batch]':
    """Return one preprocessed batch per shape; the images are used in turn, repeatedly if there are too few.

    Args:
        images: `(H, W, 3)` uint8 in BGR order.
        recipe: as `preprocess.from_config` returns it.
        shapes: batch size and (height, width) of each batch.
    """
    import numpy as np

    from repvit_dense.artifact import preprocess

    supply, batches = itertools.cycle(images), []
    for count, size in shapes:
        prepared = [preprocess.apply(next(supply), recipe, size) for _ in range(count)]
        batches.append((np.stack([image for image, _ in prepared]), np.array([hw for _, hw in prepared], np.float32)))
    return batches
