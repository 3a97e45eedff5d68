"""OpenVINO on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from repvit_dense.artifact.manifest import Manifest
from repvit_dense.artifact.runtimes.common import check_names, require, unreadable
from repvit_dense.compat.signal_stack import keep_signal_stack


@keep_signal_stack()
def load(path: Path, manifest: Manifest, threads: int | None) -> Callable:
    """Load an OpenVINO file; see `repvit_dense.artifact.runtimes.load`."""
    runtime = require('openvino', 'openvino')
    # On a CPU with bfloat16 OpenVINO would compute in it, and results would depend on the machine.
    options: dict[str, Any] = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
    if threads:
        options['INFERENCE_NUM_THREADS'] = threads
    try:
        compiled = runtime.Core().compile_model(str(path), 'CPU', options)
        inputs = [port.any_name for port in compiled.inputs]
        outputs = {name: port for port in compiled.outputs for name in port.names if name in manifest.outputs}
    except RuntimeError as error:
        raise unreadable(path, 'OpenVINO', error) from error
    check_names(path, inputs, list(outputs), manifest)

    def infer(images: np.ndarray, img_hw: np.ndarray) -> dict[str, np.ndarray]:
        arrays = {'images': images, 'img_hw': img_hw}
        values = compiled({name: arrays[name] for name in inputs})
        return {name: values[port] for name, port in outputs.items()}

    return infer
