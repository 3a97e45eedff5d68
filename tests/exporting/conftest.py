"""Networks that certify, quantise and folding are tested on."""

import numpy as np
import pytest
import torch

from repvit_dense.exporting.graphs.base import Graph


class PixelClasses(Graph):
    """The class of each pixel by a network's logits, alone."""

    task = 'semantic'

    def forward(self, images, img_hw):
        return (self.model(images).argmax(1).int(),)


@pytest.fixture(scope='session')
def pixel_classes():
    """`pixel_classes(network)`: its graph."""
    return lambda network: PixelClasses(network.eval()).eval()


@pytest.fixture(scope='session')
def batches():
    """Eight batches of one preprocessed image to calibrate and to compare with."""
    random = np.random.default_rng(0)
    return [(random.standard_normal((1, 3, 64, 64), np.float32), np.array([[64, 64]], np.float32)) for _ in range(8)]


@pytest.fixture(scope='session')
def agreement(batches):
    """`agreement(graph, run)`: the share of equal numbers over all batches."""

    def share(graph, run):
        with torch.no_grad():
            pairs = [(graph(*map(torch.from_numpy, batch))[0].numpy(), run(*batch)) for batch in batches]
        return np.mean([ours == theirs for ours, theirs in pairs])

    return share
