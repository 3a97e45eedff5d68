"""`predict` with a checkpoint and with an artifact."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import pytest
from pycocotools import mask as codec

from repvit_dense import cli
from repvit_dense.artifact import pictures, sources
from repvit_dense.artifact.predictor import ImageModel, Predictor
from repvit_dense.commands import load, predict
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
    assert written == ['a-2.jpg', 'a.jpg', 'b.jpg', 'index.html', 'predictions.json', 'predictions.jsonl']
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
    assert 'notes.txt: cannot be read as an image' in capsys.readouterr().err
    assert (out / 'b.jpg').exists()
    assert len(json.loads((out / 'predictions.json').read_text())) == 1


def test_a_subfolder_that_cannot_be_read_leaves_the_others(images, tmp_path, monkeypatch, capsys, artifact):
    scandir = os.scandir

    def failing(folder='.'):
        if str(folder).endswith('below'):
            raise PermissionError(errno.EACCES, 'Permission denied')
        return scandir(folder)

    monkeypatch.setattr(os, 'scandir', failing)
    outcome = predict.run(predict.Options(artifact('roi'), [images], out=tmp_path / 'out'))
    assert outcome.failed == [images / 'below']
    assert 'below: cannot be read' in capsys.readouterr().err
    assert len(json.loads((outcome.folder / 'predictions.json').read_text())) == 2


@pytest.mark.parametrize('name', ['missing.jpg', 'below/empty'])
def test_a_path_without_images_is_refused(images, name):
    (images / 'below' / 'empty').mkdir()
    with pytest.raises(InputError, match='no such image|no image in this folder'):
        sources.find([images / name])


def test_a_config_without_checkpoint_is_refused(images):
    with pytest.raises(InputError, match='a config needs a checkpoint'):
        predict.run(predict.Options('repvit_maskrcnn_shapes', [str(images)]))


def test_objects_of_an_artifact(artifact, images, tmp_path, capsys):
    out = tmp_path / 'out'
    arguments = [artifact('roi'), images / 'a.png', images / 'notes.txt', '--out', out, '--score', 0.5, '--threads', 1]
    assert run(*arguments) == 2
    assert 'notes.txt: cannot be read as an image' in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == [
        'a.jpg',
        'index.html',
        'predictions.json',
        'predictions.jsonl',
    ]
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


# --- one bad image, and one bad folder, with a model that costs nothing ---


class Halves(ImageModel):
    """A segmentor that splits every image; it calls `before` with the number of each."""

    names, palette, title, before = ['cat', 'dog'], None, 'halves', staticmethod(lambda number: None)
    count = 0

    def _predict(self, images):
        self.count += 1
        self.before(self.count)
        seg = np.zeros(images[0].shape[:2], np.int32)
        seg[:, seg.shape[1] // 2 :] = 1
        return [{'seg': seg}]


@pytest.fixture
def halves(monkeypatch, tmp_path):
    """Return `halves(images, out='out', before=None, **options)`, which predicts with `Halves`."""
    (tmp_path / 'model').mkdir()
    (tmp_path / 'model/manifest.json').touch()
    model = Halves()
    monkeypatch.setattr(load, 'run', lambda options: model)

    def call(images, out='out', before=Halves.before, **options):
        model.before = before
        model.count = 0
        return predict.run(predict.Options(tmp_path / 'model', images, out=tmp_path / out, **options))

    return call


def entries(out):
    """Return the entries of `predictions.json`, which are the lines of `predictions.jsonl`."""
    listed = json.loads((out / 'predictions.json').read_text())
    assert [json.loads(line) for line in (out / 'predictions.jsonl').read_text().splitlines()] == listed
    return listed


def test_odd_files_and_names_in_a_folder(halves, images, tmp_path, capsys):
    for name in ('A.png', 'a\nb.png', 'c\udcff.png', '.d.png', f'{"e" * 251}.png', '<b>&"\'.png', '中文.png'):
        shutil.copy(images / 'a.png', images / name)
    for number, shape in enumerate([(1, 1), (2, 2000), (2000, 2)]):
        cv2.imwrite(str(images / f'thin-{number}.png'), np.zeros((*shape, 3), np.uint8))
    os.mkfifo(images / 'pipe.png')
    (images / 'broken.png').symlink_to('nowhere')
    (images / 'empty.png').touch()
    (images / 'folder.png').mkdir()
    outcome = halves([images])
    assert [path.name for path in outcome.failed] == ['broken.png', 'empty.png', 'pipe.png']
    err = capsys.readouterr().err
    assert all(f'{name}: cannot be read' in err for name in ('broken.png', 'empty.png', 'pipe.png'))
    assert '3 of 16 images failed' in err
    found = entries(tmp_path / 'out')
    assert len(found) == 13
    for key in ('picture', 'segment_map'):
        assert len({entry[key].casefold() for entry in found}) == 13
        assert all((tmp_path / 'out' / entry[key]).stat().st_size for entry in found)
    page = (tmp_path / 'out/index.html').read_text()
    assert page.count('<img') == 13
    assert '<b>' not in page


def test_an_image_named_twice_is_predicted_once(halves, images, tmp_path, capsys):
    halves([images, images / 'a.png', images / 'below/../b.jpg'])
    assert len(entries(tmp_path / 'out')) == 3
    assert '2 images are named more than once' in capsys.readouterr().err


def test_pictures_inside_the_folder_of_images_are_not_predicted(halves, images, tmp_path, capsys):
    for _ in range(2):
        halves([images], out='images/out')
        assert len(entries(images / 'out')) == 3
    assert '6 pictures of earlier predictions in this folder are left out' in capsys.readouterr().err


def test_the_images_stay_as_they_are_if_the_output_goes_beside_them(halves, images):
    before = {path: path.read_bytes() for path in images.rglob('*.*')}
    halves([images / 'b.jpg'], out='images')
    assert {path: path.read_bytes() for path in before} == before
    assert [entry['picture'] for entry in entries(images)] == ['b-2.jpg']


def test_the_lists_of_a_run_name_no_results_of_an_earlier_one(halves, images, tmp_path):
    halves([images])
    halves([images / 'b.jpg'])
    assert [entry['picture'] for entry in entries(tmp_path / 'out')] == ['b.jpg']
    assert (tmp_path / 'out/index.html').read_text().count('<img') == 1
    assert (tmp_path / 'out/a.jpg').exists()


def test_an_image_that_cannot_be_drawn_leaves_the_others(halves, images, tmp_path, monkeypatch, capsys):
    def plot(result, score):
        raise cv2.error('odd shape') if result.path.name == 'b.jpg' else KeyError(0)

    monkeypatch.setattr('repvit_dense.artifact.result.Result.plot', plot)
    assert len(halves([images]).failed) == 3
    assert entries(tmp_path / 'out') == []
    assert 'b.jpg: cannot be drawn (error: odd shape); left out' in capsys.readouterr().err


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_the_results_so_far(halves, images, tmp_path, number, code):
    def stop(count):
        if count == 2:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # `timeout` signals the process and its group

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt if code == 130 else SystemExit) as ended:
        halves([images], before=stop)
    assert getattr(ended.value, 'code', 130) == code
    assert len(entries(tmp_path / 'out')) == 2
    assert (tmp_path / 'out/index.html').read_text().count('<img') == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_results_before_a_kill_are_in_the_list_of_lines(halves, images, tmp_path):
    def look(count):
        lines.append((tmp_path / 'out/predictions.jsonl').read_text().count('\n') if count > 1 else 0)

    lines = []
    halves([images], before=look)
    assert lines == [0, 1, 2]


def test_a_disk_that_fills_up_ends_the_run_with_one_message(halves, images, tmp_path, monkeypatch, capsys):
    def write(path, pixels):
        if path.name.startswith('b'):
            raise OSError(28, 'No space left on device')
        return original(path, pixels)

    original = pictures.write_picture
    monkeypatch.setattr(pictures, 'write_picture', write)
    message = r'out: cannot be written \(No space left on device\); 1 of 3 images are in predictions.jsonl'
    with pytest.raises(InputError, match=message):
        halves([images])
    assert capsys.readouterr().err == ''
    assert (tmp_path / 'out/predictions.jsonl').read_text().count('\n') == 1


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'score': float('nan')}, '--score nan'),
        ({'score': 2}, '--score 2'),
        ({'score': -1}, '--score -1'),
        ({'out': 'images/a.png'}, 'a.png: nothing can be written there'),
        ({'out': 'x' * 300}, 'nothing can be written there'),
        ({'images': []}, 'there is no image to predict'),
        ({'images': ['x' * 300]}, 'no such image or folder'),
    ],
)
def test_refusals_before_the_model_is_loaded(halves, images, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(load, 'run', None)
    files = sorted(tmp_path.rglob('*'))
    with pytest.raises(InputError, match=message):
        halves(**{'images': [images], **changes})
    assert sorted(tmp_path.rglob('*')) == files


def test_the_number_of_pixels_is_limited(halves, images, tmp_path, capsys):
    assert [path.name for path in halves([images], max_pixels=2560).failed] == ['a.png']
    assert 'at most 2,560 are read' in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments', [['--threads', '0'], ['--threads', '-1'], ['--score', 'x'], ['--max-pixels', '0']]
)
def test_options_that_the_command_line_refuses(refuse, arguments):
    assert f'argument {arguments[0]}:' in refuse('predict', 'model', 'a.png', *arguments)
