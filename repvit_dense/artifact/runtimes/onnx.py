"""ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from repvit_dense.artifact.manifest import Manifest
from repvit_dense.artifact.runtimes.common import check_names, require, unreadable


def load(path: Path, manifest: Manifest, threads: int | None) -> Callable:
    """Load an ONNX file; see `repvit_dense.artifact.runtimes.load`."""
    runtime = require('onnxruntime', 'onnx')
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors; warnings are about the graph and do not help the user
    try:
        session = runtime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:  # its errors share no class
        raise unreadable(path, 'ONNX Runtime', error) from error
    inputs, outputs = ([part.name for part in parts] for parts in (session.get_inputs(), session.get_outputs()))
    check_names(path, inputs, outputs, manifest)

    def infer(images: np.ndarray, img_hw: np.ndarray) -> dict[str, np.ndarray]:
        arrays = {'images': images, 'img_hw': img_hw}
        return dict(zip(outputs, session.run(outputs, {name: arrays[name] for name in inputs}), strict=True))

    return infer
