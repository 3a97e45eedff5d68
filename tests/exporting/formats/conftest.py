"""Fixtures: small graphs with every kind of output, files, and batches."""

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
    """A semantic graph that ignores `img_hw`."""

    task = 'semantic'

    def forward(self, images, img_hw):
        logits = self.model.head(self.model.backbone(images))
        return (F.interpolate(logits, images.shape[2:], mode='bilinear').argmax(1).int(),)


class Detection(Graph):
    """A detection graph that returns eight boxes per image."""

    task = 'detection'

    def forward(self, images, img_hw):
        values = self.model.head(self.model.backbone(images)).flatten(2)
        scores, index = values[:, 4].sigmoid().topk(8, 1)
        sides = img_hw.flip(1).repeat(1, 2)[:, None]
        boxes = values[:, :4].transpose(1, 2).gather(1, index[..., None].expand(-1, -1, 4)).sigmoid() * sides
        return boxes, scores, (values[:, 5].gather(1, index) > 0).int(), (scores > 0.5).sum(1).int()


class FixedBatch(Semantic):
    """A graph that counts the images in Python, so that tracing fixes the batch size."""

    def forward(self, images, img_hw):
        classes = [super(FixedBatch, self).forward(images[i : i + 1], img_hw)[0] for i in range(int(images.shape[0]))]
        return (torch.cat(classes),)


KINDS = {'semantic': Semantic, 'detection': Detection, 'fixed batch': FixedBatch}


@pytest.fixture
def graph():
    """Return `graph(kind, plain=False)`, which always builds the same random weights."""

    def build(kind, plain=False):
        torch.manual_seed(0)
        return KINDS[kind](Net(), plain).eval()

    return build


@pytest.fixture
def write(tmp_path):
    """Return `write(graph, target, size, **options)`, which writes a model file and returns its path."""
    from repvit_dense.exporting import formats

    def call(graph, target, size=(64, 96), **options):
        options = {'classes': ['cat', 'dog'], 'preprocess': PIXELS, **options}
        return tmp_path / formats.write(graph, tmp_path, target, formats.FileOptions(size, **options))

    return call


@pytest.fixture
def batch():
    """Return `batch(number, height, width)`, which makes random images and their unpadded sizes."""

    def make(number=1, height=64, width=96):
        generator = torch.Generator().manual_seed(number)
        sizes = torch.tensor([[height - 3.0, width - 5.0 * (i + 1)] for i in range(number)])
        return torch.randn(number, 3, height, width, generator=generator), sizes

    return make


@pytest.fixture
def close():
    """Return `close(graph, inputs, outputs)`, which checks arrays, in the order of the graph's outputs, against it."""

    def check(graph, inputs, outputs, atol=1e-4):
        with torch.no_grad():
            expected = graph(*inputs)
        for name, reference, output in zip(graph.outputs, expected, outputs, strict=True):
            output = torch.as_tensor(output)
            assert output.shape == reference.shape, name
            assert output.dtype == reference.dtype, name
            if name == 'seg':
                assert (output == reference).float().mean() > 0.999
            else:
                torch.testing.assert_close(
                    output, reference, atol=atol, rtol=1e-4, msg=lambda text, name=name: name + text
                )

    return check
