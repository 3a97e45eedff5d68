"""ExecuTorch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from repvit_dense.artifact.manifest import Manifest
from repvit_dense.artifact.runtimes.common import check_count, require, unreadable


def load(path: Path, manifest: Manifest, threads: int | None) -> Callable:
    """Load a `.pte` file; see `repvit_dense.artifact.runtimes.load`."""
    runtime = require('executorch.runtime', 'executorch')
    torch = require('torch', 'executorch')
    if threads:
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(threads)
    try:
        program = runtime.Runtime.get().load_program(path.read_bytes())
        method = program.load_method('forward')
        count = method.metadata.num_inputs()
    except Exception as error:  # its errors share no class
        raise unreadable(path, 'ExecuTorch', error) from error

    def infer(images: np.ndarray, img_hw: np.ndarray) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(part).contiguous() for part in (images, img_hw)]
        values = method.execute(tensors[:count])
        check_count(path, values, manifest)
        return {name: value.numpy().copy() for name, value in zip(manifest.outputs, values, strict=True)}

    vars(infer)['program'] = program  # the method reads its memory
    return infer
