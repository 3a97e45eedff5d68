"""Every runtime computes the numbers of the exported model, or refuses with a clear message."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

from repvit_dense.artifact import manifest, runtimes
from repvit_dense.artifact.predictor import Predictor
from repvit_dense.artifact.targets import TARGETS as ALL_TARGETS
from repvit_dense.errors import InputError


class Sums(torch.nn.Module):
    """A semantic model with an obvious result; it does not use the sizes."""

    def forward(self, images, img_hw):
        return ((images.sum(1) > 0).int(),)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Return `files(target)`: content of every file of the small model's artifact by name, the model file first."""
    program = torch.export.export(Sums(), (torch.zeros(1, 3, 32, 64), torch.zeros(1, 2)))
    cache = {}

    def onnx(folder):
        names = {'input_names': ['images', 'img_hw'], 'output_names': ['seg']}
        torch.onnx.export(program, dynamo=True, verbose=False, **names).save(folder / 'model.onnx')

    def openvino(folder):
        import openvino

        onnx(folder)
        openvino.save_model(openvino.Core().read_model(folder / 'model.onnx'), folder / 'model.xml')
        (folder / 'model.onnx').unlink()

    def executorch(folder):
        from executorch.exir import to_edge_transform_and_lower

        (folder / 'model.pte').write_bytes(to_edge_transform_and_lower(program).to_executorch().buffer)

    def save_torch(folder):
        torch.export.save(program, folder / 'model.pt2')

    writers = {'onnx': onnx, 'openvino': openvino, 'executorch': executorch, 'torch': save_torch}

    def make(target):
        if target not in cache:
            folder = tmp_path_factory.mktemp(target)
            writers[target](folder)
            paths = sorted(folder.iterdir(), key=lambda path: path.suffix == '.bin')
            cache[target] = {path.name: path.read_bytes() for path in paths}
        return cache[target]

    return make


@pytest.fixture
def saved(tmp_path, files, a_manifest):
    """Return `saved(target)`, which writes the artifact of the small model with a fixed size."""

    def save(target):
        for name, content in files(target).items():
            (tmp_path / name).write_bytes(content)
        fixed = {'images': [1, 3, 32, 64], 'img_hw': [1, 2]}
        a_manifest('semantic', target=target, model=next(iter(files(target))), inputs=fixed).write(tmp_path)
        return tmp_path

    return save


def load(folder, threads=None):
    return runtimes.load(folder, manifest.read(folder), threads)


def installed(name, *marks):
    module = {'onnx': 'onnxruntime'}.get(name, name)
    missing = importlib.util.find_spec(module) is None
    return pytest.param(name, marks=[pytest.mark.skipif(missing, reason=f'{module} is not installed'), *marks])


TARGETS = pytest.mark.parametrize(
    'target',
    [installed('onnx'), installed('openvino'), installed('torch'), installed('executorch', pytest.mark.deploy)],
)


@TARGETS
@pytest.mark.parametrize('threads', [None, 1])
def test_outputs_equal_the_model(saved, target, threads):
    images = np.random.default_rng(0).normal(size=(1, 3, 32, 64)).astype(np.float32)
    outputs = load(saved(target), threads)(images, np.array([[30, 60]], np.float32))
    assert outputs.keys() == {'seg'}
    assert outputs['seg'].dtype == np.int32
    assert np.array_equal(outputs['seg'], images.sum(1) > 0)


# Handle a signal after two artifacts were loaded and freed.
SIGNAL_AFTER_TWO_ARTIFACTS = """
import os, signal, sys
from repvit_dense.artifact import manifest, runtimes

first, second = (runtimes.load(sys.argv[1], manifest.read(sys.argv[1])) for _ in range(2))
del first, second
signal.signal(signal.SIGINT, lambda *_: print('handled'))
os.kill(os.getpid(), signal.SIGINT)
"""


@TARGETS
def test_signals_are_handled_after_two_models_were_freed(saved, target):
    done = subprocess.run(
        [sys.executable, '-c', SIGNAL_AFTER_TWO_ARTIFACTS, saved(target)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, 'handled\n'), done.stderr


@TARGETS
@pytest.mark.parametrize('content', [b'', b'nonsense' * 50, None], ids=['empty', 'foreign', 'cut short'])
def test_a_damaged_model_file(saved, target, content):
    folder = saved(target)
    path = folder / manifest.read(folder).model
    path.write_bytes(path.read_bytes()[:-80] if content is None else content)
    with pytest.raises(InputError, match='changed since the export'):
        load(folder)
    manifest.read(folder).write(folder)  # with the digest of the damaged file
    with pytest.raises(InputError) as raised:
        load(folder)
    message = str(raised.value)
    assert str(path) in message
    assert 'cannot load this file' in message
    assert '\n' not in message


@pytest.mark.parametrize(
    'images, img_hw, words',
    [
        (np.zeros((1, 3, 64, 64), np.float32), np.zeros((1, 2), np.float32), 'images must be 1 x 3 x 32 x 64'),
        (np.zeros((2, 3, 32, 64), np.float32), np.zeros((2, 2), np.float32), 'got 2 x 3 x 32 x 64'),
        (np.zeros((1, 3, 32, 64), np.uint8), np.zeros((1, 2), np.float32), 'images must be float32, got uint8'),
        (np.zeros((1, 3, 32, 64), np.float32), np.zeros((1, 2)), 'img_hw must be float32, got float64'),
        (np.zeros((3, 32, 64), np.float32), np.zeros((1, 2), np.float32), 'got 3 x 32 x 64'),
        (np.zeros((1, 3, 32, 64), np.float32), np.zeros((1, 4), np.float32), 'img_hw must be 1 x 2, got 1 x 4'),
    ],
)
def test_an_input_that_does_not_fit(saved, images, img_hw, words):
    with pytest.raises(InputError) as raised:
        load(saved('onnx'))(images, img_hw)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    'images, img_hw, words',
    [
        ((1, 3, 32, 40), (1, 2), 'multiples of 32 pixels, got (32, 40)'),
        ((2, 3, 32, 32), (1, 2), 'img_hw must be batch x 2, got 1 x 2'),
        ((1, 1, 32, 32), (1, 2), 'images must be batch x 3 x height x width'),
        ((1, 3, 0, 32), (1, 2), 'multiples of 32 pixels'),
    ],
)
def test_an_input_that_does_not_fit_an_open_shape(artifact, images, img_hw, words):
    with pytest.raises(InputError) as raised:
        load(artifact('detection'))(np.zeros(images, np.float32), np.zeros(img_hw, np.float32))
    assert words in str(raised.value)


def test_open_shapes(artifact):
    run = load(artifact('semantic'))
    for shape in ((1, 3, 32, 32), (3, 3, 64, 128)):
        outputs = run(np.ones(shape, np.float32), np.ones((shape[0], 2), np.float32))
        assert outputs['seg'].shape == (shape[0], *shape[2:])
        assert (outputs['seg'] == 2).all()


def test_a_model_of_another_manifest(artifact, tiny_onnx):
    folder = artifact('roi')
    (folder / 'model.onnx').write_bytes(tiny_onnx('semantic'))
    manifest.read(folder).write(folder)
    with pytest.raises(InputError, match='its outputs are seg, those of the manifest boxes, .*do not belong together'):
        load(folder)


@pytest.mark.parametrize(
    'target, module, command',
    [
        ('onnx', 'onnxruntime', 'pip install "repvit_dense[onnx]"'),
        ('openvino', 'openvino', 'pip install "repvit_dense[openvino]"'),
        ('executorch', 'executorch', 'pip install "repvit_dense[executorch]"'),
    ],
)
def test_a_runtime_that_is_not_installed(tmp_path, a_manifest, monkeypatch, target, module, command):
    for name in [name for name in sys.modules if name.partition('.')[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    (tmp_path / ALL_TARGETS[target].model).touch()
    a_manifest(target=target, model=ALL_TARGETS[target].model).write(tmp_path)
    with pytest.raises(InputError) as raised:
        load(tmp_path)
    assert command in str(raised.value)


@pytest.mark.skipif(sys.platform == 'darwin', reason='runs there')
def test_core_ml_runs_on_macos_only(tmp_path, a_manifest):
    (tmp_path / 'model.mlpackage').mkdir()
    (tmp_path / 'model.mlpackage' / 'Manifest.json').touch()
    a_manifest(target='coreml', model='model.mlpackage').write(tmp_path)
    with pytest.raises(InputError, match='macOS only'):
        load(tmp_path)


@pytest.mark.parametrize('threads', [0, -1])
def test_no_threads(artifact, threads):
    with pytest.raises(InputError, match=f'--threads {threads}: must be 1 or more'):
        load(artifact('detection'), threads)


# --- a runtime that returns something else than the exported graph ---


@pytest.fixture
def answer(artifact, monkeypatch):
    """Return `answer(kind, **outputs)`, which runs an artifact whose runtime returns these outputs, else sound ones."""

    def run(kind, **outputs):
        sound = {
            'boxes': np.zeros((1, 4, 4), np.float32),
            'scores': np.full((1, 4), 0.5, np.float32),
            'labels': np.zeros((1, 4), np.int32),
            'masks': np.zeros((1, 4, 28, 28), np.float32),
            'count': np.array([2], np.int32),
            'seg': np.zeros((1, 96, 128), np.int32),
        }
        folder = artifact(kind, inputs={'images': [1, 3, 96, 128], 'img_hw': [1, 2]})
        wanted = {name: sound[name] for name in manifest.read(folder).outputs}
        changed = {name: value for name, value in (wanted | outputs).items() if value is not None}
        monkeypatch.setattr(runtimes.onnx, 'load', lambda *_: lambda *_: changed)
        return Predictor(folder)(np.zeros((96, 128, 3), np.uint8))

    return run


def test_sound_outputs(answer):
    assert len(answer('roi')) == 2
    assert answer('roi', labels=np.array([[2] * 4]), count=np.array([4], np.uint8)).labels.tolist() == [2] * 4
    assert answer('detection', scores=np.full((1, 4), 0.5, np.float16)).scores.dtype == np.float32
    assert (answer('semantic', seg=np.full((1, 96, 128), 2)).seg == 2).all()


@pytest.mark.parametrize(
    'kind, outputs, words',
    [
        ('detection', {'boxes': None}, 'returned no boxes'),
        ('detection', {'boxes': np.zeros((4, 4), np.float32)}, r'boxes as float32 \(4, 4\), expected floating-point'),
        ('detection', {'boxes': np.zeros((1, 4, 5), np.float32)}, r'expected floating-point numbers \(1, 4, 4\)'),
        ('detection', {'scores': np.zeros((1, 3), np.float32)}, r'scores as float32 \(1, 3\)'),
        ('detection', {'scores': np.zeros((1, 4), int)}, 'scores as int32'),
        ('detection', {'scores': np.zeros((1, 4), complex)}, 'scores as complex128'),
        ('detection', {'labels': np.zeros((1, 4), np.float32)}, 'labels as float32 .* expected integers'),
        ('detection', {'labels': np.zeros((1, 4), object)}, 'labels as object'),
        ('detection', {'labels': np.full((1, 4), 90)}, 'returned the label 90, the artifact has 3 classes'),
        ('detection', {'labels': np.full((1, 4), -1)}, 'returned the label -1'),
        ('detection', {'labels': np.full((1, 4), 2**32)}, 'returned the label 2147483647'),
        ('detection', {'count': np.array([5])}, 'a count of 5 objects in 4 rows'),
        ('detection', {'count': np.array([-1])}, 'a count of -1 objects'),
        ('detection', {'count': np.array(2)}, r'count as int32 \(\)'),
        ('detection', {'scores': np.full((1, 4), 7, np.float32)}, 'a score of 7, not from 0 to 1'),
        ('roi', {'masks': np.zeros((1, 3, 28, 28), np.float32)}, r'masks as float32 \(1, 3, 28, 28\)'),
        ('panoptic', {'labels': np.full((1, 4), 3)}, 'returned the label 3'),
        (
            'semantic',
            {'seg': np.zeros((1, 48, 64), int)},
            r'seg as int32 \(1, 48, 64\), expected integers \(1, 96, 128\)',
        ),
        ('semantic', {'seg': np.full((1, 96, 128), 255)}, 'returned the label 255'),
    ],
)
def test_outputs_that_no_export_returns(answer, kind, outputs, words):
    with pytest.raises(InputError, match=words):
        answer(kind, **outputs)


def test_objects_with_nan_are_left_out_with_a_warning(answer, capsys):
    scores = np.array([[np.nan, 0.5, 0.5, 0.5]], np.float32)
    boxes = np.full((1, 4, 4), np.nan, np.float32)
    assert len(answer('roi', scores=scores)) == 1
    assert len(answer('roi', boxes=boxes)) == 0
    assert '1 of 2 objects are left out' in capsys.readouterr().err
