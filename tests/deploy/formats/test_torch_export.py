import pytest
import torch

from repvit_dense.deploy.formats.torch_export import capture
from repvit_dense.errors import InputError


@pytest.mark.parametrize('kind', ['semantic', 'detection'])
@pytest.mark.parametrize('dynamic', [(), ('batch',), ('size',), ('batch', 'size')])
def test_a_loaded_program_gives_what_the_graph_gives(graph, write, batch, close, kind, dynamic):
    model = graph(kind)
    program = torch.export.load(write(model, 'torch', dynamic=dynamic)).module()
    shapes = {(1, 64, 96)}
    if 'batch' in dynamic:
        shapes |= {(3, 64, 96)}
    if 'size' in dynamic:
        shapes |= {(1, 160, 128), (1, 96, 96)}
    for shape in shapes:
        inputs = batch(*shape)
        with torch.no_grad():
            close(model, inputs, program(*inputs))


def test_a_fixed_program_refuses_another_size(graph, write, batch):
    program = torch.export.load(write(graph('semantic'), 'torch')).module()
    with pytest.raises((AssertionError, RuntimeError)):
        program(*batch(1, 96, 96))


def test_a_batch_that_python_counts_is_named(graph):
    with pytest.raises(InputError, match='--dynamic batch'):
        capture(graph('baked'), (64, 64), dynamic=('batch',))
