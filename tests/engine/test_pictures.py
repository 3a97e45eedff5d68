"""Pictures of a test: ground truth beside prediction, one for every image."""

from types import SimpleNamespace

import cv2
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import PixelData

from repvit_dense.engine import pictures
from repvit_dense.engine.pictures import DensePicturesHook
from repvit_dense.errors import InputError


@pytest.fixture
def run(image, tmp_path):
    """Return `run()`, which draws one image per path of `tmp_path` and returns the hook."""
    paths = []
    for name in ('camA/1.png', 'camB/1.png', 'camB/中.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(cv2.imencode('.png', image(40, 50))[1].tobytes())
        paths.append(str(tmp_path / name))

    class Data:
        metainfo = {'classes': ('cat', 'dog'), 'palette': [[255, 0, 0], [0, 0, 255]]}
        __len__ = lambda self: len(paths)  # noqa: E731
        get_data_info = lambda self, index: {'img_path': paths[index]}  # noqa: E731

    def call():
        hook = DensePicturesHook(True, str(tmp_path / 'out'))
        runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=Data()))
        hook.before_test_epoch(runner)
        for path in paths:
            truth, seg = (PixelData(sem_seg=torch.full((1, 40, 50), label)) for label in (0, 1))
            sample = DetDataSample(gt_sem_seg=truth, pred_sem_seg=seg, metainfo={'img_path': path})
            hook.after_test_iter(runner, 0, outputs=[sample])
        return hook

    return call


def test_images_of_one_name_in_several_folders_have_a_picture_each(run, tmp_path):
    for _ in range(2):  # a second run replaces the pictures of the first
        found = run().pictures()
        assert [path.name for path in found] == ['1.jpg', '1-2.jpg', '中.jpg']
        assert list(found.values()) == [str(tmp_path / name) for name in ('camA/1.png', 'camB/1.png', 'camB/中.png')]
        assert sorted((tmp_path / 'out').iterdir()) == sorted(found)
    picture = cv2.imread(str(tmp_path / 'out/1.jpg'))
    left, right = (picture[:, :100].mean((0, 1)), picture[:, -100:].mean((0, 1)))
    assert left[2] > right[2] + 50  # red: cat
    assert right[0] > left[0] + 50  # blue: dog


def test_an_image_that_cannot_be_drawn_does_not_end_the_test(run, monkeypatch, capsys):
    monkeypatch.setattr(pictures, 'draw', lambda *arguments: [][0])
    assert run().pictures() == {}
    assert capsys.readouterr().err.count('no picture, it cannot be drawn (IndexError') == 3


def test_a_picture_that_cannot_be_written_ends_the_test(run, monkeypatch):
    def write(path, pixels):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pictures, 'write_picture', write)
    with pytest.raises(InputError, match=r'out/1.jpg: cannot be written \(No space left on device\)'):
        run()


def test_without_a_folder_nothing_is_drawn(tmp_path):
    hook = DensePicturesHook(False, str(tmp_path / 'out'))
    hook.before_test_epoch(None)
    hook.after_test_iter(None, 0, outputs=[None])
    assert hook.pictures() == {}
