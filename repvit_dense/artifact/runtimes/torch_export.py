"""torch.export programs in PyTorch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from repvit_dense.artifact.manifest import Manifest
from repvit_dense.artifact.runtimes.common import check_count, require, unreadable


def load(path: Path, manifest: Manifest, threads: int | None) -> Callable:
    """Load a `.pt2` file; see `repvit_dense.artifact.runtimes.load`."""
    torch = require('torch', 'torch')
    require('torchvision', 'torch')  # registers RoIAlign and NMS
    require('repvit_dense.exporting.graphs.ops', 'torch')  # registers this package's operators
    if threads:
        torch.set_num_threads(threads)
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # its errors share no class
        raise unreadable(path, 'torch', error) from error

    def infer(images: np.ndarray, img_hw: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            values = module(torch.from_numpy(images), torch.from_numpy(img_hw))
        check_count(path, values, manifest)
        return {name: value.numpy() for name, value in zip(manifest.outputs, values, strict=True)}

    return infer
