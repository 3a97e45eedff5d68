"""Add pictures to the log of TensorBoard, beside the scalars that mmengine writes."""

from pathlib import Path

from mmengine.visualization import TensorboardVisBackend

from repvit_dense.artifact.images import read_image


def add_image(runner, name: str, path: Path) -> None:
    """Add an image file under a name at the current iteration; do nothing if the run has no TensorBoard log."""
    for backend in runner.visualizer._vis_backends.values():
        if isinstance(backend, TensorboardVisBackend) and path.exists():
            step = (
                runner.iter if getattr(runner, '_train_loop', None) and not isinstance(runner._train_loop, dict) else 0
            )
            backend.add_image(name, read_image(path)[..., ::-1], step)
