"""Core ML: an ML Program for iOS 16 and macOS 13 or later, that takes a picture as it is.

`images` is of the image type, RGB from 0 to 255; the model normalises it and blanks what `img_hw` says is padding.
"""

import functools
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.deploy.formats import torch_export
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from repvit_dense.deploy.graphs.base import Graph


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
    types = {name: np.int32 if name in INTEGERS else np.float32 for name in graph.outputs}
    model = ct.convert(
        program.run_decompositions(_decompositions()),
        inputs=[
            ct.ImageType(name='images', shape=(batch, 3, *size), color_layout=ct.colorlayout.RGB),
            ct.TensorType(name='img_hw', shape=(batch, 2), dtype=np.float32),
        ],
        outputs=[ct.TensorType(name=name, dtype=kind) for name, kind in types.items()],
        convert_to='mlprogram',
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT16 if precision == 'fp16' else ct.precision.FLOAT32,
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


INTEGERS = ('labels', 'count', 'seg')


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


def operators(path: Path) -> set[str]:
    """Types of all operators of a saved ML Program, those of nested blocks too."""
    import coremltools as ct

    def within(block):
        for operation in block.operations:
            yield operation.type
            for nested in operation.blocks:
                yield from within(nested)

    functions = ct.utils.load_spec(str(path)).mlProgram.functions.values()
    return {
        kind for function in functions for block in function.block_specializations.values() for kind in within(block)
    }
