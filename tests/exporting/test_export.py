"""Exports from a config and a checkpoint: refused settings, written folders, failures."""

import hashlib
from pathlib import Path

import pytest
import torch

from repvit_dense import config
from repvit_dense.artifact import manifest
from repvit_dense.artifact.targets import TARGETS
from repvit_dense.errors import InputError
from repvit_dense.exporting import formats
from repvit_dense.exporting.export import export_all, limit_detections
from repvit_dense.exporting.settings import ExportSettings


@pytest.mark.parametrize(
    ('name', 'path'),
    [
        ('repvit_maskrcnn_coco', 'rcnn.max_per_img'),
        ('repvit_retinanet_coco', 'max_per_img'),
        ('repvit_mask2former_coco-instance', 'max_per_image'),
    ],
)
def test_max_detections_lowers_the_limit_of_the_config(name, path):
    cfg = config.load(name)
    limit_detections(cfg, 7)
    value = cfg.model.test_cfg
    for key in path.split('.'):
        value = value[key]
    assert value == 7


@pytest.mark.parametrize('count', [0, 101])
def test_max_detections_outside_the_limit_is_refused(count):
    with pytest.raises(InputError, match='must be from 1 to 100'):
        limit_detections(config.load('repvit_retinanet_coco'), count)


def test_max_detections_is_refused_for_a_segmentor():
    with pytest.raises(InputError, match='returns no detections'):
        limit_detections(config.load('repvit_segformer_ade20k'), 10)


def test_a_file_as_output_folder_is_refused_before_the_checkpoint_is_read(trained, out):
    out.write_text('mine')
    with pytest.raises(InputError, match='is not a folder'):
        export_all(trained[0], 'missing.pth', ExportSettings(to='torch', out=out, size=(64, 96)))
    assert out.read_text() == 'mine'


@pytest.mark.parametrize('target', ['onnx', 'openvino', 'torch'])
def test_an_artifact_is_complete_and_certified(export, out, target, capsys):
    results, errors = export([target])
    assert errors == {}
    assert [(result.target, result.folder) for result in results] == [(target, out / target)]
    assert [path.name for path in out.iterdir()] == [target]
    about = manifest.read(out / target)
    assert (about.task, about.target, about.precision) == ('semantic', target, 'fp32')
    assert about.model == TARGETS[target].model
    assert about.inputs == {'images': [1, 3, 64, 96], 'img_hw': [1, 2]}
    assert about.config == 'repvit_segformer_shapes' and len(about.classes) == 12
    assert about.certificate['agreement']['pixels'] > 0.999
    assert len(about.certificate['inputs']) == 3
    assert max(about.certificate['stages'].values()) < 1e-3
    printed = capsys.readouterr().err
    assert f'{target}: written in ' in printed and 'peak memory' in printed


def test_dynamic_axes_and_precision_are_recorded(export, out):
    assert export('onnx', dynamic='batch,size', precision='fp16', no_verify=True)[1] == {}
    about = manifest.read(out / 'onnx-fp16')
    assert about.inputs == {'images': ['batch', 3, 'height', 'width'], 'img_hw': ['batch', 2]}
    assert about.precision == 'fp16'
    assert [shape[0] for shape in about.certificate['inputs']] == [1, 2, 3]


def test_the_checkpoint_is_identified_by_its_hash(trained, export, out):
    export('torch')
    digest = hashlib.sha256(Path(trained[1]).read_bytes()).hexdigest()
    about = manifest.read(out / 'torch')
    assert (about.checkpoint_sha256, about.provenance) == (digest, {'seed': 0})


def test_an_artifact_is_replaced_but_no_other_folder(export, out):
    (out / 'torch').mkdir(parents=True)
    (out / 'torch/notes.txt').write_text('mine')
    with pytest.raises(InputError, match='is not an artifact'):
        export('torch')
    assert (out / 'torch/notes.txt').read_text() == 'mine'
    (out / 'torch/notes.txt').unlink()
    (out / 'torch/manifest.json').write_text('{"task": "semantic", "target": "torch"}')
    assert export('torch')[1] == {}
    assert sorted(path.name for path in (out / 'torch').iterdir()) == ['manifest.json', 'model.pt2']
    assert [path.name for path in out.iterdir()] == ['torch']


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'size': (50, 96)}, 'multiples of 32'),
        ({'size': (0, 0)}, 'multiples of 32'),
        ({'size': (64, -32)}, 'multiples of 32'),
        ({'size': (64_000, 64_000)}, 'more than 200,000,000 pixels in a batch'),
        ({'batch': 100_000, 'size': (64, 96)}, 'more than 200,000,000 pixels in a batch'),
        ({'batch': 0}, '--batch 0'),
        ({'precision': 'int8'}, 'torch supports fp32'),
    ],
)
def test_settings_are_refused_before_the_checkpoint_is_read(trained, out, settings, message):
    with pytest.raises(InputError, match=message):
        export_all(trained[0], 'missing.pth', ExportSettings(to='torch', out=out, **settings))
    assert not out.exists()


def test_the_config_is_left_unchanged(tmp_path):
    cfg = config.load('repvit_retinanet_coco')
    with pytest.raises((InputError, OSError)):
        export_all(cfg, str(tmp_path / 'missing.pth'), ExportSettings(to='torch', out=tmp_path, max_detections=7))
    assert cfg.model.test_cfg.max_per_img == 100


def test_a_failed_format_leaves_nothing_and_the_others_are_written(export, out, capsys, monkeypatch):
    write = formats.write

    def fail_for_onnx(graph, folder, target, options):
        (folder / 'half-written').touch()
        if target == 'onnx':
            raise InputError('seg differs')
        (folder / 'half-written').unlink()
        return write(graph, folder, target, options)

    monkeypatch.setattr(formats, 'write', fail_for_onnx)
    results, errors = export(['onnx', 'torch'])
    assert [result.target for result in results] == ['torch']
    assert errors == {'onnx': 'seg differs'}
    assert [path.name for path in out.iterdir()] == ['torch']
    assert 'error: onnx: seg differs' in capsys.readouterr().err


def test_an_artifact_beyond_the_tolerance_is_written_with_no_verify_only(export, out, monkeypatch):
    from repvit_dense.artifact import runtimes

    load = runtimes.load

    def load_wrong(*args):
        infer = load(*args)
        return lambda *batch: {name: value + 1 for name, value in infer(*batch).items()}

    monkeypatch.setattr(runtimes, 'load', load_wrong)
    assert 'seg' in export('torch')[1]['torch']
    assert not (out / 'torch').exists()
    assert export('torch', no_verify=True)[1] == {}
    assert manifest.read(out / 'torch').certificate['failures']


@pytest.fixture
def certified(monkeypatch):
    """Return `certified(**certificate)`, after which every export writes an empty model with this certificate."""
    from repvit_dense.artifact import runtimes
    from repvit_dense.exporting import certify

    def write(graph, folder, target, options):
        (folder / TARGETS[target].model).touch()
        return TARGETS[target].model

    monkeypatch.setattr(formats, 'write', write)
    monkeypatch.setattr(runtimes, 'load', lambda *_: None)
    return lambda **certificate: monkeypatch.setattr(certify, 'certify', lambda **_: certificate)


TIED = {'agreement': {'detections': 30, 'matched': 0.2}, 'failures': ['detections: matched 0.2'], 'tied': 0.25}


def test_an_artifact_with_tied_scores_is_kept_and_reported(export, out, certified, capsys):
    certified(**TIED)
    results, errors = export('torch')
    assert results == []
    assert f'{out}/torch: kept, but not verified: the scores are tied' in errors['torch']
    assert 'repeats 25% of its result' in errors['torch'] and '--no-verify' in errors['torch']
    assert 'error: torch: ' in capsys.readouterr().err
    assert manifest.read(out / 'torch').certificate['tied'] == 0.25
    assert export('torch', no_verify=True)[1] == {}
    assert [path.name for path in out.iterdir()] == ['torch']


def test_an_artifact_with_tied_scores_replaces_no_verified_one(export, out, certified):
    certified(failures=[])
    assert export('torch')[1] == {}
    certified(**TIED)
    assert 'torch-tied: kept' in export('torch')[1]['torch']
    assert 'tied' not in manifest.read(out / 'torch').certificate
    assert 'tied' in manifest.read(out / 'torch-tied').certificate


def test_an_unexpected_error_of_a_format_does_not_stop_the_others(export, certified, monkeypatch, capsys):
    certified(failures=[])
    write = formats.write

    def fail_for_onnx(graph, folder, target, options):
        if target == 'onnx':
            raise RuntimeError('unexpected')
        return write(graph, folder, target, options)

    monkeypatch.setattr(formats, 'write', fail_for_onnx)
    results, errors = export(['onnx', 'torch'])
    assert [result.target for result in results] == ['torch']
    assert errors == {'onnx': 'RuntimeError: unexpected'}
    assert 'Traceback' in capsys.readouterr().err


def test_a_comparison_without_detections_is_announced(export, certified, capsys):
    certified(agreement={'detections': 0, 'matched': 1.0}, failures=[])
    assert export('torch')[0][0].parity == 'no detections to compare'
    assert 'note: torch: the model detects nothing on the 3 compared batches' in capsys.readouterr().err


def test_int8_needs_training_images(export):
    with pytest.raises(InputError, match='training images'):
        export('onnx', precision='int8')


# --- paths of this machine ---


def _contents(folder):
    """Yield the name and the bytes of every file, and of every file within a zip archive."""
    import zipfile

    for path in sorted(folder.rglob('*')):
        if path.is_file():
            yield path.name, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f'{path.name}/{name}', archive.read(name)


def test_all_training_images_calibrate_if_more_are_asked_for(train_images, trained, capsys):
    from repvit_dense.exporting.export import _calibration_images

    def count(**settings):
        return len(_calibration_images(trained[0], ExportSettings(to='onnx', precision='int8', **settings)))

    assert [count(calibration=2), count()] == [2, 3]
    assert capsys.readouterr().err == ''
    assert count(calibration=9) == 3
    assert 'note: --calibration 9: there are 3 training images; all of them calibrate' in capsys.readouterr().err


@pytest.fixture
def train_images(trained, tmp_path):
    """Give `trained` a few training images."""
    import cv2

    from repvit_dense.exporting.samples import drawn_images

    dataset = trained[0].train_dataloader.dataset
    folder = Path(dataset.data_root, dataset.data_prefix['img_path'])
    folder.mkdir(parents=True)
    for i, image in enumerate(drawn_images(3)):
        cv2.imwrite(str(folder / f'{i}.png'), image)


EXPORTS = [
    ('onnx', 'fp32'),
    ('onnx', 'fp16'),
    ('onnx', 'int8'),
    ('openvino', 'fp32'),
    ('openvino', 'fp16'),
    ('torch', 'fp32'),
    *(
        pytest.param(*export, marks=pytest.mark.deploy)
        for export in (('openvino', 'int8'), ('coreml', 'fp32'), ('coreml', 'fp16'), ('executorch', 'fp32'))
    ),
]


@pytest.mark.parametrize(('target', 'precision'), EXPORTS)
def test_no_file_of_an_artifact_holds_a_path_of_this_machine(export, out, train_images, target, precision):
    import tempfile

    row = TARGETS[target]
    for name in (*row.modules, *(row.int8_modules if precision == 'int8' else ())):
        pytest.importorskip(name)
    assert export(target, precision=precision, no_verify=True)[1] == {}
    paths = [Path(__file__).parents[2], Path(torch.__file__).parents[1], Path.home(), tempfile.gettempdir()]
    texts = [*(f'{path}/'.encode() for path in paths), b'site-packages', b'.py", line', b'.py\\", line']
    for name, content in _contents(out):
        assert [text for text in texts if text in content] == [], name
