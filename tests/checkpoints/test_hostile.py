"""Crafted checkpoints are refused in bounded time and memory; nothing in them is executed."""

import os
import struct
import time
import zipfile

import pytest
import torch
from torch import nn

from repvit_dense.checkpoints import unpickling
from repvit_dense.checkpoints.layouts import LONGEST_KEY, MOST_TENSORS, detect_layout
from repvit_dense.checkpoints.loading import load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError, read

START = b'\x80\x02'


def text(content):
    content = content.encode()
    return b'X' + struct.pack('<I', len(content)) + content


def function(module, name):
    return f'c{module}\n{name}\n'.encode()


SHARED = b')q\x00' + b''.join(bytes([104, i, 104, i, 134, 113, i + 1]) for i in range(40))  # 2**40 tuples in one
ENCODE = text('x' * 10**5) + b'q\x00' + text('latin1') + b'\x86q\x01' + function('_codecs', 'encode') + b'q\x02'
NO_CAST = 'not written by torch.save'
PICKLES = {
    'bytearray': (function('__builtin__', 'bytearray') + b'\x8a\x05' + (10**10).to_bytes(5, 'little') + b'\x85R.', ''),
    'many copies of a text': (ENCODE + b'h\x02h\x01R' * 2000 + b'.', 'far more memory'),
    'many dictionaries': (b'}' * 100_000 + b'.', 'far more memory'),
    'many sizes': (
        b'(' + b'K\x01' * 10**5 + b'tq\x00' + function('torch', 'Size') + b'h\x00\x85R' * 10,
        'far more memory',
    ),
    'a text beyond the end': (b'X\xff\xff\xff\x7fabc', NO_CAST),
    'a long number': (b'\x8b' + struct.pack('<i', 10**6) + b'\x01' * 10**6 + b'.', NO_CAST),
    'a key that takes for ever to hash': (b'}' + SHARED + b'Ns.', NO_CAST),
    'a set of it': (function('__builtin__', 'set') + b']' + SHARED + b'a\x85R.', NO_CAST),
    'a dtype of it': (function('numpy', 'dtype') + b'(' + SHARED + b'tR.', 'nothing in it was executed'),
    'keys of one hash': (
        b'}(' + b''.join(b'\x8a\x0a' + (k * (2**61 - 1)).to_bytes(10, 'little') + b'N' for k in range(1, 999)) + b'u.',
        NO_CAST,
    ),
    'a call of a text': (text('os.system') + text('ls') + b'\x85R.', NO_CAST),
    'attributes of a function': (function('torch', 'Size') + b'}b.', NO_CAST),
    'an unknown instruction': (b'}\x94.', NO_CAST),
    'no end': (b'}', NO_CAST),
    'nothing on the stack': (b'u.', NO_CAST),
    'storage of a lie': (
        b'(' + text('storage') + function('torch', 'FloatStorage') + text('0') + text('cpu') + b'J\xff\xff\xff\x7ftQ.',
        NO_CAST,
    ),
}


def write_zip(path, pickled, **records):
    with zipfile.ZipFile(path, 'w') as file:
        for name, content in {
            'data.pkl': START + pickled,
            'byteorder': b'little',
            'data/0': bytes(8),
            **records,
        }.items():
            file.writestr(f'a/{name}', content)
    return path


@pytest.mark.parametrize('name', PICKLES)
def test_a_crafted_pickle(tmp_path, name, monkeypatch):
    monkeypatch.setattr(unpickling, 'BUDGET', 2**22)  # that of a file takes seconds to use up
    pickled, words = PICKLES[name]
    start = time.process_time()
    with pytest.raises(CheckpointError, match=words):
        read(write_zip(tmp_path / 'a.pth', pickled))
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    'size, stride, offset',
    [((3,), (1,), 0), ((1,), (1,), 2), ((2,), (2,), 0), ((2**40,), (1,), 0), ((2,), (-1,), 1), ((2,), (1, 1), 0)],
)
def test_a_tensor_outside_its_storage(tmp_path, size, stride, offset):
    storage = b'(' + text('storage') + function('torch', 'FloatStorage') + text('0') + text('cpu') + b'K\x02tQ'
    numbers = [b'\x8a\x08' + value.to_bytes(8, 'little', signed=True) for value in (*size, *stride)]
    shape = b'(' + b''.join(numbers[: len(size)]) + b't(' + b''.join(numbers[len(size) :]) + b't'
    pickled = function('torch._utils', '_rebuild_tensor_v2') + b'(' + storage + b'K' + bytes([offset]) + shape + b'tR.'
    with pytest.raises(CheckpointError, match='a tensor (of an impossible size|that lies outside its storage)'):
        read(write_zip(tmp_path / 'a.pth', pickled))


def flip_a_bit(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    path.write_bytes(content)


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save({'a': torch.zeros(500), 'b': 1}, path)
    content = path.read_bytes()
    good = read(path)
    for position in range(0, len(content), 37):
        flip_a_bit(path, position)
        try:
            again = read(path)
        except CheckpointError as error:
            assert str(path) in str(error)
        else:  # a bit of the padding or of a time
            assert torch.equal(again['a'], good['a'])
            assert again['b'] == 1
        path.write_bytes(content)


@pytest.mark.skipif(not hasattr(torch.serialization, 'set_crc32_options'), reason='this torch writes checksums always')
def test_a_file_without_checksums_is_read_with_a_warning(tmp_path, log):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({'a': torch.ones(3)}, tmp_path / 'a.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    assert read(tmp_path / 'a.pth')['a'].tolist() == [1, 1, 1]
    assert 'has no checksums' in log[-1][1]


def test_a_checked_file_without_values(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save({'a': torch.zeros(5000)}, path)
    assert read(path, 'meta')['a'].is_meta
    flip_a_bit(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match='does not match its checksum'):
        read(path, 'meta')


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('fault', ['compressed', 'twice', 'two pickles', 'big-endian', 'overlap'])
def test_other_zip_files(tmp_path, fault):
    path = tmp_path / 'a.pth'
    with zipfile.ZipFile(path, 'w') as file:
        kind = zipfile.ZIP_DEFLATED if fault == 'compressed' else zipfile.ZIP_STORED
        file.writestr('a/data.pkl', START + b'}.')
        file.writestr('a/data/0', bytes(10**6), compress_type=kind)
        file.writestr('a/data/1', bytes(8))
        if fault in ('twice', 'two pickles'):
            file.writestr('a/data/0' if fault == 'twice' else 'b/data.pkl', bytes(8))
        if fault == 'big-endian':
            file.writestr('a/byteorder', 'big')
        if fault == 'overlap':
            file.infolist()[1].header_offset = file.infolist()[2].header_offset
    with pytest.raises(CheckpointError, match='truncated, corrupt or not written by torch.save'):
        read(path)


@pytest.mark.parametrize(
    'header, words',
    [
        ('{"a": {"dtype": "F6_E2M3", "shape": [8], "data_offsets": [0, 6]}}', 'F6_E2M3'),
        ('{"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 6]}}', 'corrupt'),
        (
            '{"a": {"dtype": "U8", "shape": [6], "data_offsets": [0, 6]}, "b": {"dtype": "U8", "shape": [6], '
            '"data_offsets": [0, 6]}}',
            'corrupt',
        ),
        ('{"a": 5}', 'corrupt'),
        ('{' * 10_000, 'corrupt'),
    ],
    ids=['type', 'size', 'overlap', 'number', 'deep'],
)
def test_a_crafted_header_of_safetensors(tmp_path, header, words):
    (tmp_path / 'a.safetensors').write_bytes(len(header).to_bytes(8, 'little') + header.encode() + bytes(6))
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path / 'a.safetensors')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes')
@pytest.mark.parametrize('name', ['pipe', 'device', 'folder', 'name'])
def test_what_is_no_file(tmp_path, name):
    os.mkfifo(tmp_path / 'pipe')
    path = {'pipe': tmp_path / 'pipe', 'device': '/dev/zero', 'folder': tmp_path, 'name': 'x' * 5000}[name]
    with pytest.raises(CheckpointError, match='cannot be read|no such file'):
        read(path)


STEM = {'features.0.0.c.weight': torch.zeros(8, 3, 3, 3)}
KEYS = {
    'block': [*STEM, 'features.999999999.token_mixer.2.c.weight'],
    'blocks': [*STEM, *(f'features.{i}.token_mixer.2.c.weight' for i in (998, 999))],
    'digits': [*STEM, f'features.{"9" * 400}.token_mixer.2.c.weight'],
    'stage': ['stem.conv1.conv.weight', 'stages.999999999.blocks.999999999.conv.weight'],
    'prefixes': [f'{i}.stem.conv1.conv.weight' for i in range(20_000)],
}


@pytest.mark.parametrize('name', KEYS)
def test_keys_that_would_loop_for_ever(name, tiny):
    start = time.process_time()
    state = dict.fromkeys(KEYS[name], torch.zeros(8, 3, 3, 3))
    with pytest.raises(CheckpointError, match='another architecture'):
        detect_layout(state)
    with pytest.raises(CheckpointError):
        load_checkpoint(tiny, state)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    'state, words',
    [
        ({'x' * (LONGEST_KEY + 1): torch.zeros(1)}, 'a name of 501 characters'),
        (dict.fromkeys(map(str, range(MOST_TENSORS + 1)), torch.zeros(1)), '100,001 tensors'),
        ({1: torch.zeros(1), 'epoch': 3}, 'no weights in it; its keys are int, epoch'),
        ({'a\ud800\x1b[31m': torch.zeros(1)}, r'a\\ud800\\x1b\[31m has no place|is missing'),
    ],
    ids=['long', 'many', 'numbers', 'unprintable'],
)
def test_impossible_keys(state, words):
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(nn.Linear(1, 1), state)


def test_a_cyclic_checkpoint_is_no_problem(tmp_path):
    content = {'meta': {}, 'weight': torch.ones(1, 1), 'bias': torch.ones(1)}
    content['state_dict'] = content['meta']['self'] = content
    torch.save(content, tmp_path / 'a.pth')
    load_checkpoint(nn.Linear(1, 1), tmp_path / 'a.pth')


@pytest.mark.parametrize(
    'meta',
    [
        5,
        {'dataset_meta': 5},
        {'dataset_meta': {'classes': 5}},
        {'dataset_meta': {'classes': [['a']]}},
        {'CLASSES': ['a', 1]},
        {'CLASSES': ['']},
        {'CLASSES': ['x' * 10**5]},
        {'CLASSES': ['x'] * 100_001},
    ],
)
def test_meta_data_that_name_no_classes(tmp_path, meta):
    torch.save({'meta': meta, 'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='meta data'):
        read(tmp_path / 'a.pth')


@pytest.mark.parametrize('palette', [5, ['red'], [[0, 0]], [[0, 0, 256]], [[0, 0, None]]])
def test_a_palette_that_is_none_is_left_out(tmp_path, palette, log):
    meta = {'dataset_meta': {'classes': ('a',), 'palette': palette}}
    torch.save({'meta': meta, 'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'a.pth')
    assert read(tmp_path / 'a.pth')['meta'] == {'dataset_meta': {'classes': ('a',)}}
    assert 'its palette' in log[-1][1]
