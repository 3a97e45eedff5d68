"""The embedded data set `shapes`: drawn instead of downloaded, small enough to train a detector on with a CPU.

Eight classes of objects overlap on one to three kinds of background texture. The visible part of an object is its mask.
Instance, panoptic and semantic annotations come from the same maps, so they agree in every pixel. The folder has the
layout of COCO 2017.
"""

from repvit_dense.data.shapes.drawing import STUFF_CLASSES, THING_CLASSES, Sample, draw
from repvit_dense.data.shapes.writing import SPLITS, STAMP, categories, generate

__all__ = ['SPLITS', 'STAMP', 'STUFF_CLASSES', 'THING_CLASSES', 'Sample', 'categories', 'draw', 'generate']
