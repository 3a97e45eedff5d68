"""A manifest is read as it was written; anything else is refused by name."""

import dataclasses
import hashlib
import json

import pytest

from repvit_dense.artifact import manifest
from repvit_dense.errors import InputError


@pytest.fixture
def folder(tmp_path, a_manifest):
    """Return an artifact whose model file is never opened."""
    folder = tmp_path / 'artifact'
    folder.mkdir()
    (folder / 'model.onnx').write_bytes(b'x')
    a_manifest('roi').write(folder)
    return folder


def change(folder, **fields):
    path = folder / 'manifest.json'
    content = json.loads(path.read_text())
    for name, value in fields.items():
        if value is ...:
            del content[name]
        else:
            content[name] = value
    path.write_text(json.dumps(content))


def refusal(folder):
    with pytest.raises(InputError) as raised:
        manifest.read(folder)
    message = str(raised.value)
    assert '\n' not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize('kind', ['detection', 'roi', 'image', 'panoptic', 'semantic'])
def test_a_written_manifest_is_read(tmp_path, a_manifest, kind):
    (tmp_path / 'model.onnx').write_bytes(b'x')
    written = a_manifest(kind, palette=[[1, 2, 3]] * 3, certificate={'a': 1.5})
    written.write(tmp_path)
    digests = {'model.onnx': hashlib.sha256(b'x').hexdigest()}
    assert manifest.read(tmp_path) == dataclasses.replace(written, files=digests)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['manifest.json', 'model.onnx']


def test_tuples_are_written_as_lists(tmp_path, a_manifest):
    (tmp_path / 'model.onnx').touch()
    a_manifest(palette=[(1, 2, 3)] * 3, classes=('a', 'b', 'c')).write(tmp_path)
    assert manifest.read(tmp_path).palette == [[1, 2, 3]] * 3


def test_an_invalid_manifest_is_not_written(tmp_path, a_manifest):
    with pytest.raises(InputError, match='mask_kind is "box"|mask_kind'):
        a_manifest('roi', mask_kind='box').write(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('version', [3, '1', None, True, 0, 1.0, [1]])
def test_another_version(folder, version):
    change(folder, format_version=version)
    assert f'format_version is {version!r}, this release of repvit_dense reads 1 and 2' in refusal(folder)


def test_a_missing_field(folder):
    change(folder, classes=..., task=...)
    assert 'missing: classes, task' in refusal(folder)


def test_an_unknown_field(folder):
    change(folder, hook='import os')
    assert 'unknown: hook' in refusal(folder)


@pytest.mark.parametrize(
    'name, value',
    [
        ('task', 'pose'),
        ('task', ['instance']),
        ('target', 'exe'),
        ('precision', 'fp8'),
        ('classes', []),
        ('classes', ['a', 1]),
        ('classes', 'abc'),
        ('palette', [[0, 0, 0]]),
        ('palette', [[0, 0, 256]] * 3),
        ('preprocess', []),
        ('inputs', {'images': [1, 3, 32, 32]}),
        ('inputs', {'images': [1, 4, 32, 32], 'img_hw': [1, 2]}),
        ('inputs', {'images': [1, 3, 32, -32], 'img_hw': [1, 2]}),
        ('inputs', {'images': [1, 3, 32, 32], 'img_hw': [2, 2]}),
        ('outputs', ['boxes']),
        ('mask_kind', None),
        ('target', ['onnx']),
        ('postprocess', []),
        ('config', 3),
        ('versions', {'torch': 2}),
        ('certificate', []),
    ],
)
def test_a_value_of_the_wrong_kind(folder, name, value):
    change(folder, **{name: value})
    assert f'{name} is ' in refusal(folder)


@pytest.mark.parametrize(
    'name, value',
    [('scale', [0, 5]), ('keep_ratio', 1), ('std', [1, 0, 1]), ('mean', [1, 2]), ('divisor', 0.5), ('pad_to', 640)],
)
def test_a_wrong_value_of_the_preprocessing(folder, a_manifest, name, value):
    change(folder, preprocess=a_manifest().preprocess | {name: value})
    assert f'preprocess.{name} is ' in refusal(folder)


def test_an_unknown_step_of_the_preprocessing(folder, a_manifest):
    change(folder, preprocess=a_manifest().preprocess | {'rotate': 90})
    assert 'preprocess: unknown: rotate' in refusal(folder)


@pytest.mark.parametrize(
    'text', ['', '{', '[]', 'null', '{"a": NaN}', '[' * 100_000, '\udcff', '<!DOCTYPE html>'], ids=range(8)
)
def test_other_content_is_refused(folder, text):
    (folder / 'manifest.json').write_bytes(text.encode(errors='surrogateescape'))
    assert 'manifest.json' in refusal(folder)


def test_a_truncated_manifest(folder):
    path = folder / 'manifest.json'
    path.write_text(path.read_text()[:300])
    assert 'not valid JSON' in refusal(folder)


def test_infinite_numbers(folder, a_manifest):
    path = folder / 'manifest.json'
    path.write_text(path.read_text().replace('"pad_value": 0.0', '"pad_value": 1e999'))
    assert 'preprocess.pad_value is inf' in refusal(folder)


@pytest.mark.parametrize(
    'model',
    ['../model.onnx', '/etc/passwd', '..', '.', '', 'a/b', 'a\\b.onnx', 'C:x.onnx', 'C:\\x', 'x\0.onnx', None, 3]
    + ['x' * 5000 + '.onnx', 'con.onnx', 'a\ud800.onnx', 'a\x1b.onnx', 'a.onnx ', 'manifest.json', 'model.xml'],
)
def test_a_model_outside_the_folder(folder, model):
    (folder.parent / 'model.onnx').touch()
    change(folder, model=model)
    assert 'expected the name of a file in this folder' in refusal(folder)


def test_a_link_out_of_the_folder(folder):
    (folder.parent / 'elsewhere.onnx').touch()
    (folder / 'model.onnx').unlink()
    (folder / 'model.onnx').symlink_to(folder.parent / 'elsewhere.onnx')
    assert 'links out of the folder' in refusal(folder)


def test_a_folder_that_is_a_link_itself(folder, tmp_path):
    (tmp_path / 'latest').symlink_to(folder)
    assert manifest.read(tmp_path / 'latest') == manifest.read(folder)


def test_a_missing_model_file(folder):
    (folder / 'model.onnx').unlink()
    assert 'the model file is missing' in refusal(folder)


@pytest.mark.parametrize('name, words', [('none', 'no such folder'), ('', 'no manifest.json in this folder')])
def test_no_artifact(tmp_path, name, words):
    assert words in refusal(tmp_path / name)
    assert not manifest.is_artifact(tmp_path / name)


def test_an_artifact_is_known_by_its_manifest(folder):
    assert manifest.is_artifact(folder)


def test_provenance_is_read_and_an_older_artifact_has_none(folder, a_manifest):
    a_manifest('roi', provenance={'seed': 0, 'data': {'name': 'nuclei'}}).write(folder)
    assert manifest.read(folder).provenance == {'seed': 0, 'data': {'name': 'nuclei'}}
    change(folder, provenance=...)
    assert manifest.read(folder).provenance is None


@pytest.mark.parametrize(
    'value', ['text', [1], {'a': {'b': {'c': {'d': {'e': {'f': {'g': 1}}}}}}}, {'a': 'x' * 20_000}]
)
def test_provenance_that_is_none_is_refused(folder, value):
    change(folder, provenance=value)
    assert 'provenance is ' in refusal(folder)
