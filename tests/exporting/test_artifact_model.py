"""Conversion of an artifact's results to data samples."""

import numpy as np

from repvit_dense.exporting.artifact_model import panoptic_map


def test_things_are_numbered_in_the_panoptic_map():
    segments = np.array([[0, 1], [2, 3]])
    info = [
        {'number': 1, 'label': 1, 'is_thing': True},
        {'number': 2, 'label': 2, 'is_thing': False},
        {'number': 3, 'label': 1, 'is_thing': True},
    ]
    expected = [[3, 1001], [2, 2001]]  # 3 classes, so 3 stands for no segment
    assert panoptic_map(segments, info, num_classes=3).tolist() == expected
