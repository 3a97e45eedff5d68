"""The data set `shapes`, generated once for all tests that only read it."""

import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from repvit_dense.data import shapes


class Drawn:
    """A generated data set and functions that read its files."""

    num_train, num_val = 60, 3

    def __init__(self, root):
        self.root = shapes.generate(root, num_train=self.num_train, num_val=self.num_val)
        self.coco = COCO(root / 'annotations/instances_train2017.json')

    def load(self, kind, split):
        return json.loads((self.root / f'annotations/{kind}_{split}.json').read_text())

    def pixels(self, name):
        return cv2.imread(str(self.root / name), cv2.IMREAD_UNCHANGED)

    def maps(self, split, name):
        """Return panoptic segment ids and semantic labels of one image, both `(H, W)` int64."""
        colours = self.pixels(f'annotations/panoptic_{split}/{name}').astype(np.int64)
        blue, green, red = np.moveaxis(colours, -1, 0)
        semantic = self.pixels(f'annotations/semantic_{split}/{name}').astype(np.int64)
        return red + 256 * green + 65536 * blue, semantic


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    return Drawn(tmp_path_factory.mktemp('data') / 'shapes')
