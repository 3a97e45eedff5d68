"""Draw predictions beside the ground truth while testing."""

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class DensePicturesHook(Hook):
    """A hook that draws ground truth beside prediction for every test image.

    It replaces mmseg's SegVisualizationHook, which can write to the log folder only. The arguments are named as in
    mmdet's DetVisualizationHook, so that a command can set them without knowing which of the two a config has.

    Args:
        draw: False makes the hook do nothing.
        test_out_dir: folder of the pictures, which are named like their images.
    """

    def __init__(self, draw: bool = False, test_out_dir: str | None = None):
        self.folder = Path(test_out_dir) if draw and test_out_dir else None

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Draw the images of one batch."""
        import mmcv

        if self.folder is None:
            return
        for sample in outputs:
            image = mmcv.imread(sample.img_path, channel_order='rgb')
            path = self.folder / Path(sample.img_path).name
            runner.visualizer.add_datasample(path.stem, image, sample.cpu(), out_file=str(path))
