"""The images of the data sets of a config."""

import json

import pytest
from PIL import Image

from repvit_dense import config


@pytest.fixture
def cfg(drawn):
    """Return a config whose first training image is turned by EXIF, while its annotations give the stored size."""
    file, exif = drawn / 'annotations/instances_train2017.json', Image.Exif()
    exif[0x112] = 6
    content = json.loads(file.read_text())
    content['images'][0]['width'] = 70
    file.write_text(json.dumps(content))
    Image.new('RGB', (70, 64)).save(drawn / 'train2017/000000000001.png', exif=exif)
    return config.load('repvit_maskrcnn_shapes')


@pytest.mark.parametrize(
    'loader, refused',
    [
        ({'type': 'LoadImageFromFile'}, True),
        ({'type': 'mmdet.LoadImageFromFile', 'imdecode_backend': 'pillow'}, True),
        ({'type': 'LoadImageFromFile', 'color_type': 'color_ignore_orientation'}, False),
        ({'type': 'LoadImageFromFile', 'imdecode_backend': 'turbojpeg'}, False),
        ({'type': 'LoadImageFromFile', 'imdecode_backend': 'tifffile'}, False),
        ({'type': 'LoadMultiChannelImageFromFiles'}, False),
    ],
)
def test_images_are_checked_as_their_loader_reads_them(cfg, loader, refused):
    cfg.train_dataloader.dataset.pipeline = [loader]
    [(_, _, report)] = config.data_reports(cfg, ('train',))
    messages = [finding.message for finding in report.findings if ' images ' in finding.message]
    assert ['turned by their EXIF orientation' in message for message in messages] == [True] * refused


def test_validation_images_that_are_training_images_are_a_warning(cfg, capsys):
    for key in ('ann_file', 'data_prefix'):
        cfg.train_dataloader.dataset[key] = cfg.val_dataloader.dataset[key]
    config.check(cfg, ('train', 'val'))
    assert '1 validation images are training images, too' in capsys.readouterr().err
