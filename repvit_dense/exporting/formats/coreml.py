"""Core ML: an ML Program for iOS 16 and macOS 13 or later, with an image as input.

The input `images` is of Core ML's image type, RGB from 0 to 255; the model normalises it and zeroes the padding, which
begins at the height and width in `img_hw`.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError
from repvit_dense.exporting.formats import torch_export
from repvit_dense.exporting.graphs import COORDINATE_MODULES

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from repvit_dense.exporting.formats import FileOptions
    from repvit_dense.exporting.graphs.base import Graph

INTEGERS = ('labels', 'count', 'seg')  # outputs
LAYER = 'layer'


def write(graph: 'Graph', path: Path, options: 'FileOptions') -> None:
    """Write a `.mlpackage` folder, with class names and preprocessing in its metadata."""
    import coremltools as ct
    import numpy as np

    size, batch, preprocess = options.size, options.batch, options.preprocess or {}
    program = torch_export.capture(from_pixels(graph, preprocess['mean'], preprocess['std']), size, batch)
    program = program.run_decompositions(_decompositions())
    prepare(program)
    types = {name: np.int32 if name in INTEGERS else np.float32 for name in graph.outputs}
    half = ct.transform.FP16ComputePrecision(op_selector=_is_of_layer)
    model = ct.convert(
        program,
        inputs=[
            ct.ImageType(name='images', shape=(batch, 3, *size), color_layout=ct.colorlayout.RGB),
            ct.TensorType(name='img_hw', shape=(batch, 2), dtype=np.float32),
        ],
        outputs=[ct.TensorType(name=name, dtype=kind) for name, kind in types.items()],
        convert_to='mlprogram',
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=half if options.precision == 'fp16' else ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.user_defined_metadata['classes'] = json.dumps(list(options.classes))
    model.user_defined_metadata['preprocess'] = json.dumps(preprocess)
    model.save(str(path))
    check_saved(path, size, types)


def _decompositions() -> dict:
    """Return replacements for the operators that coremltools lacks."""
    import torch

    aten = torch.ops.aten

    def product(x, dim, keepdim=False, *, dtype=None):  # of two numbers, a width and a height
        return functools.reduce(torch.mul, x.split(1, dim)) if keepdim else functools.reduce(torch.mul, x.unbind(dim))

    return {
        aten.__and__.Tensor: aten.bitwise_and.Tensor,
        aten.__or__.Tensor: aten.bitwise_or.Tensor,
        aten.prod.dim_int: product,
    }


def prepare(program: 'ExportedProgram') -> None:
    """Remove operators without effect, and mark each of the others as part of a layer or of the graph, in place.

    The mark replaces the stack trace, which coremltools copies to every operator that it derives from this one.
    """
    import torch

    for node in list(program.graph.nodes):
        if node.target == torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
        elif node.op == 'call_function':
            modules = [kind.rpartition('.')[2] for _, kind in node.meta.get('nn_module_stack', {}).values()]
            # The first two are `FromPixels` and the graph.
            is_layer = len(modules) > 2 and modules[-1] not in COORDINATE_MODULES
            node.meta['stack_trace'] = LAYER if is_layer else 'graph'
    program.graph_module.recompile()


def _is_of_layer(operation) -> bool:
    """Return whether an operator is part of a layer; only these compute in fp16.

    Half precision rounds coordinates above 512 to half a pixel and indices above 2048, and overflows at areas of 65504.
    """
    from coremltools.converters.mil.mil.scope import ScopeSource

    return LAYER in operation.scopes.get(ScopeSource.EXIR_STACK_TRACE, ())


def from_pixels(graph: 'Graph', mean: Sequence[float], std: Sequence[float]) -> 'nn.Module':
    """Return the graph preceded by normalisation; its input is RGB from 0 to 255, and its padding may hold anything.

    Args:
        graph: an export graph.
        mean: of each channel, on the scale from 0 to 255.
        std: likewise.
    """
    import torch
    from torch import nn

    class FromPixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = graph  # torch.fx reserves the name `graph`
            self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).reshape(1, 3, 1, 1))
            self.register_buffer('std', torch.tensor(std, dtype=torch.float32).reshape(1, 3, 1, 1))

        def forward(self, images, img_hw):
            rows, columns = (torch.arange(side, dtype=torch.float32) for side in images.shape[2:])
            inside = (rows[:, None] < img_hw[:, 0, None, None]) & (columns < img_hw[:, 1, None, None])
            return self.network((images - self.mean) / self.std * inside[:, None].float(), img_hw)

    return FromPixels().eval()


def check_saved(path: Path, size: tuple[int, int], types: Mapping[str, type]) -> None:
    """Check kind, version, inputs, outputs and operators of a saved model.

    Args:
        path: of the model.
        size: expected height and width of `images` in pixels.
        types: name of each output -> NumPy type.

    Raises:
        InputError: a mismatch, or an operator that is not Core ML's.
    """
    import coremltools as ct
    import numpy as np

    spec = ct.utils.load_spec(str(path))
    if spec.WhichOneof('Type') != 'mlProgram' or spec.specificationVersion != ct.target.iOS16:
        raise InputError(f'{path}: not an ML Program for iOS 16 (version {spec.specificationVersion})')
    image = spec.description.input[0].type.imageType
    if (image.height, image.width) != tuple(size):
        raise InputError(f'{path}: the image input is {image.height}x{image.width}, requested was {size[0]}x{size[1]}')
    arrays = ct.proto.FeatureTypes_pb2.ArrayFeatureType
    expected = {name: arrays.INT32 if kind is np.int32 else arrays.FLOAT32 for name, kind in types.items()}
    outputs = {value.name: value.type.multiArrayType.dataType for value in spec.description.output}
    if outputs != expected:
        raise InputError(f'{path}: the outputs are {outputs}, expected were {expected}')
    custom = sorted(kind for kind in operators(path) if kind.startswith('custom'))
    if custom:
        raise InputError(f'{path}: holds operators that are not part of Core ML: {", ".join(custom)}')


def operators(path: Path) -> dict[str, set[str]]:
    """Return the operators of a saved ML Program, nested blocks included: kind -> data types of its results."""
    import coremltools as ct

    def within(block):
        for operation in block.operations:
            yield operation
            for nested in operation.blocks:
                yield from within(nested)

    kinds: dict[str, set[str]] = {}
    name = ct.proto.MIL_pb2.DataType.Name
    for function in ct.utils.load_spec(str(path)).mlProgram.functions.values():
        for block in function.block_specializations.values():
            for operation in within(block):
                types = {name(value.type.tensorType.dataType).lower() for value in operation.outputs}
                kinds.setdefault(operation.type, set()).update(types)
    return kinds
