"""Draw the first training batches as the model sees them, so that a wrong label map or box format is seen at once."""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from repvit_dense.artifact.draw import draw
from repvit_dense.artifact.images import warn
from repvit_dense.artifact.pictures import write_picture
from repvit_dense.engine.results import ground_truth
from repvit_dense.engine.tensorboard import add_image

FOLDER = 'batches'
BATCHES, IMAGES = 4, 16  # that are drawn at most, together
SIDE = 1600  # pixels of a picture


@HOOKS.register_module()
class DenseBatchesHook(Hook):
    """A hook that draws the first batches of a training into `batches/1.jpg` and so on, before they are trained on.

    They are those of the training itself, after augmentation, so no random number is drawn for them. A resumed training
    draws none. If a batch cannot be drawn, a line says so and the training goes on.
    """

    priority = 'VERY_LOW'

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Draw the batch of this iteration if it is one of the first."""
        number = runner.iter + 1
        if number > BATCHES or not is_main_process() or not _is_drawable(runner, data_batch):
            return
        path = Path(runner.work_dir, FOLDER, f'{number}.jpg')
        try:
            left = IMAGES - runner.iter * len(data_batch['inputs'])
            if left <= 0:
                return
            picture = mosaic(data_batch, runner.train_dataloader.dataset.metainfo, left)
            path.parent.mkdir(exist_ok=True)
            write_picture(path, picture)
            add_image(runner, f'train/batch/{number}', path)
        except Exception as error:  # the picture is not worth a training
            warn(f'{path}: the batch cannot be drawn ({type(error).__name__}: {error})')
            return
        if number == 1:
            note = f'Pictures of the first batches, to check labels and boxes: {path.parent}'
            runner.logger.info(note, extra={'screen': True})


def _is_drawable(runner, batch: Any) -> bool:
    """Return whether this is a batch of mmdet or mmseg, of data with class names."""
    meta = getattr(runner.train_dataloader.dataset, 'metainfo', {})
    return isinstance(batch, dict) and isinstance(batch.get('inputs'), list | tuple) and bool(meta.get('classes'))


def mosaic(batch: Any, meta: dict, count: int) -> np.ndarray:
    """Return a picture of the images of a batch with their labels, BGR.

    Args:
        batch: `inputs` and `data_samples`, before the data preprocessor of the model.
        meta: class names and colours of the data.
        count: number of images at most.
    """
    names, palette = list(meta['classes']), meta.get('palette')
    palette = palette if isinstance(palette, list | tuple) and len(palette) >= len(names) else None
    pairs = list(zip(batch['inputs'], batch['data_samples'], strict=True))[:count]
    columns = math.ceil(math.sqrt(len(pairs)))
    side = SIDE // columns
    tiles = []
    for image, sample in pairs:
        pixels = _to_pixels(image.cpu().numpy())
        drawn = draw(pixels, ground_truth(sample.cpu(), len(names)), names, palette)
        scale = min(side / drawn.shape[0], side / drawn.shape[1], 1)
        size = [max(1, round(length * scale)) for length in drawn.shape[1::-1]]
        drawn = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA) if scale < 1 else drawn
        tiles.append(drawn)
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    rows = math.ceil(len(tiles) / columns)
    canvas = np.full((rows * (height + 4), columns * (width + 4), 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + 4), i % columns * (width + 4)
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def _to_pixels(image: np.ndarray) -> np.ndarray:
    """Convert `(3, H, W)` BGR to `(H, W, 3)` uint8; stretch the values of an image that is normalised already."""
    if image.shape[0] != 3:
        image = np.repeat(image[:1], 3, axis=0)
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0))
