"""Images that are in the training and in the validation data."""

import cv2
import numpy as np
import pytest

from repvit_dense.data.checks import leakage
from repvit_dense.data.checks.report import ImageEntry

SAME, NEARLY = 'validation images are training images, too', 'validation images are nearly the same'


def scene(seed, size=(96, 64)):
    """Return a picture of smooth shades."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def splits(tmp_path):
    """Return `splits(train, val)`, which writes files of name -> pixels and returns the findings about them."""

    def find(train, val):
        sides = []
        for split, files in (('train', train), ('val', val)):
            (tmp_path / split).mkdir(exist_ok=True)
            for name, pixels in files.items():
                path = tmp_path / split / name
                path.write_bytes(pixels) if isinstance(pixels, bytes) else cv2.imwrite(str(path), pixels)
            sides.append([ImageEntry(name, str(tmp_path / split / name)) for name in files])
        return leakage.leaks(*sides)

    return find


def texts(outcome):
    return [(finding.level, finding.message, finding.offenders) for finding in outcome[1]]


def test_different_pictures(splits):
    extent, findings = splits({f'{i}.png': scene(i) for i in range(9)}, {f'{i}.png': scene(i) for i in range(9, 12)})
    assert extent == '9 training images compared with 3 validation images'
    assert findings == []


def test_equal_files(splits):
    [(level, message, offenders)] = texts(splits({'a.png': scene(0), 'b.png': scene(1)}, {'c.png': scene(1)}))
    assert level == 'warning'
    assert message.startswith(f'1 {SAME}')
    assert offenders == ['c.png: b.png']


def test_the_findings_name_the_splits(tmp_path):
    images = [ImageEntry('a.png', str(tmp_path / 'a.png'))]
    extent, [finding] = leakage.leaks(images, images, 'train', 'test')
    assert extent == '1 training images compared with 1 test images'
    assert finding.message == '1 test images are training images, too, so the scores will be too good'


def test_files_that_differ_in_the_middle_only(splits):
    head, tail = bytes(5000), bytes(5000)
    assert texts(splits({'a': head + b'x' + tail}, {'a': head + b'y' + tail})) == []
    assert len(texts(splits({'a': head + b'x' + tail}, {'a': head + b'x' + tail}))) == 1


def test_the_same_path_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(leakage, '_map', lambda function, paths: [None for _ in paths])
    images = [ImageEntry('a.png', str(tmp_path / 'a.png'))]
    assert leakage.leaks(images, images)[1][0].offenders == ['a.png']


@pytest.mark.parametrize(
    'change',
    [
        lambda image: cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1].tobytes(),
        lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        lambda image: cv2.resize(image, (300, 300)),
        lambda image: image[..., :1].copy() * 0 + cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None],
    ],
    ids=['compressed', 'smaller', 'squashed', 'grey'],
)
def test_copies(splits, change):
    train = {f'{i}.png': scene(i) for i in range(5)}
    [(level, message, offenders)] = texts(splits(train, {'copy.png': change(scene(3)), 'other.png': scene(9)}))
    assert (level, offenders) == ('warning', ['copy.png: 3.png'])
    assert message.startswith(f'1 {NEARLY}')


def test_frames_in_which_something_moves_are_different(splits):
    frames = []
    for i in range(8):
        frames.append(scene(0))
        cv2.rectangle(frames[-1], (10 * i, 20), (10 * i + 12, 32), (255, 255, 255) if i % 2 else (0, 0, 0), -1)
    assert (
        texts(
            splits(
                {f'{i}.png': f for i, f in enumerate(frames[::2])}, {f'{i}.png': f for i, f in enumerate(frames[1::2])}
            )
        )
        == []
    )


def test_flat_images_show_nothing_to_compare(splits):
    grey = np.full((64, 64, 3), 120, np.uint8)
    assert texts(splits({'a.png': grey}, {'a.png': cv2.resize(grey, (50, 50))})) == []


def test_files_that_are_no_images_are_left_out(splits):
    assert texts(splits({'a.png': b'', 'b.png': scene(0)}, {'c.png': b'x'})) == []


def test_large_data_is_sampled(splits, monkeypatch):
    monkeypatch.setattr(leakage, 'COMPARED', 2)
    extent, _ = splits({f'{i}.png': scene(i) for i in range(5)}, {'a.png': scene(9)})
    assert extent == '5 training images compared with 1 validation images, pixels of 2 with 1'
