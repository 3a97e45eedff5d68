"""Crafted and damaged artifacts are refused by name, or give a valid result; nothing outside the folder is read."""

import json
import os
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from repvit_dense.artifact import manifest, runtimes
from repvit_dense.artifact.predictor import Predictor
from repvit_dense.artifact.result import Result
from repvit_dense.errors import InputError

NAN, INFINITE = float('nan'), float('inf')


# --- files ---


@pytest.fixture
def folder(tmp_path, a_manifest):
    """Return an artifact of OpenVINO, whose model has two files; they are never opened by a runtime."""
    folder = tmp_path / 'artifact'
    folder.mkdir()
    (folder / 'model.xml').write_bytes(b'graph')
    (folder / 'model.bin').write_bytes(b'weights')
    a_manifest(target='openvino', model='model.xml').write(folder)
    return folder


@pytest.fixture
def package(tmp_path, a_manifest):
    """Return an artifact of Core ML, whose model is a folder."""
    weights = tmp_path / 'artifact/model.mlpackage/Data/weights'
    weights.mkdir(parents=True)
    (weights / 'weight.bin').write_bytes(b'weights')
    (weights.parents[1] / 'Manifest.json').write_bytes(b'{}')
    a_manifest(target='coreml', model='model.mlpackage').write(tmp_path / 'artifact')
    return tmp_path / 'artifact'


@pytest.fixture
def described(tmp_path, a_manifest, monkeypatch):
    """Return `described(kind, **changes)`, which writes an artifact; a fake runtime returns two objects of class 1."""

    def infer(images, img_hw):
        batch, _, *size = images.shape
        return {
            'boxes': np.ones((batch, 2, 4), np.float32),
            'scores': np.full((batch, 2), 0.5, np.float32),
            'labels': np.ones((batch, 2), np.int32),
            'masks': np.ones((batch, 2, 8, 8), np.float32),
            'count': np.full(batch, 2, np.int32),
            'seg': np.ones((batch, *size), np.int32),
        }

    def make(kind, **changes):
        (tmp_path / 'model.onnx').write_bytes(b'x')
        a_manifest(kind, **changes).write(tmp_path)
        return tmp_path

    monkeypatch.setitem(sys.modules, 'repvit_dense.artifact.runtimes.onnx', SimpleNamespace(load=lambda *_: infer))
    return make


def refusal(folder):
    with pytest.raises(InputError) as raised:
        runtimes.load(folder, manifest.read(folder))
    message = str(raised.value)
    assert '\n' not in message
    assert len(message) < 1000
    return message


def edit(folder, **fields):
    path = folder / 'manifest.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def to_version_1(folder):
    content = json.loads((folder / 'manifest.json').read_text())
    del content['files']
    (folder / 'manifest.json').write_text(json.dumps(content | {'format_version': 1}))


def test_every_file_of_the_model_is_listed(package):
    assert sorted(manifest.read(package).files) == [
        'model.mlpackage/Data/weights/weight.bin',
        'model.mlpackage/Manifest.json',
    ]


@pytest.mark.parametrize('name', ['model.xml', 'model.bin'])
def test_a_changed_file_is_named(folder, name):
    path = folder / name
    path.write_bytes(bytes(path.stat().st_size))
    assert f'{path}: changed since the export (its SHA-256 differs); copy the whole folder' in refusal(folder)


def test_a_missing_file_is_named(folder):
    (folder / 'model.bin').unlink()
    assert f'{folder / "model.bin"}: this file of the artifact is missing' in refusal(folder)


@pytest.mark.parametrize('name', ['model.onnx', 'other.bin', 'model.onnx.data'])
def test_an_additional_model_file_is_named(folder, name):
    (folder / name).touch()
    assert f'{folder / name}: the artifact was exported without this file' in refusal(folder)


def test_files_of_a_model_folder(package):
    (package / 'model.mlpackage/x').touch()
    assert 'model.mlpackage/x: the artifact was exported without this file' in refusal(package)
    (package / 'model.mlpackage/x').unlink()
    (package / 'model.mlpackage/Manifest.json').write_bytes(b'[]')
    assert 'model.mlpackage/Manifest.json: changed' in refusal(package)


def test_other_files_may_lie_beside_the_model(folder):
    for name in ('README.md', '.DS_Store', 'street.jpg'):
        (folder / name).touch()
    manifest.check_files(folder, manifest.read(folder))


@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize('name', ['model.xml', 'model.bin', 'unlisted.bin'])
def test_no_file_links_out_of_the_folder(folder, name, version):
    if version == 1:
        to_version_1(folder)
    (folder.parent / name).write_bytes(b'weights')
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(folder.parent / name)
    assert f'{folder / name}: links out of the folder' in refusal(folder)


def test_a_link_to_itself(folder):
    (folder / 'model.bin').unlink()
    (folder / 'model.bin').symlink_to('model.bin')
    assert f'{folder / "model.bin"}: ' in refusal(folder)


def test_a_folder_inside_the_model_links_out_of_it(package):
    shutil.move(package / 'model.mlpackage/Data', package.parent / 'Data')
    (package / 'model.mlpackage/Data').symlink_to(package.parent / 'Data')
    assert 'links out of the folder' in refusal(package)


@pytest.mark.parametrize('name', ['model.xml', 'model.bin'])
def test_a_pipe_is_not_waited_for(folder, name):
    to_version_1(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f'{folder / name}: ' in refusal(folder)


def test_a_manifest_that_is_a_pipe(folder):
    (folder / 'manifest.json').unlink()
    os.mkfifo(folder / 'manifest.json')
    assert manifest.is_artifact(folder)
    assert 'manifest.json: cannot be read (not a regular file)' in refusal(folder)


def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_a_folder(folder, tmp_path):
    (folder / 'model.xml').unlink()
    (folder / 'model.xml').mkdir()
    assert 'model.xml: the model file is not a regular file' in refusal(folder)
    (folder / 'model.mlpackage').touch()
    edit(folder, target='coreml', model='model.mlpackage')
    assert 'model.mlpackage: the model folder is not a folder' in refusal(folder)


def test_a_manifest_of_version_1_is_read(described, image):
    folder = described('roi')
    expected = Predictor(folder)(image(60, 80))
    to_version_1(folder)
    assert manifest.read(folder).files is None
    assert np.array_equal(Predictor(folder)(image(60, 80)).boxes, expected.boxes)


def test_a_manifest_that_is_read_and_written_again_stays_right(folder):
    to_version_1(folder)
    manifest.read(folder).write(folder)
    manifest.check_files(folder, manifest.read(folder))
    (folder / 'model.bin').write_bytes(b'other')
    manifest.read(folder).write(folder)
    manifest.check_files(folder, manifest.read(folder))


def test_duplicate_keys_and_a_byte_order_mark(folder):
    path = folder / 'manifest.json'
    text = path.read_text()
    path.write_bytes(b'\xef\xbb\xbf' + text.encode())
    manifest.read(folder)
    path.write_text(text.replace('"task"', '"task": "semantic", "task"'))
    assert "the key 'task' occurs twice" in refusal(folder)


def test_a_huge_manifest(folder, monkeypatch):
    monkeypatch.setattr(manifest, 'LARGEST', 100)
    assert 'at most 100 are expected' in refusal(folder)


# --- values ---

HOSTILE = [
    *(None, True, False, 0, -1, 1, 10**9, 10**30, 1e-300, 1e300, NAN, INFINITE, -INFINITE, 0.5),
    *('', 'x', 'x' * 10**4, '\ud800', '\x1b[31m', '../x', '1e400', 'NaN'),
    *([], [1], [[]], [None] * 3, ['\ud800'] * 3, [NAN] * 3, [0] * 3, [10**9] * 2, [1] * 4, ['a', 'a', 'a']),
    *({}, {'a': 1}, {'images': [1, 3, 10**9, 10**9], 'img_hw': [1, 2]}),
]


def paths_in(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(part, (*path, key))


def replaced(content, path, value):
    """Return JSON content with another value at a path."""
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy


def check(result, height, width):
    assert isinstance(result, Result)
    assert result.image.shape == (height, width, 3)
    for name, value in result.arrays.items():
        if name in ('boxes', 'scores'):
            assert np.isfinite(value).all()
        if name == 'masks':
            assert value.shape[1:] == (height, width)
    assert repr(result)
    assert json.dumps([result.objects(0), result.regions()]).encode()


@pytest.mark.parametrize('kind', ['image', 'panoptic'])
@pytest.mark.filterwarnings('error')
def test_every_value_of_a_manifest_may_be_hostile(described, kind, monkeypatch):
    folder = described(
        kind, preprocess={'scale': [32, 32], 'pad_to': [32, 32], 'pad_colour': [1, 2, 3]}, palette=[[0] * 3] * 3
    )
    content = json.loads((folder / 'manifest.json').read_text())

    monkeypatch.setattr(runtimes, 'check_files', lambda *_: None)
    monkeypatch.setattr(manifest, 'read_json', lambda *_: changed)
    pixels = np.zeros((8, 16, 3), np.uint8)
    valid = 0
    for path in paths_in(content):
        for value in HOSTILE:
            changed = replaced(content, path, value)
            try:
                check(Predictor(folder)(pixels), 8, 16)
                valid += 1
            except InputError as error:
                assert len(str(error)) < 1000
                str(error).encode()
    assert valid > 50


@pytest.mark.parametrize(
    'part, value, words',
    [
        ({'pad_to': [256, 256]}, None, 'preprocess.pad_colour is None, expected an RGB colour, or null without pad_to'),
        ({'std': [1e-300] * 3}, None, r'preprocess.std is \[1e-300, .*, expected three numbers from 1e-06'),
        ({'mean': [NAN] * 3}, None, 'preprocess.mean is'),
        ({'divisor': 0}, None, 'preprocess.divisor is 0'),
        ({'divisor': 10**9}, None, 'preprocess.divisor is 1000000000'),
        ({'scale': [65536, 65536]}, None, 'at most 67,108,864 pixels'),
        (None, {'mask_thr': 1}, 'postprocess.mask_thr is 1, expected a number between 0 and 1'),
        (None, {}, 'postprocess: missing: mask_thr'),
        (None, {'mask_thr': 0.5, 'x': 1}, 'postprocess: unknown: x'),
        (None, {'mask_thr': '0.5'}, "postprocess.mask_thr is '0.5'"),
        (None, {'mask_thr': 0.5, 'mask_canvas': 1}, 'postprocess: unknown: mask_canvas'),
    ],
)
def test_a_refused_value_of_preprocessing_or_postprocessing(described, a_manifest, part, value, words):
    folder = described('roi')
    edit(folder, **({'preprocess': a_manifest().preprocess | part} if part else {'postprocess': value}))
    with pytest.raises(InputError, match=words):
        manifest.read(folder)


@pytest.mark.parametrize('things', [4, -1, INFINITE, NAN, '2', 1.5])
def test_a_count_of_things_beyond_the_classes(described, a_manifest, things):
    folder = described('panoptic')
    edit(folder, postprocess=a_manifest('panoptic').postprocess | {'num_things': things})
    assert 'postprocess.num_things is' in refusal(folder)


@pytest.mark.parametrize(
    'names',
    [['a', 'a', 'b'], ['a', '', 'b'], ['a', ' ', 'b'], ['a\n'], ['\ud800'], ['\x07'], ['x' * 10**4], ['\u202e']],
)
def test_class_names_that_are_none(folder, names):
    edit(folder, classes=names)
    assert 'classes is ' in refusal(folder)
    with pytest.raises(InputError, match='the name'):
        manifest.check_class_names(names)


def test_more_labels_than_classes(described, image):
    folder = described('detection')
    edit(folder, classes=['x'])
    with pytest.raises(InputError, match='returned the label 1, the artifact has 1 classes'):
        Predictor(folder)(image(60, 80))


def test_a_fixed_size_that_is_no_multiple_of_the_divisor(folder):
    edit(folder, inputs={'images': [1, 3, 40, 64], 'img_hw': [1, 2]})
    assert 'the size is [40, 64], expected multiples of the divisor, 32' in refusal(folder)
