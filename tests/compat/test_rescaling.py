"""A side that mmcv rescales keeps at least one pixel."""

import mmcv
import numpy as np
import pytest

from repvit_dense.artifact.preprocess import geometry
from repvit_dense.compat import rescaling

RECIPE = {'scale': [256, 256], 'keep_ratio': True, 'multiple': None, 'pad_to': None, 'divisor': 32}


@pytest.mark.parametrize('size', [(2, 20_000), (20_000, 2), (1, 1), (1, 32_000), (3, 3), (97, 131)])
def test_thin_images_have_the_size_that_an_artifact_gives_them(size):
    with rescaling.patched(), rescaling.patched():
        image = mmcv.imrescale(np.zeros((*size, 3), np.uint8), (256, 256))
    assert image.shape[:2] == geometry(size, RECIPE).scaled


def test_mmcv_is_as_before_after_an_error():
    with pytest.raises(KeyError), rescaling.patched():
        raise KeyError
    assert mmcv.rescale_size((20_000, 2), (256, 256)) == (256, 0)


def test_mmcv_is_as_before_when_contexts_overlap():
    """Two threads that predict leave in the order in which they entered."""
    first, second = rescaling.patched(), rescaling.patched()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert mmcv.rescale_size((20_000, 2), (256, 256)) == (256, 1)
    second.__exit__(None, None, None)
    assert mmcv.rescale_size((20_000, 2), (256, 256)) == (256, 0)
