"""The mask of point-wise spatial attention, against loops over pixels."""

import mmcv.ops as ops
import numpy as np
import pytest
from torch.autograd import gradcheck


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
@pytest.mark.parametrize('window', [(3, 5), (4, 2), (9, 7)], ids=str)  # odd, even, beyond the map
def test_the_mask_matches_its_definition(extension, draw, kind, window):
    height, width = 4, 3
    weights = draw(2, window[0] * window[1], height, width)
    expected = np.zeros((2, height * width, height, width))
    for b, i, j, row, column in np.ndindex(2, *window, height, width):
        other = row + i - (window[0] - 1) // 2, column + j - (window[1] - 1) // 2
        if 0 <= other[0] < height and 0 <= other[1] < width:
            weight = weights[b, i * window[1] + j, row, column]
            if kind == 'collect':
                expected[b, other[0] * width + other[1], row, column] = weight
            else:
                expected[b, row * width + column, other[0], other[1]] = weight
    np.testing.assert_array_equal(ops.PSAMask(kind, window)(weights), expected)


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
def test_the_gradient(extension, draw, kind):
    assert gradcheck(ops.PSAMask(kind, (3, 4)), (draw(1, 12, 3, 4, grad=True),))
