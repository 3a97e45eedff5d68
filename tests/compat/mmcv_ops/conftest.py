"""Implementations of `mmcv._ext` to test, and inputs for its ops.

The tests call mmcv's public functions and compare with a definition of each op: loops over boxes and pixels, PyTorch's
operators, autograd. If mmcv has its compiled extension, the same tests run on the ops with a compiled CPU kernel.
"""

import importlib.util
import sys

import numpy as np
import pytest
import torch

from repvit_dense.compat import mmcv_ops

mmcv_ops.install()

import mmcv._ext  # noqa: E402
import mmcv.ops  # noqa: E402, F401

# Inside the image, across each border, smaller than a pixel, and the whole second image.
ROIS = [
    [0, 1.3, 2.1, 9.6, 8.2],
    [1, -3.7, 3.3, 5.1, 14.6],
    [0, 6.2, -2.6, 15.7, 6.4],
    [0, 5.1, 4.2, 5.4, 4.3],
    [1, 0, 0, 14, 12],
]
POINTS = 6  # of the 2 x 3 kernel of the deformable convolution


def load_fallback():
    finder = next(finder for finder in sys.meta_path if isinstance(finder, mmcv_ops.Finder))
    module = importlib.util.module_from_spec(finder.find_spec('mmcv._ext'))
    module.__spec__.loader.exec_module(module)
    return module


IMPLEMENTATIONS = {'fallback': load_fallback()}
if getattr(mmcv._ext, '__file__', '').endswith(('.so', '.pyd')):
    IMPLEMENTATIONS['compiled'] = mmcv._ext


def use(implementation, monkeypatch):
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            monkeypatch.setattr(module, 'ext_module', implementation)
    return implementation


@pytest.fixture(params=IMPLEMENTATIONS)
def extension(request, monkeypatch):
    """Let mmcv.ops use each implementation in turn."""
    return use(IMPLEMENTATIONS[request.param], monkeypatch)


@pytest.fixture
def fallback(monkeypatch):
    """Let mmcv.ops use the fallback: for ops without a compiled CPU kernel, and for features of the fallback alone."""
    return use(IMPLEMENTATIONS['fallback'], monkeypatch)


def _draw(*shape, low=0.0, high=1.0, dtype=torch.float64, grad=False):
    return (torch.rand(shape, dtype=torch.float64) * (high - low) + low).to(dtype).requires_grad_(grad)


@pytest.fixture
def draw():
    """`draw(*shape, low=0, high=1, dtype=float64, grad=False)` returns a random tensor."""
    return _draw


@pytest.fixture
def draw_boxes():
    """`draw_boxes(n, dtype=float32)` returns (n, 4) random boxes, many of which overlap."""

    def draw_boxes(n, dtype=torch.float32):
        corner, size = _draw(n, 2, high=20), _draw(n, 2, low=2, high=14)
        return torch.cat((corner, corner + size), dim=1).to(dtype)

    return draw_boxes


@pytest.fixture
def draw_features():
    """`draw_features(**kwargs)` returns (2, 3, 6, 7) features for `rois`; the arguments are those of `draw`."""
    return lambda **kwargs: _draw(2, 3, 6, 7, **kwargs)


@pytest.fixture
def rois():
    """RoIs as rows of (image, x1, y1, x2, y2)."""
    return [list(row) for row in ROIS]


@pytest.fixture
def bilinear():
    """`bilinear(plane, y, x)` interpolates a plane that is zero outside: each pixel has a tent of width 1."""

    def bilinear(plane, y, x):
        rows, columns = np.arange(plane.shape[-2]), np.arange(plane.shape[-1])
        return np.maximum(0, 1 - abs(y - rows)) @ plane @ np.maximum(0, 1 - abs(x - columns))

    return bilinear


@pytest.fixture
def geometry():
    """Arguments of a deformable convolution: stride, padding and dilation differ by axis, groups of both kinds."""
    return {'stride': (2, 1), 'padding': (1, 2), 'dilation': (1, 2), 'groups': 2, 'deform_groups': 2}


@pytest.fixture
def deform_inputs():
    """`deform_inputs(batch=2, grad=False)` returns features, offsets, mask, weight and bias for `geometry`."""

    def deform_inputs(batch=2, grad=False):
        features, weight = _draw(batch, 4, 5, 6, low=-1, grad=grad), _draw(4, 2, 2, 3, low=-1, grad=grad)
        fraction = _draw(batch, 2 * 2 * POINTS, 3, 6, low=0.1, high=0.9)  # the gradient jumps at whole pixels
        offset = (fraction + torch.randint(-2, 2, fraction.shape)).requires_grad_(grad)
        return features, offset, _draw(batch, 2 * POINTS, 3, 6, grad=grad), weight, _draw(4, grad=grad)

    return deform_inputs


@pytest.fixture
def levels():
    """Shapes and start indices of two feature levels for deformable attention."""
    return torch.tensor([[4, 5], [2, 3]]), torch.tensor([0, 20])


@pytest.fixture
def attention_inputs():
    """`attention_inputs(grad=False)` returns value, locations (some outside the maps) and weights for `levels`.

    Batch 2, 26 keys, 2 heads of 3 dimensions, 4 queries, 2 points.
    """

    def attention_inputs(grad=False):
        value, locations = _draw(2, 26, 2, 3, low=-1, grad=grad), _draw(2, 4, 2, 2, 2, 2, low=-0.2, high=1.2, grad=grad)
        return value, locations, _draw(2, 4, 2, 2, 2, grad=grad)

    return attention_inputs
