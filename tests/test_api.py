"""The Python API: the verbs of the command line, imported at their first use."""

import dataclasses
import importlib
import inspect
import subprocess
import sys
import time
from pathlib import Path

import pytest

import repvit_dense as rd
from repvit_dense.errors import InputError

ROOT = Path(__file__).parents[1]
VERBS = ('train', 'test', 'predict', 'export', 'load', 'serve')


@pytest.mark.parametrize('verb', VERBS)
def test_a_verb_has_the_names_and_defaults_of_its_command(verb):
    options = importlib.import_module(f'repvit_dense.commands.{verb}').Options
    signature = inspect.signature(getattr(rd, verb))
    fields = {field.name: field for field in dataclasses.fields(options)}
    assert list(signature.parameters) and set(signature.parameters) == set(fields)
    for name, parameter in signature.parameters.items():
        if fields[name].default is not dataclasses.MISSING:
            assert parameter.default == fields[name].default


@pytest.mark.parametrize('verb', VERBS)
def test_a_verb_documents_its_arguments_and_errors(verb):
    doc = getattr(rd, verb).__doc__
    assert 'Args:' in doc
    assert 'Raises:' in doc
    for name in inspect.signature(getattr(rd, verb)).parameters:
        assert f'    {name}: ' in doc or name == 'local_rank'


@pytest.mark.parametrize(
    'verb, options',
    [('train', {'amp': 'fp8'}), ('train', {'launcher': 'ssh'}), ('export', {'to': ['onnx', 'tflitee']})],
)
def test_values_that_the_command_line_refuses_are_refused(verb, options):
    (name,) = options
    with pytest.raises(InputError, match=f"{name}=.*expected '"):
        getattr(rd, verb)('repvit_maskrcnn_shapes', **options)


def test_a_folder_of_images_is_predicted(artifact, tmp_path, image):
    """A single path needs no list."""
    import cv2

    (tmp_path / 'photos').mkdir()
    cv2.imwrite(str(tmp_path / 'photos' / 'a.png'), image(40, 50))
    predictions = rd.predict(artifact('roi'), tmp_path / 'photos', out=tmp_path / 'out')
    assert (predictions.folder / 'a.jpg').is_file()
    assert predictions.failed == []


def test_the_verbs_are_listed_and_others_refused():
    assert {*VERBS, 'list_backbones', 'list_configs'} <= set(dir(rd))
    with pytest.raises(AttributeError, match='nonsense'):
        rd.nonsense  # noqa: B018


def run(code, *arguments):
    done = subprocess.run([sys.executable, '-c', code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_is_fast():
    code = (
        'import sys, time; before, start = set(sys.modules), time.perf_counter(); import repvit_dense\n'
        'print(time.perf_counter() - start, *{n.partition(".")[0] for n in set(sys.modules) - before})'
    )
    start = time.perf_counter()
    seconds, *modules = min((run(code) for _ in range(5)), key=lambda words: float(words[0]))
    assert not {'torch', 'numpy', 'cv2', 'mmengine'} & set(modules)
    assert float(seconds) < 0.1 or time.perf_counter() - start > 30  # a machine that is busy with other work


def test_an_artifact_is_loaded_without_torch_and_openmmlab(artifact):
    code = 'import sys; import repvit_dense as rd; model = rd.load(sys.argv[1]); print(*sys.modules)'
    loaded = {name.partition('.')[0] for name in run(code, str(artifact('roi')))}
    assert 'onnxruntime' in loaded
    assert not {'torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmdet', 'mmseg'} & loaded


def test_training_returns_folder_scores_and_checkpoint(tmp_path):
    """Two epochs on two drawn images; the result of the training is loaded and predicts."""
    root = tmp_path / 'shapes'
    options = [
        *(f'embedded_data.{key}' for key in ('num_train=2', 'num_val=1', 'size=64,64', f'root={root}')),
        *(f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')),
        *(f'{split}_evaluator.ann_file={root}/annotations/instances_val2017.json' for split in ('val', 'test')),
        *('train_dataloader.num_workers=0', 'val_dataloader.num_workers=0'),
        *('train_dataloader.persistent_workers=False', 'val_dataloader.persistent_workers=False'),
    ]
    work_dir = tmp_path / 'run'
    trained = rd.train(
        'repvit_maskrcnn_shapes', backbone='m0_6', cfg_options=options, work_dir=work_dir, epochs=2, seed=0
    )
    assert trained.folder == work_dir
    assert trained.checkpoint.parent == work_dir
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= trained.scores.keys()
    assert len(list(work_dir.glob('epoch_*.pth'))) == 2
    model = rd.load(trained.folder, device='cpu')
    assert model.names[0] == 'circle'
    assert model(next((root / 'val2017').iterdir())).image.shape == (64, 64, 3)
    scores = rd.test(trained.folder, work_dir=str(tmp_path / 'tested'))
    assert scores['coco/segm_mAP'] == pytest.approx(trained.scores['coco/segm_mAP'], abs=1e-3)
