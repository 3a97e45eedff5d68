"""`predict ARTIFACT IMAGE...`: the files of a prediction with a checkpoint, and pictures drawn without mmdet."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as codec

from repvit_dense import cli
from repvit_dense.artifact.draw import draw
from repvit_dense.artifact.predictor import Predictor

CLASSES = ['cat', 'dog', 'sky']
KINDS = ['detection', 'roi', 'image', 'panoptic', 'semantic']


@pytest.fixture
def photos(tmp_path, image):
    """Two images and a text file that calls itself one."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    cv2.imwrite(str(folder / 'a.png'), image(97, 131))
    cv2.imwrite(str(folder / 'b.png'), image(60, 50, seed=1))
    (folder / 'notes.jpg').write_text('hello')
    return folder


def predict(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main('predict', [str(argument) for argument in arguments])
    return ended.value.code


def test_objects_of_an_artifact(artifact, photos, tmp_path, capsys):
    out = tmp_path / 'out'
    assert predict(artifact('roi'), photos, '--out', out, '--score', 0.5, '--threads', 1) == 2
    assert 'notes.jpg: not an image that can be read' in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ['a.jpg', 'b.jpg', 'index.html', 'predictions.json']
    first, _ = json.loads((out / 'predictions.json').read_text())
    assert first['image'] == str(photos / 'a.png')
    assert [(entry['label'], entry['score']) for entry in first['objects']] == [('dog', 0.9), ('cat', 0.6)]
    assert first['objects'][0]['box'] == pytest.approx([13.1, 19.4, 78.6, 67.9], abs=0.02)
    expected = Predictor(artifact('roi'))(photos / 'a.png')['masks'][0]
    assert np.array_equal(codec.decode(first['objects'][0]['mask']), expected)


@pytest.mark.parametrize('kind', ['panoptic', 'semantic'])
def test_segments_of_an_artifact(artifact, photos, tmp_path, kind):
    out = tmp_path / 'out'
    assert predict(artifact(kind), photos / 'a.png', '--out', out) == 0
    (entry,) = json.loads((out / 'predictions.json').read_text())
    found = cv2.imread(str(out / 'a.segments.png'), cv2.IMREAD_UNCHANGED)
    result = Predictor(artifact(kind))(photos / 'a.png')
    assert np.array_equal(found, result['seg' if kind == 'semantic' else 'segments'])
    for segment in entry['segments']:
        assert segment['share'] == pytest.approx(np.mean(found == segment['number']), abs=1e-4)
        assert segment['label'] in CLASSES


def test_it_runs_where_torch_and_openmmlab_are_missing(artifact, photos, tmp_path):
    code = """
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name in ('torch', 'torchvision', 'timm', 'mmcv', 'mmengine', 'mmdet', 'mmseg', 'matplotlib'):
                    raise ImportError(name)

        sys.meta_path.insert(0, Missing())
        from repvit_dense.cli import main
        main('predict')
    """
    out = tmp_path / 'out'
    arguments = [artifact('image'), photos / 'a.png', '--out', out]
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'Page: {out / "index.html"}\n'
    assert 'Traceback' not in done.stderr
    assert (out / 'a.jpg').exists()


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(97, 131), (1, 1), (700, 500), (3000, 4)])
def test_every_image_has_a_picture(artifact, image, kind, size):
    pixels = image(*size)
    before = pixels.copy()
    picture = draw(pixels, Predictor(artifact(kind))(pixels), CLASSES)
    assert np.array_equal(pixels, before)
    assert picture.dtype == np.uint8
    assert picture.shape[0] % size[0] == picture.shape[1] % size[1] == 0
    assert picture.shape[2] == 3


def test_a_mask_is_tinted_in_the_colour_of_its_class():
    """Away from outlines and names, inside and outside."""
    masks = np.zeros((1, 400, 400), bool)
    masks[0, 100:300, 100:300] = True
    found = {
        'boxes': np.array([[100, 100, 300, 300]], np.float32),
        'scores': np.array([0.9], np.float32),
        'labels': np.array([1]),
        'masks': masks,
    }
    grey = np.full((400, 400, 3), 100, np.uint8)
    picture = draw(grey, found, CLASSES, palette=[[0, 0, 0], [255, 0, 0], [0, 0, 0]])
    blue, green, red = picture[200, 200].astype(int)
    assert red > 150 > 100 > green == blue
    assert picture[350, 350].tolist() == [100] * 3


def test_what_scores_less_is_not_drawn():
    found = {
        'boxes': np.array([[10, 10, 300, 300]], np.float32),
        'scores': np.array([0.2], np.float32),
        'labels': np.array([0]),
    }
    grey = np.full((400, 400, 3), 100, np.uint8)
    assert np.array_equal(draw(grey, found, CLASSES, score=0.3), grey)
    assert not np.array_equal(draw(grey, found, CLASSES, score=0.1), grey)


def test_classes_have_colours_of_their_own():
    from repvit_dense.artifact.draw import _palette

    colours = np.array(_palette(80))
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(80)
    assert distance.min() > 5


def test_the_page_needs_no_mmengine():
    code = 'import repvit_dense.page, sys; print(sorted({"mmengine", "torch", "numpy"} & sys.modules.keys()))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout == '[]\n', done.stderr
