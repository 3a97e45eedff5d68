"""One call for every runtime: arrays in, named arrays out. Only the runtime that an artifact asks for is imported."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.artifact.manifest import AGAIN, Manifest
from repvit_dense.compat.signal_stack import kept_signal_stack
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


def load(folder: str | Path, manifest: Manifest, threads: int | None = None) -> 'Run':
    """The model of an artifact, ready to run on this machine's CPU.

    A `.pt2` or `.pte` file is a program: load only one whose origin you trust.

    Args:
        folder: of the artifact.
        manifest: what `manifest.read` gives for it.
        threads: how many the runtime may use; None leaves that to it. torch and ExecuTorch count for the whole process.

    Returns:
        `run(images, img_hw)`: `(B, 3, H, W)` and `(B, 2)` float32 -> name -> array, float32 or int32, as in
        `repvit_dense.exporting.graphs.base.Graph.forward`. It raises InputError where a shape or a type is not the
        artifact's.

    Raises:
        InputError: a runtime that is not installed (with the command that installs it), a model file that it cannot
            read, or that is not the one of the manifest.
    """
    if threads is not None and threads < 1:
        raise InputError(f'--threads {threads}: must be 1 or more')
    path = Path(folder, manifest.model)
    infer = LOADERS[manifest.target](path, manifest, threads)

    def run(images: 'np.ndarray', img_hw: 'np.ndarray') -> 'dict[str, np.ndarray]':
        _check_inputs(path, manifest, {'images': images, 'img_hw': img_hw})
        try:
            found = infer(images, img_hw)
        except InputError:
            raise
        except Exception as error:  # their errors share no class
            raise InputError(f'{path}: {manifest.target} cannot run this model ({_line(error)})') from error
        return {name: _plain(value) for name, value in found.items()}

    return run


def _check_inputs(path: Path, manifest: Manifest, given: 'dict[str, np.ndarray]') -> None:
    divisor, open_sizes = manifest.preprocess['divisor'], {}
    for name, array in given.items():
        wanted = manifest.inputs[name]
        shape = ' x '.join(map(str, wanted))
        if array.dtype != 'float32':
            raise InputError(f'{path}: {name} must be float32, got {array.dtype}')
        fits = array.ndim == len(wanted)
        for side, number in zip(wanted, array.shape, strict=False):
            fits = fits and number == (side if isinstance(side, int) else open_sizes.setdefault(side, number))
        if not fits:
            raise InputError(f'{path}: {name} must be {shape}, got {" x ".join(map(str, array.shape))}')
    sides = given['images'].shape[2:]
    if any(side < 1 or side % divisor for side in sides):
        raise InputError(f'{path}: images must have sides that are multiples of {divisor} pixels, got {sides}')


def _plain(value: Any) -> 'np.ndarray':
    """float32 or int32, whatever a format keeps its numbers as."""
    import numpy as np

    value = np.asarray(value)
    return value.astype(np.float32 if value.dtype.kind == 'f' else np.int32, copy=False)


def _import(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f'this artifact needs {name.partition(".")[0]}, which cannot be imported ({_line(error)}): '
            f'pip install "repvit_dense[{extra}]"'
        ) from error


def _unreadable(path: Path, runtime: str, error: Exception) -> InputError:
    return InputError(f'{path}: {runtime} cannot load this file ({_line(error)}); copy the artifact anew, or {AGAIN}')


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def _check_names(path: Path, inputs: Sequence[str], outputs: Sequence[str], manifest: Manifest) -> None:
    """The model file must be the one that the manifest was written for; a model may not need every input."""
    for what, found, fits in (
        ('inputs', inputs, 'images' in inputs and set(inputs) <= manifest.inputs.keys()),
        ('outputs', outputs, set(outputs) == set(manifest.outputs)),
    ):
        if not fits:
            raise InputError(
                f'{path}: its {what} are {", ".join(found) or "nameless"}, the manifest says '
                f'{", ".join(getattr(manifest, what))}: they do not belong together; {AGAIN}'
            )


def _check_count(path: Path, values: Sequence, manifest: Manifest) -> None:
    if len(values) != len(manifest.outputs):
        raise InputError(
            f'{path}: it gives {len(values)} outputs, the manifest names {len(manifest.outputs)}: they do not belong '
            f'together; {AGAIN}'
        )


# --- runtimes ---------------------------------------------------------------------------------------------------------


def _onnx(path: Path, manifest: Manifest, threads: int | None) -> Callable:
    runtime = _import('onnxruntime', 'onnx')
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors, which are raised as well; warnings are about the graph, not for the user
    try:
        session = runtime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:  # its errors share no class
        raise _unreadable(path, 'ONNX Runtime', error) from error
    inputs, outputs = ([part.name for part in parts] for parts in (session.get_inputs(), session.get_outputs()))
    _check_names(path, inputs, outputs, manifest)

    def infer(images, img_hw):
        given = {'images': images, 'img_hw': img_hw}
        return dict(zip(outputs, session.run(outputs, {name: given[name] for name in inputs}), strict=True))

    return infer


@kept_signal_stack()
def _openvino(path: Path, manifest: Manifest, threads: int | None) -> Callable:
    runtime = _import('openvino', 'openvino')
    # A CPU with bfloat16 would otherwise compute in it, and results would depend on the machine.
    options = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
    if threads:
        options['INFERENCE_NUM_THREADS'] = threads
    try:
        compiled = runtime.Core().compile_model(str(path), 'CPU', options)
        inputs = [port.any_name for port in compiled.inputs]
        outputs = {name: port for port in compiled.outputs for name in port.names if name in manifest.outputs}
    except RuntimeError as error:
        raise _unreadable(path, 'OpenVINO', error) from error
    _check_names(path, inputs, list(outputs), manifest)

    def infer(images, img_hw):
        given = {'images': images, 'img_hw': img_hw}
        found = compiled({name: given[name] for name in inputs})
        return {name: found[port] for name, port in outputs.items()}

    return infer


def _executorch(path: Path, manifest: Manifest, threads: int | None) -> Callable:
    runtime = _import('executorch.runtime', 'executorch')
    torch = _import('torch', 'executorch')
    if threads:
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(threads)
    try:
        program = runtime.Runtime.get().load_program(path.read_bytes())
        method = program.load_method('forward')
        count = method.metadata.num_inputs()
    except Exception as error:  # its errors share no class
        raise _unreadable(path, 'ExecuTorch', error) from error

    def infer(images, img_hw):
        given = [torch.from_numpy(part).contiguous() for part in (images, img_hw)]
        values = method.execute(given[:count])
        _check_count(path, values, manifest)
        return {name: value.numpy().copy() for name, value in zip(manifest.outputs, values, strict=True)}

    infer.program = program  # the method reads its memory
    return infer


def _torch(path: Path, manifest: Manifest, threads: int | None) -> Callable:
    torch = _import('torch', 'torch')
    _import('torchvision', 'torch')  # these two register the operators of detectors, RoIAlign and NMS
    _import('repvit_dense.exporting.graphs.ops', 'torch')
    if threads:
        torch.set_num_threads(threads)
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # its errors share no class
        raise _unreadable(path, 'torch', error) from error

    def infer(images, img_hw):
        with torch.inference_mode():
            values = module(torch.from_numpy(images), torch.from_numpy(img_hw))
        _check_count(path, values, manifest)
        return {name: value.numpy() for name, value in zip(manifest.outputs, values, strict=True)}

    return infer


def _coreml(path: Path, manifest: Manifest, threads: int | None) -> Callable:
    import sys

    if sys.platform != 'darwin':
        raise InputError(f'{path}: Core ML models run on macOS only; export for onnx or openvino to run it here')
    tools = _import('coremltools', 'coreml')
    try:
        model = tools.models.MLModel(str(path), compute_units=tools.ComputeUnit.ALL)
        description = model.get_spec().description
    except Exception as error:  # its errors share no class
        raise _unreadable(path, 'Core ML', error) from error
    inputs, outputs = ([part.name for part in parts] for parts in (description.input, description.output))
    _check_names(path, inputs, outputs, manifest)
    as_image = any(part.type.WhichOneof('Type') == 'imageType' for part in description.input)

    def infer(images, img_hw):
        given = {'images': _picture(images[0], manifest) if as_image else images, 'img_hw': img_hw}
        return model.predict({name: given[name] for name in inputs})

    return infer


def _picture(image: 'np.ndarray', manifest: Manifest) -> Any:
    """A Core ML model that takes pictures normalises by itself: the picture that `image` was made from."""
    import numpy as np
    from PIL import Image

    mean, std = (np.array(manifest.preprocess[name])[:, None, None] for name in ('mean', 'std'))
    return Image.fromarray(np.rint(image * std + mean).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


LOADERS = {'onnx': _onnx, 'openvino': _openvino, 'executorch': _executorch, 'torch': _torch, 'coreml': _coreml}
