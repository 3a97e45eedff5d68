"""Every format and source is read; a message names the file and its fault."""

import argparse
import ast
import datetime
import inspect
import pickle
import re
from collections import defaultdict
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repvit_dense.checkpoints import archive, constructors, layouts, reading, unpickling
from repvit_dense.checkpoints.reading import CheckpointError, read


def same(a, b):
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def test_paths_urls_and_both_formats_are_read(tiny, tmp_path, monkeypatch):
    state = copied(tiny)
    torch.save({'model': state}, tmp_path / 'a.pth')
    torch.save(state, tmp_path / 'b.pt', _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / 'c.safetensors')
    assert same(read(tmp_path / 'a.pth')['model'], state)
    assert same(read(str(tmp_path / 'b.pt')), state)
    assert same(read((tmp_path / 'c.safetensors').as_uri()), state)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert same(read('~/a.pth')['model'], state)
    assert read(tmp_path / 'c.safetensors', torch.device('meta'))['stem.conv1.conv.weight'].is_meta


def test_saved_command_line_arguments_are_read(tmp_path):
    torch.save({'model': {}, 'args': argparse.Namespace(lr=0.1)}, tmp_path / 'a.pth')
    assert read(tmp_path / 'a.pth')['args'].lr == 0.1


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        (PurePosixPath('/data/runs'), '/data/runs'),
        (PureWindowsPath('runs', 'a'), 'runs/a'),
        (frozenset({1, 2}), {1, 2}),
        (defaultdict(dict, a=[1]), {'a': [1]}),
        (datetime.datetime(2024, 5, 1, 12), datetime.datetime(2024, 5, 1, 12)),
    ],
)
@pytest.mark.parametrize('is_zip', [True, False])
def test_plain_values_of_other_trainings_are_read(tmp_path, value, expected, is_zip):
    torch.save({'args': value}, tmp_path / 'a.pth', _use_new_zipfile_serialization=is_zip)
    assert read(tmp_path / 'a.pth')['args'] == expected


@pytest.mark.parametrize('is_zip', [True, False])
def test_another_protocol_of_pickle_is_named(tmp_path, is_zip):
    torch.save({'a': 1}, tmp_path / 'a.pth', _use_new_zipfile_serialization=is_zip, pickle_protocol=4)
    with pytest.raises(CheckpointError, match='pickle protocol 4; .*Save it again'):
        read(tmp_path / 'a.pth')


def damaged(tmp_path, kind, state):
    path = tmp_path / 'weights.pth'
    if kind in ('truncated', 'empty', 'no zip'):
        torch.save(state, path)
        content = path.read_bytes()
        path.write_bytes({'truncated': content[: len(content) // 2], 'empty': b'', 'no zip': content[:2]}[kind])
    elif kind == 'flipped':
        torch.save(state, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == 'safetensors':
        path = path.with_suffix('.safetensors')
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == 'safetensors header':
        path = path.with_suffix('.safetensors')
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:100])
    return path


@pytest.mark.parametrize('kind', ['truncated', 'empty', 'no zip', 'flipped', 'safetensors', 'safetensors header'])
def test_damaged_files_are_recognised(tmp_path, tiny, kind):
    path = damaged(tmp_path, kind, copied(tiny))
    with pytest.raises(CheckpointError, match=rf'{re.escape(str(path))}: truncated.*corrupt.*get it again'):
        read(path)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'\n<!DOCTYPE html><html>sign in</html>', 'web page'),
        (b'version https://git-lfs.github.com/spec/v1 oid', 'never was a checkpoint'),
        (pickle.dumps({'a': 1}, protocol=2), 'not written by torch.save'),
        (pickle.dumps({'a': 1}, protocol=5), 'pickle protocol 5'),
    ],
)
def test_other_files_are_recognised(tmp_path, content, words):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path / 'a.pth')


def test_a_list_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='contains a list'):
        read(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    ('source', 'words'),
    [
        ('missing/epoch_12.pth', r'missing/epoch_12\.pth: no such file'),
        ('timm/repvit_m1_1.dist_in1k', r'no such file.*its weights: repvit_m1_1\.dist_300e_in1k'),
        ('file:///missing/a.pth', 'no such file'),
        ('s3://bucket/a.pth', "'s3://' cannot be read safely; download"),
        ('torchvision://resnet5', 'unknown model.*did you mean .resnet50'),
        ('.', 'cannot be read'),
        ('http://[', 'cannot be read'),
        ('http://localhost:1/' + 'x' * 5000, 'cannot be read'),
        ('~nobody-here/a.pth', 'no such file'),
        ('\0', 'no such file'),
        ('\udcff', 'no such file'),
    ],
)
def test_a_missing_source_is_named(source, words):
    with pytest.raises(CheckpointError, match=words):
        read(source)


def test_numbers_and_arrays_of_numpy_are_read(tmp_path):
    content = {
        'a': np.arange(6.0).reshape(2, 3),
        'b': np.float32(1.5),
        'c': np.array([1, 2], '>i4'),
        'd': np.bool_(True),
        'e': np.array([]),
        'f': bytearray(b'x'),
        'g': b'',
    }
    torch.save(content, tmp_path / 'a.pth')
    back = read(tmp_path / 'a.pth')
    assert all(np.array_equal(back[key], content[key]) for key in content)
    again = pickle.loads(pickle.dumps(back))
    assert type(again['a']) is np.ndarray


@pytest.mark.parametrize('module', [reading, layouts, unpickling, constructors, archive])
def test_a_module_that_is_imported_first_does_not_import_mmengine_before_it_is_complete(module):
    """The end of mmengine's import registers the parts of this package, which import these modules."""
    for statement in ast.parse(inspect.getsource(module)).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            assert 'mmengine' not in ast.unparse(statement)
            assert 'backbones' not in ast.unparse(statement)
