"""Files that `predict --save` writes, and videos."""

import json
import os
import signal
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from repvit_dense.artifact import video
from repvit_dense.artifact.pictures import MARK
from repvit_dense.artifact.predictor import ImageModel
from repvit_dense.artifact.saving import Output
from repvit_dense.commands import load, predict
from repvit_dense.errors import InputError


class Bright(ImageModel):
    """A model whose answer depends on the brightness of the image only; it calls `before` with the number of each."""

    names, palette, title, count = ['cat', 'dog/wolf'], None, 'bright', 0

    def __init__(self, task, before):
        self.task, self.before = task, before

    def _predict(self, images):
        self.count += 1
        self.before(self.count)
        height, width = images[0].shape[:2]
        masks = np.zeros((2, height, width), bool)
        masks[0, : height // 2], masks[1, :, : width // 4] = True, True
        if self.task == 'semantic':
            return [{'seg': masks[0].astype(np.int32)}]
        if self.task == 'panoptic':
            info = [{'number': n, 'label': n - 1, 'is_thing': n == 1} for n in (1, 2)]
            return [{'segments': masks[0] + 2 * (masks[1] & ~masks[0]), 'segment_info': info}]
        boxes = np.array([[0, 0, width, height // 2], [0, 0, width // 4, height]], np.float32)
        fields = {'boxes': boxes, 'scores': np.array([0.9, 0.4], np.float32), 'labels': np.array([1, 0])}
        return [fields | ({'masks': masks} if self.task == 'instance' else {})]


@pytest.fixture
def bright(monkeypatch, tmp_path):
    """Return `bright(images, task='instance', before=..., **options)`, which predicts with `Bright`."""
    (tmp_path / 'model').mkdir()
    (tmp_path / 'model/manifest.json').touch()
    monkeypatch.chdir(tmp_path)

    def call(images, task='instance', before=lambda count: None, **options):
        monkeypatch.setattr(load, 'run', lambda options: Bright(task, before))
        return predict.run(predict.Options('model', images, out=tmp_path / 'out', **options))

    return call


@pytest.fixture
def clip(tmp_path):
    """Return the name of a video of 10 frames, 12.5 per second."""
    with video.writing(tmp_path / 'clip.mp4', 12.5, (640, 480)) as write:
        for number in range(10):
            write(np.full((480, 640, 3), 20 * number, np.uint8))
    content = (tmp_path / 'clip.mp4').read_bytes()
    (tmp_path / 'clip.mp4').write_bytes(content.removesuffix(MARK) + b'x' * len(MARK))
    return 'clip.mp4'


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def test_masks_and_crops_of_objects(bright, images, tmp_path):
    out = bright([images / 'b.jpg'], save=['masks', 'crops'], no_pictures=True).folder
    assert files(out) == [
        'crops/cat/b-2.jpg',
        'crops/dog_wolf/b-1.jpg',
        'masks/b-1-dog_wolf.png',
        'masks/b-2-cat.png',
        'predictions.json',
        'predictions.jsonl',
    ]
    assert cv2.imread(str(out / 'crops/dog_wolf/b-1.jpg')).shape == (32, 40, 3)
    mask = cv2.imread(str(out / 'masks/b-2-cat.png'), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (64, 40) and (mask[:, :10] == 255).all() and not mask[:, 10:].any()


def test_files_of_others_in_the_folders_stay(bright, images, tmp_path):
    (tmp_path / 'out/crops/cat').mkdir(parents=True)
    (tmp_path / 'out/crops/cat/b-2.jpg').write_bytes(b'mine')
    for _ in range(2):
        bright([images / 'b.jpg'], save=['crops'])
    assert (tmp_path / 'out/crops/cat/b-2.jpg').read_bytes() == b'mine'
    assert sorted(path.name for path in (tmp_path / 'out/crops/cat').iterdir()) == ['b-2-2.jpg', 'b-2.jpg']


@pytest.mark.parametrize('task', ['detection', 'instance', 'semantic'])
def test_pycocotools_loads_the_coco_results(bright, images, task):
    out = bright([images], task, save=['coco']).folder
    truth = COCO(out / 'predictions.coco.images.json')
    results = truth.loadRes(str(out / 'predictions.coco.json'))
    assert [image['file_name'] for image in truth.imgs.values()] == [
        str(images / name) for name in ('a.png', 'b.jpg', 'below/a.png')
    ]
    assert truth.cats[2]['name'] == 'dog/wolf'
    found = results.loadAnns(results.getAnnIds(imgIds=[1]))
    assert {part['category_id'] for part in found} == {1, 2}
    if task != 'semantic':
        assert found[0]['bbox'] == [0, 0, 90, 35]
    if task != 'detection':
        assert results.annToMask(found[0]).shape == (70, 90)


def annotations(path, names, classes=('dog/wolf', 'cat')):
    """Write an annotation file whose images have ids from 70 on, and its categories from 7 on."""
    content = {
        'images': [{'id': 70 + n, 'file_name': name, 'width': 9, 'height': 9} for n, name in enumerate(names)],
        'categories': [{'id': 7 + n, 'name': name} for n, name in enumerate(classes)],
        'annotations': [],
    }
    path.write_text(json.dumps(content))
    return path


def test_ids_of_an_annotation_file(bright, images, tmp_path, capsys):
    """An image is the one whose file name is the longest end of its path."""
    file = annotations(tmp_path / 'truth.json', ['a.png', 'b.jpg', 'below/a.png'])
    out = bright([images], save=['coco'], annotations=file).folder
    assert 'ids of images and categories are those of' in capsys.readouterr().err
    results = COCO(file).loadRes(str(out / 'predictions.coco.json'))
    assert [(entry['image_id'], entry['category_id']) for entry in results.anns.values()] == [
        (image, category) for image in (70, 71, 72) for category in (7, 8)
    ]


def test_an_annotation_file_that_the_data_of_the_model_names(bright, images, tmp_path, monkeypatch, capsys):
    candidates = [annotations(tmp_path / 'no.json', ['a.png']), annotations(tmp_path / 'yes.json', ['a.png', 'b.jpg'])]
    monkeypatch.setattr(Bright, 'annotations', candidates)
    out = bright([images / 'b.jpg'], save=['coco']).folder
    assert json.loads((out / 'predictions.coco.json').read_text())[0]['image_id'] == 71
    bright([images / 'below/a.png', images / 'b.jpg'], save=['coco'])
    (images / 'c.jpg').write_bytes((images / 'b.jpg').read_bytes())
    bright([images / 'c.jpg'], save=['coco'])
    assert 'numbered from 1, see predictions.coco.images.json' in capsys.readouterr().err
    assert json.loads((out / 'predictions.coco.json').read_text())[0]['image_id'] == 1


def test_two_images_never_have_the_same_id(bright, images, tmp_path):
    file = annotations(tmp_path / 'truth.json', ['a.png', 'b.jpg'])
    with pytest.raises(InputError, match="lacks the image '.*a.png' .another one of this run has its file name. and 1"):
        bright([images], save=['coco'], annotations=file)


def test_the_page_leaves_out_an_image_whose_files_cannot_be_written(bright, images, monkeypatch):
    def fail(self, name, result):
        if name == 'a':
            raise InputError('no crop')

    monkeypatch.setattr(Output, '_write_parts', fail)
    outcome = bright([images], save=['crops'])
    page = outcome.page.read_text()
    assert (page.count('<figure'), page.count('"picture": ')) == (2, 2)
    assert [path.name for path in outcome.failed] == ['a.png']


def test_a_video_that_cannot_be_written_ends_the_run(bright, clip, monkeypatch, tmp_path):
    monkeypatch.setattr(cv2, 'VideoWriter', Mock(return_value=Mock(isOpened=lambda: False)))
    with pytest.raises(InputError, match='clip.mp4: cannot be written .this OpenCV writes no video of'):
        bright([clip], save=['video'])
    assert files(tmp_path / 'out') == []


@pytest.mark.parametrize(
    'names, classes, message',
    [(['b.jpg'], ('dog/wolf', 'cat'), "lacks the image '.*a.png'"), (['a.png'], ('dog',), "lacks the class 'cat'")],
)
def test_an_annotation_file_of_other_data_is_refused(bright, images, tmp_path, names, classes, message):
    file = annotations(tmp_path / 'truth.json', names, classes)
    with pytest.raises(InputError, match=message):
        bright([images / 'a.png'], save=['coco'], annotations=file)


def test_panoptic_segments_in_cocos_format(bright, images):
    out = bright([images / 'a.png'], 'panoptic', save=['coco']).folder
    content = json.loads((out / 'predictions.coco.json').read_text())
    (entry,) = content['annotations']
    colours = cv2.imread(str(out / 'predictions.coco.panoptic' / entry['file_name'])).astype(int)
    numbers = colours[..., 2] + 256 * colours[..., 1] + 65536 * colours[..., 0]
    for segment in entry['segments_info']:
        assert (numbers == segment['id']).sum() == segment['area'] > 0
    assert [segment['bbox'] for segment in entry['segments_info']] == [[0, 0, 90, 35], [0, 35, 22, 35]]
    assert content['categories'] == [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog/wolf'}]


@pytest.mark.parametrize('task', ['instance', 'semantic'])
def test_a_video_has_an_entry_per_frame_and_no_pictures(bright, clip, task, capsys):
    outcome = bright([clip], task)
    assert files(outcome.folder) == ['predictions.json', 'predictions.jsonl']
    entries = json.loads((outcome.folder / 'predictions.json').read_text())
    assert [(entry['image'], entry['frame']) for entry in entries] == [(clip, number) for number in range(10)]
    assert [entry['time'] for entry in entries] == pytest.approx([n / 12.5 for n in range(10)], abs=0.01)
    assert outcome.page is None
    captured = capsys.readouterr()
    assert captured.out == f'Results: {outcome.folder / "predictions.json"}\n'
    assert 'Speed per image: pre-processing' in captured.err


def test_an_annotated_video_keeps_the_frame_rate(bright, clip, images):
    outcome = bright([clip, images / 'a.png'], save=['video'])
    assert files(outcome.folder) == ['a.jpg', 'clip.mp4', 'index.html', 'predictions.json', 'predictions.jsonl']
    assert outcome.videos == [outcome.folder / 'clip.mp4']
    opened = video.open_video('out', outcome.folder / 'clip.mp4')
    assert (opened.count, opened.rate) == (10, 12.5)
    first = next(opened.frames(10**6)).pixels
    assert first.shape == (480, 640, 3) and first.any()


def test_a_video_beside_its_annotated_one_stays(bright, clip, tmp_path):
    (tmp_path / 'out').mkdir()
    Path(clip).rename(tmp_path / 'out' / clip)
    before = (tmp_path / 'out' / clip).read_bytes()
    for _ in range(2):
        outcome = bright([tmp_path / 'out' / clip], save=['video'])
        assert outcome.videos == [tmp_path / 'out/clip-2.mp4']
    assert (tmp_path / 'out' / clip).read_bytes() == before


def test_ctrl_c_leaves_a_video_that_can_be_played(bright, clip, tmp_path):
    def stop(count):
        if count == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        bright([clip], before=stop, save=['video'])
    assert len(list(video.open_video('out', tmp_path / 'out/clip.mp4').frames(10**6))) == 4
    assert len(json.loads((tmp_path / 'out/predictions.json').read_text())) == 4


def test_a_video_that_breaks_off_is_reported_and_its_results_kept(bright, clip, images, monkeypatch, capsys):
    monkeypatch.setattr(video, 'open_video', None)
    monkeypatch.setattr('repvit_dense.artifact.sources.open_video', lambda name, path: video.Video(name, str(path)))
    outcome = bright([clip, images / 'a.png'], save=['video'])
    assert [str(path) for path in outcome.failed] == [clip]
    assert (
        'clip.mp4: the stream ended or broke off after 10 frames; its results so far are kept'
        in capsys.readouterr().err
    )
    assert len(json.loads((outcome.folder / 'predictions.json').read_text())) == 11
    assert len(list(video.Video('x', str(outcome.videos[0]), False).frames(10**6))) == 10


@pytest.mark.parametrize(
    'task, options, message',
    [
        ('detection', {'save': ['masks']}, '--save masks: this model detects boxes'),
        ('semantic', {'save': ['crops']}, '--save crops: this model is semantic'),
        ('instance', {'save': ['video']}, '--save video: there is no video'),
        ('instance', {'annotations': 'x.json'}, 'has the ids for --save coco'),
        ('instance', {'overlap': 0.2}, 'give --tile too'),
        ('instance', {'tile': 64, 'overlap': 0.9}, '--overlap 0.9: must be a number between 0.05 and 0.75'),
        ('instance', {'iou': 1.5}, '--iou 1.5: must be a number between 0 and 1'),
    ],
)
def test_options_that_do_not_fit(bright, images, tmp_path, task, options, message):
    with pytest.raises(InputError, match=message):
        bright([images / 'a.png'], task, **options)
    assert not (tmp_path / 'out').exists()


def test_a_window_needs_a_display(bright, images, tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, 'getBuildInformation', lambda: 'GUI: GTK3')
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match='--show: there is no display here'):
        bright([images / 'a.png'], show=True)
    monkeypatch.setattr(cv2, 'getBuildInformation', lambda: 'GUI:                           NONE')
    with pytest.raises(InputError, match='--show: this OpenCV has no windows'):
        bright([images / 'a.png'], show=True)


def test_limits_of_an_artifact(artifact, images, tmp_path, capsys):
    def run(**options):
        outcome = predict.run(predict.Options(artifact('roi'), [images / 'a.png'], out=tmp_path / 'o', **options))
        return [part['label'] for part in json.loads((outcome.folder / 'predictions.json').read_text())[0]['objects']]

    assert run() == ['dog', 'cat', 'sky']
    assert run(classes=['sky', 'DOG'], max_detections=1) == ['dog']
    assert run(iou=0.01) == ['dog', 'cat', 'sky']
    assert 'has suppressed overlapping objects already' in capsys.readouterr().err
    with pytest.raises(InputError, match="no class 'dgo'; did you mean 'dog'"):
        run(classes=['dgo'])


def test_a_kind_of_file_that_does_not_exist(refuse):
    assert "invalid choice: 'gif'" in refuse('predict', 'model', 'a.png', '--save', 'gif')
