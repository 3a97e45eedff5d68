"""Weights with values or types that no trained network has are refused; the module stays as it is, bit by bit."""

import pytest
import torch
from torch import nn

from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.bn = nn.BatchNorm2d(3)


def changed(key, function):
    state = Net().state_dict()
    state[key] = function(state[key].clone())
    return state


def first_is(value):
    return lambda tensor: tensor.index_fill_(0, torch.tensor([0]), value)


def with_attribute(tensor):
    tensor.origin = 'x'
    return tensor


SOUND = {
    'half': lambda tensor: tensor.half(),
    'bfloat16': lambda tensor: tensor.bfloat16(),
    'double': lambda tensor: tensor.double(),
    'transposed': lambda tensor: tensor.transpose(2, 3).contiguous().transpose(2, 3),
    'parameter': nn.Parameter,
    'gradient': lambda tensor: tensor.requires_grad_(),
    'attribute': with_attribute,
    'negated view': torch._neg_view,
    'imaginary part of a conjugate': lambda tensor: torch.complex(tensor, tensor).conj().imag,
}
DENSE = 'only dense tensors'
UNSOUND = {
    'nan': (first_is(float('nan')), 'conv.weight has NaN or infinite values.*take another checkpoint'),
    'infinite': (first_is(-float('inf')), 'conv.weight has NaN or infinite values'),
    'too large': (lambda tensor: tensor.double() * 1e300, 'conv.weight has values too large for torch.float32'),
    'integer': (lambda tensor: tensor.long(), 'conv.weight holds integer numbers .* in place of floating-point ones'),
    'boolean': (lambda tensor: tensor.bool(), 'conv.weight holds boolean numbers'),
    'complex': (lambda tensor: tensor.to(torch.complex64), 'conv.weight holds complex numbers'),
    'expanded': (lambda tensor: tensor[:1, :1, :1, :1].expand(3, 2, 3, 3), '54 elements, of which the file holds 1'),
    'empty': (lambda tensor: tensor[:0], r'conv.weight is \(0, 2, 3, 3\) in the file'),
    'meta': (lambda tensor: tensor.to('meta'), f'conv.weight (has no values|is a tensor without data.*{DENSE})'),
    'sparse': (lambda tensor: tensor.to_sparse(), f'conv.weight is a sparse tensor: {DENSE}'),
    'quantised': (
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        f'conv.weight is a quantised tensor: {DENSE}',
    ),
    'no tensor': (lambda tensor: tensor.tolist(), 'conv.weight is missing'),
}
CONTAINERS = pytest.mark.parametrize('container', ['memory', 'zip', 'legacy'])


def source(state, container, folder):
    if container == 'memory':
        return state
    torch.save(state, folder / 'a.pth', _use_new_zipfile_serialization=container == 'zip')
    return folder / 'a.pth'


def refuse(state, words):
    """Load and compare every bit of the module with its state before."""
    net = Net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(net, state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@CONTAINERS
@pytest.mark.parametrize('kind', SOUND)
def test_other_floating_point_types_and_layouts_are_loaded(tmp_path, kind, container):
    net, state = Net(), changed('conv.weight', SOUND[kind])
    load_checkpoint(net, source(state, container, tmp_path))
    assert torch.equal(net.conv.weight, state['conv.weight'].float())


@CONTAINERS
@pytest.mark.parametrize('kind', UNSOUND)
@pytest.mark.filterwarnings('ignore')
def test_other_values_and_kinds_of_tensors_are_refused(tmp_path, kind, container):
    function, words = UNSOUND[kind]
    refuse(source(changed('conv.weight', function), container, tmp_path), words)


@pytest.mark.parametrize(
    'key, function, words',
    [
        ('bn.running_var', torch.neg, 'bn.running_var is negative'),
        ('bn.running_var', first_is(float('nan')), 'bn.running_var has NaN'),
        ('bn.running_mean', first_is(float('inf')), 'bn.running_mean has NaN or infinite'),
        ('bn.num_batches_tracked', torch.Tensor.float, 'bn.num_batches_tracked holds floating-point numbers'),
    ],
)
def test_statistics_of_a_batch_norm(key, function, words):
    refuse(changed(key, function), words)


def test_values_are_checked_in_the_dtype_of_the_module():
    net = Net().half()
    with pytest.raises(CheckpointError, match=r'too large for torch\.float16'):
        load_checkpoint(net, changed('conv.bias', first_is(1e5)))


def test_a_long_list_is_cut():
    state = {key: value.double().fill_(float('nan')) for key, value in Net().state_dict().items()}
    refuse(state, r'conv.weight.*; conv.bias.*and 2 more \(7 in all\)')
