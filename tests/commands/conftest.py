"""A trained work dir, images to predict, and commands that stop before they run."""

import cv2
import numpy as np
import pytest
import torch

from repvit_dense import cli, config
from repvit_dense.model import build_model

CLASSES = ('circle', 'square', 'triangle', 'star', 'ring', 'cross', 'heart', 'crescent')


@pytest.fixture(scope='module')
def cfg():
    """Return a config of Mask R-CNN that keeps detections of any score."""
    return config.load('repvit_maskrcnn_shapes', ['model.test_cfg.rcnn.score_thr=0.0'], backbone='repvit_m0_6')


@pytest.fixture(scope='module')
def work_dir(cfg, tmp_path_factory):
    """Return a work dir as a training leaves it, with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('work_dir')
    meta = {'dataset_meta': {'classes': CLASSES, 'palette': [(10 * i, 0, 0) for i in range(8)]}}
    meta['cfg'] = cfg.pretty_text
    torch.save({'state_dict': build_model(cfg).state_dict(), 'meta': meta}, folder / 'epoch_1.pth')
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    cfg.dump(folder / 'repvit_maskrcnn_shapes.py')
    return folder


@pytest.fixture
def images(tmp_path):
    """Return a folder with a colour image, a grey one of another size, and one of the same name in a folder below."""
    folder = tmp_path / 'images'
    (folder / 'below').mkdir(parents=True)
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / 'a.png'), rng.integers(0, 255, (70, 90, 3), np.uint8))
    cv2.imwrite(str(folder / 'b.jpg'), rng.integers(0, 255, (64, 40), np.uint8))
    cv2.imwrite(str(folder / 'below' / 'a.png'), rng.integers(0, 255, (50, 50, 3), np.uint8))
    (folder / 'notes.txt').write_text('no image')
    return folder


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Restore the variables that commands set."""
    monkeypatch.setenv('LOCAL_RANK', '0')


class Caught(BaseException):
    """Raised in place of a training or a test; the command reports an `Exception`."""


@pytest.fixture
def settle(monkeypatch, tmp_path):
    """Return `settle(command, *arguments)`, the config that a command would run."""
    from repvit_dense.engine.runner import DenseRunner

    def from_cfg(cfg):
        raise Caught(cfg)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DenseRunner, 'from_cfg', from_cfg)
    monkeypatch.setattr(config, 'prepare_data', lambda cfg: None)
    monkeypatch.setattr(config, 'check_data', lambda cfg, splits: None)

    def call(*arguments):
        with pytest.raises(Caught) as caught:
            cli.main(argv=list(arguments))
        return caught.value.args[0]

    return call


@pytest.fixture
def weights(tmp_path):
    torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'weights.pth')
    return 'weights.pth'
