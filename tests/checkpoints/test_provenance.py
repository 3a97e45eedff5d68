"""Whatever a file holds under the name of provenance, only a dictionary of plain values is taken for it."""

import pytest

from repvit_dense.checkpoints.provenance import is_provenance, of_checkpoint


def nested(depth):
    return {'a': nested(depth - 1)} if depth else 1


@pytest.mark.parametrize(
    'value', [None, [], 'text', {1: 2}, {'a': float('nan')}, {'a': object()}, nested(99), {'a': [0] * 10**5}]
)
def test_other_values_are_not_provenance(value):
    assert not is_provenance(value)
    assert of_checkpoint({'meta': {'provenance': value}}) is None


@pytest.mark.parametrize('checkpoint', [{}, {'meta': None}, {'meta': {}}])
def test_older_checkpoints_have_none(checkpoint):
    assert of_checkpoint(checkpoint) is None


def test_plain_values_are_provenance():
    value = {'seed': 0, 'data': {'train': {'images': 2}}, 'scores': None, 'resumed': ['a'], 'seconds': 1.5}
    assert of_checkpoint({'meta': {'provenance': value}}) == value
