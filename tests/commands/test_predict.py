"""`predict` with a checkpoint and with an artifact."""

import json
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import pytest
from pycocotools import mask as codec

from repvit_dense import cli
from repvit_dense.artifact.predictor import Predictor
from repvit_dense.commands import predict
from repvit_dense.errors import InputError

ALL_SCORES = ['model.test_cfg.rcnn.score_thr=0.0']


def run(*arguments):
    """Return the exit code of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.main('predict', [str(argument) for argument in arguments])
    return ended.value.code


def test_a_work_dir_predicts_every_image(work_dir, images, tmp_path):
    out = tmp_path / 'out'
    outcome = predict.run(predict.Options(str(work_dir), [str(images)], out=out, score=0, device='cpu'))
    assert (outcome.folder, outcome.page, outcome.failed) == (out, out / 'index.html', [])
    written = sorted(path.name for path in out.iterdir())
    assert written == ['a-2.jpg', 'a.jpg', 'b.jpg', 'index.html', 'predictions.json']
    entries = json.loads((out / 'predictions.json').read_text())
    assert [entry['image'] for entry in entries] == [str(images / name) for name in ('a.png', 'b.jpg', 'below/a.png')]
    first = entries[0]['objects'][0]
    assert codec.decode(first['mask']).shape == (70, 90)
    assert 0 <= first['box'][0] <= first['box'][2] <= 90


def test_config_and_checkpoint_predict_the_same_as_their_work_dir(work_dir, images, tmp_path):
    checkpoint, image = str(work_dir / 'epoch_1.pth'), str(images / 'a.png')
    both = [
        predict.Options('repvit_maskrcnn_shapes', [checkpoint, image], cfg_options=ALL_SCORES, backbone='repvit_m0_6'),
        predict.Options(str(work_dir), [image]),
    ]
    written = []
    for number, options in enumerate(both):
        options.out, options.score, options.device = tmp_path / str(number), 0, 'cpu'
        written.append((predict.run(options).folder / 'predictions.json').read_text())
    assert written[0] == written[1]
    assert '"score"' in written[0]


def test_an_unreadable_image_leaves_the_others(work_dir, images, tmp_path, capsys):
    out = tmp_path / 'out'
    assert run(work_dir, images / 'notes.txt', images / 'b.jpg', '--out', out, '--device', 'cpu') == 2
    assert 'notes.txt: not an image' in capsys.readouterr().err
    assert (out / 'b.jpg').exists()
    assert len(json.loads((out / 'predictions.json').read_text())) == 1


@pytest.mark.parametrize('name', ['missing.jpg', 'below/empty'])
def test_a_path_without_images_is_refused(images, name):
    (images / 'below' / 'empty').mkdir()
    with pytest.raises(InputError, match='no such image|no image in this folder'):
        predict.find_images([str(images / name)])


def test_a_config_without_checkpoint_is_refused(images):
    with pytest.raises(InputError, match='a config needs a checkpoint'):
        predict.run(predict.Options('repvit_maskrcnn_shapes', [str(images)]))


def test_objects_of_an_artifact(artifact, images, tmp_path, capsys):
    out = tmp_path / 'out'
    arguments = [artifact('roi'), images / 'a.png', images / 'notes.txt', '--out', out, '--score', 0.5, '--threads', 1]
    assert run(*arguments) == 2
    assert 'notes.txt: not an image that can be read' in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ['a.jpg', 'index.html', 'predictions.json']
    (entry,) = json.loads((out / 'predictions.json').read_text())
    assert entry['image'] == str(images / 'a.png')
    assert [(each['label'], each['score']) for each in entry['objects']] == [('dog', 0.9), ('cat', 0.6)]
    assert entry['objects'][0]['box'] == pytest.approx([9, 14, 54, 49], abs=0.02)
    expected = Predictor(artifact('roi'))(images / 'a.png').masks[0]
    assert np.array_equal(codec.decode(entry['objects'][0]['mask']), expected)


@pytest.mark.parametrize('kind', ['panoptic', 'semantic'])
def test_segments_of_an_artifact(artifact, images, tmp_path, kind):
    out = tmp_path / 'out'
    assert run(artifact(kind), images / 'a.png', '--out', out) == 0
    (entry,) = json.loads((out / 'predictions.json').read_text())
    written = cv2.imread(str(out / 'a.segments.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(written, Predictor(artifact(kind))(images / 'a.png').segment_map())
    for segment in entry['segments']:
        assert segment['share'] == pytest.approx(np.mean(written == segment['number']), abs=1e-4)
        assert segment['label'] in ('cat', 'dog', 'sky')


def test_an_artifact_predicts_without_torch_and_openmmlab(artifact, images, tmp_path):
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
    arguments = [artifact('image'), images / 'a.png', '--out', out]
    command = [sys.executable, '-c', textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'Page: {out / "index.html"}\n'
    assert 'Traceback' not in done.stderr
    assert (out / 'a.jpg').exists()


def test_a_folder_that_is_no_model_is_refused(refuse_in_a_line, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'x.jpg').touch()
    assert 'folder: no config in this folder' in refuse_in_a_line('predict', 'folder', 'x.jpg')


def test_options_of_a_config_do_not_go_with_an_artifact(refuse_in_a_line, artifact, images):
    message = refuse_in_a_line('predict', artifact(), images / 'a.png', '--backbone', 'resnet18')
    assert '--backbone does not go with an artifact' in message
