"""Core ML on macOS."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.artifact.manifest import Manifest
from repvit_dense.artifact.runtimes.common import check_names, require, unreadable
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    import numpy as np


def load(path: Path, manifest: Manifest, threads: int | None) -> Callable:
    """Load a Core ML package; see `repvit_dense.artifact.runtimes.load`. `threads` has no effect."""
    if sys.platform != 'darwin':
        raise InputError(f'{path}: Core ML models run on macOS only; export for onnx or openvino to run it here')
    tools = require('coremltools', 'coreml')
    try:
        model = tools.models.MLModel(str(path), compute_units=tools.ComputeUnit.ALL)
        description = model.get_spec().description
    except Exception as error:  # its errors share no class
        raise unreadable(path, 'Core ML', error) from error
    inputs, outputs = ([part.name for part in parts] for parts in (description.input, description.output))
    check_names(path, inputs, outputs, manifest)
    as_image = any(part.type.WhichOneof('Type') == 'imageType' for part in description.input)

    def infer(images, img_hw):
        arrays = {'images': to_picture(images[0], manifest) if as_image else images, 'img_hw': img_hw}
        return model.predict({name: arrays[name] for name in inputs})

    return infer


def to_picture(image: 'np.ndarray', manifest: Manifest) -> Any:
    """Undo the normalisation of an input `(3, H, W)` for a model that takes a PIL image and normalises it itself."""
    import numpy as np
    from PIL import Image

    mean, std = (np.array(manifest.preprocess[name])[:, None, None] for name in ('mean', 'std'))
    return Image.fromarray(np.rint(image * std + mean).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
