"""Checks and errors that the runtimes share."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.artifact.manifest import COPY, EXPORT_AGAIN, Manifest
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    import numpy as np

# Shapes of the outputs; letters stand for sizes that are equal in all of them. B, H and W are those of the images.
SHAPES = {
    'boxes': ('B', 'N', 4),
    'scores': ('B', 'N'),
    'labels': ('B', 'N'),
    'masks': ('B', 'N', 'h', 'w'),
    'count': ('B',),
    'seg': ('B', 'H', 'W'),
}
INTEGERS = ('labels', 'count', 'seg')


def require(module: str, extra: str) -> Any:
    """Import a module of a runtime.

    Args:
        module: name of the module.
        extra: extra of this package that installs it.

    Raises:
        InputError: it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f'this artifact needs {module.partition(".")[0]}, which cannot be imported ({first_line(error)}): '
            f'pip install "repvit_dense[{extra}]"'
        ) from error


def unreadable(path: Path, runtime: str, error: Exception) -> InputError:
    """Return the error for a model file that a runtime cannot load."""
    return InputError(f'{path}: {runtime} cannot load this file ({first_line(error)}); {COPY}')


def first_line(error: Exception) -> str:
    """Return the first line of an error message, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def check_names(path: Path, inputs: Sequence[str], outputs: Sequence[str], manifest: Manifest) -> None:
    """Refuse a model file whose inputs and outputs are not those of the manifest; a model may not need every input."""
    for kind, names, fits in (
        ('inputs', inputs, 'images' in inputs and set(inputs) <= manifest.inputs.keys()),
        ('outputs', outputs, set(outputs) == set(manifest.outputs)),
    ):
        if not fits:
            raise InputError(
                f'{path}: its {kind} are {", ".join(names) or "unnamed"}, those of the manifest '
                f'{", ".join(getattr(manifest, kind))}: model file and manifest do not belong together; {EXPORT_AGAIN}'
            )


def check_count(path: Path, values: Sequence, manifest: Manifest) -> None:
    """Refuse a model file with another number of outputs than the manifest."""
    if len(values) != len(manifest.outputs):
        raise InputError(
            f'{path}: it has {len(values)} outputs, the manifest {len(manifest.outputs)}: model file and manifest do '
            f'not belong together; {EXPORT_AGAIN}'
        )


def check_outputs(path: Path, outputs: 'dict[str, np.ndarray]', manifest: Manifest, images: Sequence[int]) -> None:
    """Refuse outputs that are missing or of an unexpected shape or type.

    Args:
        path: the model file.
        outputs: the outputs, by name.
        manifest: description of the artifact.
        images: shape of the input.
    """
    sizes: dict[str, int] = {'B': images[0], 'H': images[2], 'W': images[3]}
    for name in manifest.outputs:
        value = outputs.get(name)
        if value is None:
            raise InputError(f'{path}: it returned no {name}; {EXPORT_AGAIN}')
        expected = SHAPES[name]
        fits = value.ndim == len(expected) and value.dtype.kind == ('i' if name in INTEGERS else 'f')
        for side, size in zip(expected, value.shape, strict=False):
            fits = fits and size == (side if isinstance(side, int) else sizes.setdefault(side, size))
        if not fits:
            kind = 'integers' if name in INTEGERS else 'floating-point numbers'
            shape = ', '.join(str(sizes.get(str(side), side)) for side in expected)
            raise InputError(
                f'{path}: it returned {name} as {value.dtype} {value.shape}, expected {kind} ({shape}); {EXPORT_AGAIN}'
            )
