"""Small graphs with every kind of output that a format has to hand on."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repvit_dense.exporting.graphs.base import Graph

PIXELS = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 16, 3, 2, 1), nn.GELU())
        self.head = nn.Conv2d(16, 6, 1)


class Semantic(Graph):
    """Does not look at `img_hw`."""

    task = 'semantic'

    def forward(self, images, img_hw):
        logits = self.model.head(self.model.backbone(images))
        return (F.interpolate(logits, images.shape[2:], mode='bilinear').argmax(1).int(),)


class Detection(Graph):
    """Eight boxes an image, somewhere in it."""

    task = 'detection'

    def forward(self, images, img_hw):
        found = self.model.head(self.model.backbone(images)).flatten(2)
        scores, index = found[:, 4].sigmoid().topk(8, 1)
        sides = img_hw.flip(1).repeat(1, 2)[:, None]
        boxes = found[:, :4].transpose(1, 2).gather(1, index[..., None].expand(-1, -1, 4)).sigmoid() * sides
        return boxes, scores, (found[:, 5].gather(1, index) > 0).int(), (scores > 0.5).sum(1).int()


class BakedBatch(Semantic):
    """Counts the images in Python."""

    def forward(self, images, img_hw):
        classes = [super(BakedBatch, self).forward(images[i : i + 1], img_hw)[0] for i in range(int(images.shape[0]))]
        return (torch.cat(classes),)


KINDS = {'semantic': Semantic, 'detection': Detection, 'baked': BakedBatch}


@pytest.fixture
def graph():
    """`graph(kind, plain=False)`, with the same random weights every time."""

    def build(kind, plain=False):
        torch.manual_seed(0)
        return KINDS[kind](Net(), plain).eval()

    return build


@pytest.fixture
def write(tmp_path):
    """`write(graph, target, **options)`: path of the model file, 64x96 pixels by default."""
    from repvit_dense.exporting import formats

    def call(graph, target, size=(64, 96), **options):
        options = {'classes': ['cat', 'dog'], 'preprocess': PIXELS, **options}
        return tmp_path / formats.write(graph, tmp_path, target, size, **options)

    return call


@pytest.fixture
def batch():
    """`batch(number, height, width)`: images and true sizes."""

    def make(number=1, height=64, width=96):
        generator = torch.Generator().manual_seed(number)
        sizes = torch.tensor([[height - 3.0, width - 5.0 * (i + 1)] for i in range(number)])
        return torch.randn(number, 3, height, width, generator=generator), sizes

    return make


@pytest.fixture
def close():
    """`close(graph, inputs, found)`: arrays in the order of the graph's outputs equal what torch gives."""

    def check(graph, inputs, found, atol=1e-4):
        with torch.no_grad():
            expected = graph(*inputs)
        for name, ours, theirs in zip(graph.outputs, expected, found, strict=True):
            theirs = torch.as_tensor(theirs)
            assert theirs.shape == ours.shape, name
            assert theirs.dtype == ours.dtype, name
            if name == 'seg':
                assert (theirs == ours).float().mean() > 0.999
            else:
                torch.testing.assert_close(theirs, ours, atol=atol, rtol=1e-4, msg=lambda text, name=name: name + text)

    return check
