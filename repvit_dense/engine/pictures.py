"""Draw predictions beside the ground truth while testing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from repvit_dense.artifact.draw import draw
from repvit_dense.artifact.images import read_image, warn
from repvit_dense.artifact.pictures import PICTURE, output_names, write_picture
from repvit_dense.engine.results import arrays, ground_truth
from repvit_dense.errors import InputError

LINE = 4  # pixels between two pictures


@HOOKS.register_module()
class DensePicturesHook(Hook):
    """A hook that draws ground truth (left) beside prediction (right) for every test image.

    It replaces mmdet's DetVisualizationHook, with which images of one name in several folders share a picture, and
    mmseg's SegVisualizationHook, which can write to the log folder only.

    Args:
        draw: False makes the hook do nothing.
        test_out_dir: folder of the pictures, which are named like their images, see `output_names`.
    """

    def __init__(self, draw: bool = False, test_out_dir: str | None = None):
        self.folder = Path(test_out_dir) if draw and test_out_dir else None
        self._names: dict[str, str] = {}

    def before_test_epoch(self, runner) -> None:
        """Name the pictures of all images: every process of a distributed test finds the same names."""
        if self.folder is None:
            return
        dataset = runner.test_dataloader.dataset
        paths = list(dict.fromkeys(dataset.get_data_info(index)['img_path'] for index in range(len(dataset))))
        self.folder.mkdir(parents=True, exist_ok=True)
        names = output_names([Path(path) for path in paths], self.folder)
        self._names = dict(zip(paths, names, strict=True))

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Draw the images of one batch.

        Raises:
            InputError: a picture cannot be written.
        """
        if self.folder is None:
            return
        meta = runner.test_dataloader.dataset.metainfo
        for sample in outputs:
            path = self.folder / (self._names[sample.img_path] + PICTURE)
            try:
                write_picture(path, _draw_both(sample.cpu(), list(meta['classes']), meta.get('palette')))
            except OSError as error:
                raise InputError(f'{path}: cannot be written ({error.strerror})') from error
            except Exception as error:
                warn(f'{sample.img_path}: no picture, it cannot be drawn ({type(error).__name__}: {error})')

    def pictures(self) -> dict[Path, str]:
        """Return the written pictures with the path of their images."""
        files = {self.folder / (name + PICTURE): path for path, name in self._names.items()} if self.folder else {}
        return {file: path for file, path in files.items() if file.exists()}


def _draw_both(sample, names: list[str], palette) -> np.ndarray:
    """Draw the ground truth and the prediction of a data sample side by side, BGR uint8."""
    image = read_image(sample.img_path)
    palette = palette if isinstance(palette, list | tuple) and len(palette) >= len(names) else None
    sides = [convert(sample, len(names)) for convert in (ground_truth, arrays)]
    return side_by_side([draw(image, side, names, palette) for side in sides])


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return pictures of the same height in a row, with white lines between them."""
    line = np.full((len(pictures[0]), LINE, 3), 255, np.uint8)
    return np.hstack([part for picture in pictures for part in (line, picture)][1:])
