"""Images and videos that names stand for."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from repvit_dense.artifact import sources, video
from repvit_dense.artifact.pictures import write_picture
from repvit_dense.artifact.video import Video, open_video
from repvit_dense.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with images, a text and a video, which is the current one."""
    for name in ('a.jpg', 'b.PNG', 'below/c.jpg', 'below/deeper/d.jpg', 'x[1].jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / 'notes.txt').write_text('x')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clip(tmp_path):
    """Return a video of 10 frames of 48x32 pixels, 12.5 per second; frame n has the brightness 20 n."""
    path = tmp_path / 'clip.mp4'
    with video.writing(path, 12.5, (48, 32)) as write:
        for number in range(10):
            write(np.full((32, 48, 3), 20 * number, np.uint8))
    path.write_bytes(path.read_bytes().removesuffix(b'picture of a prediction by repvit-dense'))
    return path


def names(*given):
    return [source.name for source in sources.find(given)]


@pytest.mark.parametrize(
    'given, expected',
    [
        (['a.jpg', 'notes.txt'], ['a.jpg', 'notes.txt']),
        (['*.jpg'], ['a.jpg', 'x[1].jpg']),
        (['*'], ['a.jpg', 'b.PNG', 'x[1].jpg']),
        (['below/**'], ['below/c.jpg', 'below/deeper/d.jpg']),
        (['**/[cd].jpg'], ['below/c.jpg', 'below/deeper/d.jpg']),
        (['./below/../a.*'], ['below/../a.jpg']),
        (['x[1].jpg'], ['x[1].jpg']),
        (['below'], ['below/c.jpg', 'below/deeper/d.jpg']),
        (['a.jpg', '*.jpg', './a.jpg'], ['a.jpg', 'x[1].jpg']),
    ],
)
def test_names_folders_and_patterns(folder, given, expected):
    assert names(*given) == expected


@pytest.mark.parametrize(
    'name, message',
    [
        ('none.jpg', 'no such image or folder'),
        ('*.tif', 'no image or video has a name of this pattern'),
        ('ftp://host/a.jpg', 'this protocol is not read'),
        ('file:///etc/passwd', 'this protocol is not read'),
        ('***/[', 'pattern'),
    ],
)
def test_names_that_stand_for_nothing(folder, name, message):
    with pytest.raises(InputError, match=message):
        sources.find([name])


def test_a_link_to_its_own_folder_does_not_repeat_images(folder):
    (folder / 'below/loop').symlink_to(folder / 'below')
    assert len(names('below/**/*.jpg')) == 2


def test_pictures_of_predictions_do_not_match_a_pattern(folder, capsys):
    write_picture(folder / 'p.jpg', np.zeros((8, 8, 3), np.uint8))
    assert names('*.jpg') == ['a.jpg', 'x[1].jpg']
    assert '1 pictures of earlier predictions' in capsys.readouterr().err


@pytest.mark.parametrize('name, camera', [('0', 0), ('webcam', 0), ('12', 12)])
def test_a_camera_unless_a_file_is_called_so(folder, monkeypatch, capsys, name, camera):
    monkeypatch.setattr(sources, 'open_video', lambda name, address: Video(name, address))
    (source,) = sources.find([name])
    assert source.content.address == camera
    (folder / name).write_bytes((folder / 'a.jpg').read_bytes())
    (source,) = sources.find([name])
    assert source.content == Path(name)
    assert f'{name}: the file or folder of this name is predicted' in capsys.readouterr().err


def test_a_camera_that_does_not_exist():
    with pytest.raises(InputError, match='77: cannot be opened as a video .there is no such camera'):
        sources.find(['77'])


def test_the_password_of_a_stream_is_hidden(monkeypatch):
    monkeypatch.setattr(sources, 'open_video', lambda name, address: Video(name, address))
    (source,) = sources.find(['rtsp://admin:secret@camera/live'])
    assert source.content.address == 'rtsp://admin:secret@camera/live'
    assert source.name == source.content.name == 'rtsp://admin:***@camera/live'


def test_videos_in_a_folder_are_named(folder, clip, capsys):
    assert names('.') == ['a.jpg', 'b.PNG', 'below/c.jpg', 'below/deeper/d.jpg', 'x[1].jpg']
    assert "1 videos in this folder are left out; name them, or use './**/*.mp4'" in capsys.readouterr().err
    assert names('**/*.mp4') == ['clip.mp4']


def test_the_frames_of_a_video(clip):
    opened = open_video('clip', clip)
    assert (opened.count, opened.rate, opened.live) == (10, 12.5, False)
    frames = list(opened.frames(10**6))
    assert [frame.number for frame in frames] == list(range(10))
    assert [frame.seconds for frame in frames] == pytest.approx([n / 12.5 for n in range(10)], abs=0.01)
    assert [frame.pixels.mean() for frame in frames] == pytest.approx([20 * n for n in range(10)], abs=4)


def test_a_video_that_ends_too_early_keeps_its_frames(clip):
    long = Video('clip', str(clip), live=False, count=500)
    frames = long.frames(10**6)
    assert len([next(frames) for _ in range(10)]) == 10
    with pytest.raises(InputError, match='clip: ends after 10 of 500 frames'):
        next(frames)


def test_a_stream_that_breaks_off(clip):
    with pytest.raises(InputError, match='clip: the stream ended or broke off after 10 frames'):
        list(Video('clip', str(clip)).frames(10**6))


def test_large_frames_are_refused(clip):
    with pytest.raises(InputError, match='frames have 48x32 pixels, at most 1,000 are read'):
        list(open_video('clip', clip).frames(1000))


@pytest.mark.parametrize('content', [b'', b'no video', b'\0\0\0\x18ftypmp42'])
def test_a_damaged_video_fails_alone_or_ends_the_run_if_it_is_all(folder, content):
    (folder / 'bad.mp4').write_bytes(content)
    with pytest.raises(InputError, match='bad.mp4: cannot be opened as a video'):
        sources.find(['bad.mp4'])
    _, bad = sources.find(['a.jpg', 'bad.mp4'])
    assert isinstance(bad.content, InputError)


def test_a_pipe_with_the_name_of_a_video_is_not_opened(folder):
    os.mkfifo(folder / 'pipe.mp4')
    with pytest.raises(InputError, match='not a regular file'):
        sources.find(['pipe.mp4'])


def test_a_written_video_has_a_mark_and_its_pictures_one_size(tmp_path):
    from repvit_dense.artifact.pictures import is_picture

    path = tmp_path / 'out.mp4'
    with video.writing(path, 7, (49, 33)) as write:
        for size in ((33, 49), (33, 49), (20, 20)):
            write(np.zeros((*size, 3), np.uint8))
    opened = open_video('out', path)
    assert (opened.count, opened.rate) == (3, 7)
    assert next(opened.frames(10**6)).pixels.shape == (32, 48, 3)
    assert is_picture(path)
