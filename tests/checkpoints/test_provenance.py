"""Whatever a file holds under the name of provenance, only a dictionary of plain values is taken for it."""

import pytest

from repvit_dense.checkpoints.provenance import command_line, is_provenance, of_checkpoint
from repvit_dense.commands.train import Options


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


@pytest.mark.parametrize(
    ('value', 'shown'),
    [
        ('https://me:pass@host/a.pth', 'https://***@host/a.pth'),
        ('https://host/a.pth?token=abc', '***'),
        ('hf_abcdefghijklmnopqrstuv', '***'),
        ('/home/me/a.pth', '.../a.pth'),
        ('~/a.pth', '.../a.pth'),
    ],
)
def test_a_command_has_no_secret_and_no_absolute_path(value, shown):
    line = command_line(Options('c.py', weights=value))
    assert shown in line
    assert not any(word in line for word in ('pass@', 'abc', '/home'))


def test_names_that_resemble_secrets_are_kept():
    line = command_line(Options('c.py', cfg_options=['model.token_mixer=x', 'a.num_tokens=3', 'a.password=x']))
    assert line == "repvit-dense train c.py --cfg-options model.token_mixer=x a.num_tokens=3 'a.password=***'"
