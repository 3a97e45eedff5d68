"""Core ML: an ML Program for iOS 16 and macOS 13 or later, that takes a picture as it is.

`images` is of the image type, RGB from 0 to 255; the model normalises it and blanks what `img_hw` says is padding.
"""

import functools
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError
from repvit_dense.exporting.formats import torch_export

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from repvit_dense.exporting.graphs.base import Graph

INTEGERS = ('labels', 'count', 'seg')
LAYER = 'layer'
# Modules whose own operations count pixels.
COORDINATES = ('DeformableAttention', 'PixelDecoder')


def write(
    graph: 'Graph',
    path: Path,
    size: tuple[int, int],
    batch: int,
    dynamic: Collection[str],
    precision: str,
    classes: Sequence[str],
    preprocess: dict,
) -> None:
    """`model.mlpackage`; arguments as in `formats.write`."""
    import coremltools as ct
    import numpy as np

    program = torch_export.capture(from_pixels(graph, preprocess['mean'], preprocess['std']), size, batch)
    program = program.run_decompositions(_decompositions())
    prepare(program)
    types = {name: np.int32 if name in INTEGERS else np.float32 for name in graph.outputs}
    half = ct.transform.FP16ComputePrecision(op_selector=_takes_half)
    model = ct.convert(
        program,
        inputs=[
            ct.ImageType(name='images', shape=(batch, 3, *size), color_layout=ct.colorlayout.RGB),
            ct.TensorType(name='img_hw', shape=(batch, 2), dtype=np.float32),
        ],
        outputs=[ct.TensorType(name=name, dtype=kind) for name, kind in types.items()],
        convert_to='mlprogram',
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=half if precision == 'fp16' else ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.user_defined_metadata['classes'] = json.dumps(list(classes))
    model.user_defined_metadata['preprocess'] = json.dumps(preprocess)
    model.save(str(path))
    require(path, size, types)


def _decompositions() -> dict:
    """Operators that coremltools does not know, in others; the rest stays as it is."""
    import torch

    aten = torch.ops.aten

    def product(x, dim, keepdim=False, *, dtype=None):  # of width and height: two numbers
        return functools.reduce(torch.mul, x.split(1, dim)) if keepdim else functools.reduce(torch.mul, x.unbind(dim))

    return {
        aten.__and__.Tensor: aten.bitwise_and.Tensor,
        aten.__or__.Tensor: aten.bitwise_or.Tensor,
        aten.prod.dim_int: product,
    }


def prepare(program: 'ExportedProgram') -> None:
    """Drop what does nothing, and mark each operation as one of a layer or of the graph around them, in place.

    The mark is where coremltools keeps the stack trace, which it passes on to all that it makes of an operation.
    """
    import torch

    for node in list(program.graph.nodes):
        if node.target == torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
        elif node.op == 'call_function':
            modules = [kind.rpartition('.')[2] for _, kind in node.meta.get('nn_module_stack', {}).values()]
            # The first two are what normalises, and the graph.
            node.meta['stack_trace'] = LAYER if len(modules) > 2 and modules[-1] not in COORDINATES else 'graph'
    program.graph_module.recompile()


def _takes_half(operation) -> bool:
    """Layers; what the graph does besides them stays in fp32.

    Half precision rounds coordinates above 512 to half a pixel, indices above 2048, and ends at areas of 65504.
    """
    from coremltools.converters.mil.mil.scope import ScopeSource

    return LAYER in operation.scopes.get(ScopeSource.EXIR_STACK_TRACE, ())


def from_pixels(graph: 'Graph', mean: Sequence[float], std: Sequence[float]) -> 'nn.Module':
    """The graph behind the normalisation: takes RGB from 0 to 255, padded at the right and bottom with anything."""
    import torch
    from torch import nn

    class FromPixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = graph  # `graph` is what torch.fx calls its own
            self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).reshape(1, 3, 1, 1))
            self.register_buffer('std', torch.tensor(std, dtype=torch.float32).reshape(1, 3, 1, 1))

        def forward(self, images, img_hw):
            rows, columns = (torch.arange(side, dtype=torch.float32) for side in images.shape[2:])
            inside = (rows[:, None] < img_hw[:, 0, None, None]) & (columns < img_hw[:, 1, None, None])
            return self.network((images - self.mean) / self.std * inside[:, None].float(), img_hw)

    return FromPixels().eval()


def require(path: Path, size: tuple[int, int], types: dict[str, type]) -> None:
    """Look at a saved model: its kind, its inputs and outputs, and that every operator is Core ML's own.

    Args:
        path: of the model.
        size: height and width of `images` in pixels.
        types: name of each output -> numpy's type.

    Raises:
        InputError: says what is not as it should be.
    """
    import coremltools as ct
    import numpy as np

    spec = ct.utils.load_spec(str(path))
    if spec.WhichOneof('Type') != 'mlProgram' or spec.specificationVersion != ct.target.iOS16:
        raise InputError(f'{path}: not an ML Program for iOS 16 (version {spec.specificationVersion})')
    image = spec.description.input[0].type.imageType
    if (image.height, image.width) != tuple(size):
        raise InputError(f'{path}: takes images of {image.height}x{image.width}, {size[0]}x{size[1]} was asked')
    arrays = ct.proto.FeatureTypes_pb2.ArrayFeatureType
    wanted = {name: arrays.INT32 if kind is np.int32 else arrays.FLOAT32 for name, kind in types.items()}
    found = {value.name: value.type.multiArrayType.dataType for value in spec.description.output}
    if found != wanted:
        raise InputError(f'{path}: has the outputs {found}, should have {wanted}')
    foreign = sorted(kind for kind in operators(path) if kind.startswith('custom'))
    if foreign:
        raise InputError(f'{path}: has operators that are not of Core ML: {", ".join(foreign)}')


def operators(path: Path) -> dict[str, set[str]]:
    """Types of all operators of a saved ML Program, those of nested blocks too, and of what type their results are."""
    import coremltools as ct

    def within(block):
        for operation in block.operations:
            yield operation
            for nested in operation.blocks:
                yield from within(nested)

    found: dict[str, set[str]] = {}
    name = ct.proto.MIL_pb2.DataType.Name
    for function in ct.utils.load_spec(str(path)).mlProgram.functions.values():
        for block in function.block_specializations.values():
            for operation in within(block):
                types = {name(value.type.tensorType.dataType).lower() for value in operation.outputs}
                found.setdefault(operation.type, set()).update(types)
    return found
