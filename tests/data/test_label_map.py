import numpy as np
import pytest
from PIL import Image

from repvit_dense.data.label_map import DenseLoadAnnotations, apply


@pytest.mark.parametrize(
    'reduced, expected', [(False, [0, 255, 1, 3, 255]), (True, [255, 255, 1, 2, 255])], ids=['as they are', 'reduced']
)
def test_values_are_replaced_as_a_file_of_the_data_set_needs(tmp_path, reduced, expected):
    Image.fromarray(np.array([[0, 1, 2, 3, 255]], np.uint8)).save(tmp_path / 'a.png')
    results = {'seg_map_path': str(tmp_path / 'a.png'), 'reduce_zero_label': reduced, 'seg_fields': []}
    load = DenseLoadAnnotations(label_map=[[1, 255], [2, 1], [0, 0]], imdecode_backend='pillow')
    assert load(results)['gt_seg_map'].tolist() == expected
    assert 'label_map=((1, 255), (2, 1), (0, 0))' in repr(load)


def test_pairs_are_replaced_at_once():
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    assert apply([(0, 1), (1, 0)], labels, False).tolist() == [[1, 0], [2, 255]]
