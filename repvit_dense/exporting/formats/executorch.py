"""ExecuTorch: a `.pte` program whose operators run in XNNPACK as far as it has kernels for them."""

import os
import shutil
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

    from repvit_dense.exporting.formats import FileOptions
    from repvit_dense.exporting.graphs.base import Graph


def write(graph: 'Graph', path: Path, options: 'FileOptions') -> None:
    """Write a `.pte` file."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge

    _find_flatc()
    partitioner = XnnpackPartitioner()
    with no_collector():  # the passes copy the graph hundreds of times, and little of that is garbage
        program = fold_constants(torch_export.capture(graph, options.size, options.batch))
        name_each_use(program)
        # The validity check of each pass is skipped: the artifact is compared with the model in the end.
        config = EdgeCompileConfig(preserve_ops=preserved_operators(program, partitioner), _check_ir_validity=False)
        edge = to_edge(program, compile_config=config).transform([adapt_to_xnnpack]).to_backend(partitioner)
        with path.open('wb') as file:
            edge.to_executorch().write_to_file(file)


def preserved_operators(program: 'ExportedProgram', partitioner: 'Partitioner') -> list:
    """Return the operators that must not be decomposed: those that XNNPACK supports in every use.

    `to_edge_transform_and_lower` decides this for each use, but decomposes the program three times to do so.
    """
    offered, is_supported = partitioner.ops_to_not_decompose(program)
    uses = {operator: [node for node in program.graph.nodes if node.target == operator] for operator in offered}
    return [operator for operator, nodes in uses.items() if nodes and all(map(is_supported, nodes))]


def _find_flatc() -> None:
    """Point ExecuTorch to the compiler in its package; it searches PATH only, which lacks it outside an active venv."""
    if not shutil.which('flatc'):
        os.environ.setdefault('FLATC_EXECUTABLE', str(files('executorch.data.bin') / 'flatc'))


def fold_constants(program: 'ExportedProgram') -> 'ExportedProgram':
    """Compute everything that depends on weights only: anchors, positional encodings, permuted weights.

    XNNPACK needs the weights of a convolution when the program is written.
    """
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass
    from torch import ops

    filled = {ops.aten.full.default, ops.aten.ones.default, ops.aten.zeros.default}  # large in a file, quick to compute
    program = program.run_decompositions({})
    simplify_scalars(program)
    program = constant_prop_pass(program, custom_skip_targets=filled)
    # An operator without effect returns the parameter itself, and a constant must not require a gradient.
    program.constants.update({name: value.detach() for name, value in program.constants.items()})
    return program


def simplify_scalars(program: 'ExportedProgram') -> None:
    """Turn integers that are combined with float tensors into floats and remove sums with 0, in place.

    Each such integer would become an integer tensor with a cast, which XNNPACK does not support.
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


def adapt_to_xnnpack(module: 'GraphModule') -> 'PassResult':
    """Replace operators by equivalent ones that XNNPACK supports, in place; all shapes are fixed.

    An unsupported operator splits a partition in two and adds copies of its inputs and outputs.
    """
    from torch.fx.passes.infra.pass_base import PassResult

    for node in list(module.graph.nodes):
        if node.op == 'call_function':
            _adapt(node)
        node.meta.pop('from_node', None)  # a history that grows with every pass
    module.graph.eliminate_dead_code()
    module.recompile()
    return PassResult(module, True)


def _adapt(node: 'Node') -> None:
    from executorch.exir.dialects._ops import ops

    aten, value = ops.edge.aten, node.meta.get('val')
    if node.target in (aten.expand_copy.default, aten.alias_copy.default):
        if node.args[0].meta['val'].shape == value.shape:
            node.replace_all_uses_with(node.args[0])
    elif node.target in (aten.unsqueeze_copy.default, aten.squeeze_copy.dims):
        node.target, node.args = aten.view_copy.default, (node.args[0], list(value.shape))
    elif node.target == aten.select_copy.int:
        source, axis, index = node.args
        shape = list(source.meta['val'].shape)
        index %= shape[axis]
        shape[axis] = 1
        with node.graph.inserting_before(node):
            part = node.graph.call_function(aten.slice_copy.Tensor, (source, axis, index, index + 1))
        part.meta['val'] = value.new_empty(shape)
        node.target, node.args = aten.view_copy.default, (part, list(value.shape))
    elif node.target == aten.mean.dim and node.args[1]:
        rank = node.args[0].meta['val'].dim()
        node.args = (node.args[0], sorted(axis % rank - rank for axis in node.args[1]), *node.args[2:])


def name_each_use(program: 'ExportedProgram') -> None:
    """Give every use of a shared weight its own name, in place; heads apply the same layers to several levels.

    XNNPACK takes weights out of the program by name, one use at a time. The names share one tensor in memory and in the
    file.
    """
    from executorch.backends.transforms.utils import create_constant_placeholder
    from torch.export.graph_signature import InputKind

    kinds = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs if spec.kind in kinds}
    tensors = {**program.constants, **program.state_dict}
    for node in list(program.graph.nodes):
        if node.name not in specs or node.op != 'placeholder':
            continue
        spec = specs[node.name]
        for number, user in enumerate(list(node.users)[1:]):
            with program.graph.inserting_before(node):
                name = f'{node.name}_use_{number}'
                data = tensors[spec.target]
                other = create_constant_placeholder(program, program.graph, name, spec.kind, data, spec.persistent)
            user.replace_input_with(node, other)
    program.graph_module.recompile()
