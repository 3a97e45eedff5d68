"""ExecuTorch: a program for its runtime, with what XNNPACK has kernels for handed to it."""

import os
import shutil
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.exporting.formats import torch_export
from repvit_dense.memory import no_collector

if TYPE_CHECKING:
    from executorch.exir.backend.partitioner import Partitioner
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node
    from torch.fx.passes.infra.pass_base import PassResult

    from repvit_dense.exporting.graphs.base import Graph


def write(
    graph: 'Graph', path: Path, size: tuple[int, int], batch: int, dynamic: Collection[str], precision: str
) -> None:
    """A `.pte` file; arguments as in `formats.write`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge

    _find_flatc()
    partitioner = XnnpackPartitioner()
    with no_collector():  # hundreds of copies of a graph, few of which are garbage
        program = fold_constants(torch_export.capture(graph, size, batch))
        name_each_use(program)
        # ExecuTorch need not check every step: artifact and model are compared in the end.
        config = EdgeCompileConfig(preserve_ops=kept_whole(program, partitioner), _check_ir_validity=False)
        edge = to_edge(program, compile_config=config).transform([suit_xnnpack]).to_backend(partitioner)
        with path.open('wb') as file:
            edge.to_executorch().write_to_file(file)


def kept_whole(program: 'ExportedProgram', partitioner: 'Partitioner') -> list:
    """Operators that XNNPACK has, but that would be taken apart before it sees them: those it takes wherever they are.

    `to_edge_transform_and_lower` decides for each use, and for that takes the program apart three times.
    """
    offered, is_taken = partitioner.ops_to_not_decompose(program)
    uses = {operator: [node for node in program.graph.nodes if node.target == operator] for operator in offered}
    return [operator for operator, nodes in uses.items() if nodes and all(map(is_taken, nodes))]


def _find_flatc() -> None:
    """ExecuTorch calls a tool that is beside it, but looks on the PATH only: not there without an active venv."""
    if not shutil.which('flatc'):
        os.environ.setdefault('FLATC_EXECUTABLE', str(files('executorch.data.bin') / 'flatc'))


def fold_constants(program: 'ExportedProgram') -> 'ExportedProgram':
    """Compute what depends on weights alone: anchors, positions, weights in another order.

    XNNPACK convolves with weights that it has when the program is written, and with no others.
    """
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass
    from torch import ops

    filled = {ops.aten.full.default, ops.aten.ones.default, ops.aten.zeros.default}  # large in a file, but soon filled
    program = program.run_decompositions({})
    simplify_scalars(program)
    program = constant_prop_pass(program, custom_skip_targets=filled)
    # An operator that did nothing gave the parameter itself, which would be a constant that requires a gradient.
    program.constants.update({name: value.detach() for name, value in program.constants.items()})
    return program


def simplify_scalars(program: 'ExportedProgram') -> None:
    """Write, in place, whole numbers that meet tensors of floats as floats, and leave out sums with 0.

    Every such number would become a tensor of integers and an operator that casts it, which XNNPACK does not take.
    """
    from torch import ops

    aten = ops.aten
    targets = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsub.Scalar}
    for node in program.graph.nodes:
        if node.target not in targets or not node.meta['val'].is_floating_point():
            continue
        tensor, other = node.args[:2]
        if type(other) is int and tensor.meta['val'].dtype == node.meta['val'].dtype:
            node.args = (tensor, float(other), *node.args[2:])
            if node.target == aten.add.Tensor and not other and all(user.op != 'output' for user in node.users):
                node.replace_all_uses_with(tensor)
    program.graph.eliminate_dead_code()


def suit_xnnpack(module: 'GraphModule') -> 'PassResult':
    """Say the same, in place, with the operators that XNNPACK has.

    Each other operator between two of them makes two partitions of one, and copies number by number. Sizes are fixed.
    """
    from torch.fx.passes.infra.pass_base import PassResult

    for node in list(module.graph.nodes):
        if node.op == 'call_function':
            _suit(node)
        node.meta.pop('from_node', None)  # a history that every pass copies, and makes longer
    module.graph.eliminate_dead_code()
    module.recompile()
    return PassResult(module, True)


def _suit(node: 'Node') -> None:
    """What `suit_xnnpack` does, of one node."""
    from executorch.exir.dialects._ops import ops

    aten, value = ops.edge.aten, node.meta.get('val')
    if node.target in (aten.expand_copy.default, aten.alias_copy.default):
        if node.args[0].meta['val'].shape == value.shape:
            node.replace_all_uses_with(node.args[0])
    elif node.target in (aten.unsqueeze_copy.default, aten.squeeze_copy.dims):
        node.target, node.args = aten.view_copy.default, (node.args[0], list(value.shape))
    elif node.target == aten.select_copy.int:
        source, axis, place = node.args
        shape = list(source.meta['val'].shape)
        place %= shape[axis]
        shape[axis] = 1
        with node.graph.inserting_before(node):
            part = node.graph.call_function(aten.slice_copy.Tensor, (source, axis, place, place + 1))
        part.meta['val'] = value.new_empty(shape)
        node.target, node.args = aten.view_copy.default, (part, list(value.shape))
    elif node.target == aten.mean.dim and node.args[1]:
        rank = node.args[0].meta['val'].dim()
        node.args = (node.args[0], sorted(axis % rank - rank for axis in node.args[1]), *node.args[2:])


def name_each_use(program: 'ExportedProgram') -> None:
    """Give every use of a shared weight a name of its own, in place; heads run the same layers on several levels.

    XNNPACK takes weights out of the program one use at a time and by name. In memory they stay one tensor, and the file
    holds it once.
    """
    from executorch.backends.transforms.utils import create_constant_placeholder
    from torch.export.graph_signature import InputKind

    kinds = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs if spec.kind in kinds}
    held = {**program.constants, **program.state_dict}
    for node in list(program.graph.nodes):
        if node.name not in specs or node.op != 'placeholder':
            continue
        spec = specs[node.name]
        for number, user in enumerate(list(node.users)[1:]):
            with program.graph.inserting_before(node):
                name = f'{node.name}_use_{number}'
                data = held[spec.target]
                other = create_constant_placeholder(program, program.graph, name, spec.kind, data, spec.persistent)
            user.replace_input_with(node, other)
    program.graph_module.recompile()
