"""Default input sizes, and sizes that are refused."""

import pytest
import torch

from repvit_dense import config
from repvit_dense.errors import InputError
from repvit_dense.exporting import sizes
from repvit_dense.exporting.export import export_all
from repvit_dense.exporting.settings import ExportSettings

COCO = {'scale': [1333, 800], 'keep_ratio': True, 'pad_to': None, 'divisor': 32}


@pytest.mark.parametrize(
    ('recipe', 'size'),
    [
        (COCO, (800, 1344)),
        (COCO | {'scale': [800, 1333]}, (800, 1344)),
        (COCO | {'scale': [2048, 512]}, (512, 704)),  # at most 4:3
        (COCO | {'scale': [2048, 1024]}, (1024, 2048)),
        (COCO | {'scale': [320, 300], 'keep_ratio': False}, (320, 320)),
        (COCO | {'scale': [640, 640], 'pad_to': [640, 480]}, (480, 640)),
        (COCO | {'scale': [100, 100], 'divisor': 64}, (128, 128)),
    ],
)
def test_default_size(recipe, size):
    assert sizes.default_size(recipe) == size


def test_a_pipeline_without_a_size_has_no_default():
    with pytest.raises(InputError, match='--size H W'):
        sizes.default_size(COCO | {'scale': None})


@pytest.mark.parametrize(('size', 'next_size'), [((100, 96), '128 96'), ((64, 0), '64 32'), ((-32, 65), '32 96')])
def test_a_size_that_is_not_a_multiple_is_refused_with_the_next_one(size, next_size):
    with pytest.raises(InputError) as error:
        sizes.check_size(size, 32)
    assert str(error.value).endswith(f'the next are {next_size}')


# --- dynamic sizes ---


STRIDES = {
    'repvit_maskrcnn_coco': 64,
    'repvit_retinanet_coco': 128,
    'repvit_ssdlite_coco': 512,
    'repvit_rtmdet-ins_coco': 32,
}


@pytest.mark.parametrize(('name', 'stride'), STRIDES.items())
@torch.no_grad()
def test_coarsest_stride_is_that_of_the_last_feature_map(name, stride):
    from repvit_dense.model import build_model

    cfg = config.load(name, backbone='repvit_m0_6')
    assert sizes.coarsest_stride(cfg) == stride
    assert build_model(cfg).extract_feat(torch.zeros(1, 3, 1024, 32))[-1].shape[2] == 1024 // stride


def test_coarsest_stride_is_1_without_anchors():
    assert sizes.coarsest_stride(config.load('repvit_detr_coco')) == 1


@pytest.mark.parametrize(
    ('name', 'size', 'advice'),
    [
        ('repvit_maskrcnn_coco', (64, 512), '96 512'),
        ('repvit_retinanet_coco', (96, 128), '160 160'),
        ('repvit_ssdlite_coco', (544, 512), '544 544'),
    ],
)
def test_a_dynamic_size_is_refused_before_loading_if_a_level_would_have_one_pixel(tmp_path, name, size, advice):
    settings = ExportSettings(to='torch', dynamic='size', out=tmp_path, size=size)
    with pytest.raises(InputError) as error:
        export_all(config.load(name), 'missing.pth', settings)
    assert str(error.value).endswith(f'use --size {advice}')
