"""Run the model file of an artifact: arrays in, named arrays out. Only the runtime that the artifact needs is imported.

Every runtime is a module here with `load(path, manifest, threads)`; `repvit_dense.artifact.targets` names it.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.artifact.manifest import Manifest, check_files
from repvit_dense.artifact.runtimes.common import check_outputs, first_line
from repvit_dense.artifact.targets import TARGETS
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


def load(folder: str | Path, manifest: Manifest, threads: int | None = None) -> 'Run':
    """Load the model of an artifact on the CPU.

    A `.pt2` or `.pte` file is a program: load it only if you trust its origin.

    Args:
        folder: folder of the artifact.
        manifest: its manifest, from `manifest.read`.
        threads: CPU threads of the runtime; None lets the runtime decide. For torch and ExecuTorch the number holds
            for the whole process.

    Returns:
        `run(images, img_hw)`, which maps `(B, 3, H, W)` and `(B, 2)` float32 to arrays by name, float32 or int32, as
        described in `repvit_dense.exporting.graphs.base.Graph.forward`. It raises InputError if a shape or a type of
        an input or output does not fit the artifact.

    Raises:
        InputError: a file is not the exported one, see `manifest.check_files`; or the runtime is not installed (the
            message has the command that installs it), cannot read the model file, or the model file does not belong to
            the manifest.
    """
    if threads is not None and threads < 1:
        raise InputError(f'--threads {threads}: must be 1 or more')
    path = Path(folder, manifest.model)
    check_files(folder, manifest)
    runtime = importlib.import_module(f'{__name__}.{TARGETS[manifest.target].module}')
    infer = runtime.load(path, manifest, threads)

    def run(images: 'np.ndarray', img_hw: 'np.ndarray') -> 'dict[str, np.ndarray]':
        _check_inputs(path, manifest, {'images': images, 'img_hw': img_hw})
        try:
            outputs = infer(images, img_hw)
        except InputError:
            raise
        except Exception as error:  # runtimes share no class of errors
            raise InputError(f'{path}: {manifest.target} cannot run this model ({first_line(error)})') from error
        outputs = {name: _to_32_bits(value) for name, value in outputs.items() if name in manifest.outputs}
        check_outputs(path, outputs, manifest, images.shape)
        return outputs

    return run


def _check_inputs(path: Path, manifest: Manifest, arrays: 'dict[str, np.ndarray]') -> None:
    divisor = manifest.preprocess['divisor']
    open_sizes: dict[str, int] = {}
    for name, array in arrays.items():
        expected = manifest.inputs[name]
        shape = ' x '.join(map(str, expected))
        if array.dtype != 'float32':
            raise InputError(f'{path}: {name} must be float32, got {array.dtype}')
        fits = array.ndim == len(expected)
        for side, size in zip(expected, array.shape, strict=False):
            fits = fits and size == (side if isinstance(side, int) else open_sizes.setdefault(side, size))
        if not fits:
            raise InputError(f'{path}: {name} must be {shape}, got {" x ".join(map(str, array.shape))}')
    sides = arrays['images'].shape[2:]
    if any(side < 1 or side % divisor for side in sides):
        raise InputError(f'{path}: images must have sides that are multiples of {divisor} pixels, got {sides}')


def _to_32_bits(value: Any) -> 'np.ndarray':
    """Convert an output of any format to float32 or int32; one of another type stays as it is, to be refused."""
    import numpy as np

    value = np.asarray(value)
    if value.dtype.kind == 'f':
        return value.astype(np.float32, copy=False)
    if value.dtype.kind not in 'iu':
        return value
    if value.dtype.itemsize > 4:
        value = value.clip(-(2**31), 2**31 - 1)  # larger labels would wrap to valid ones
    return value.astype(np.int32, copy=False)
