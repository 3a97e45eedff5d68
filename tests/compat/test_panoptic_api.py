"""The names that mmdet takes from `panopticapi`: ids of a PNG, and the quality of counts."""

import pickle

import numpy as np
import pytest

import repvit_dense  # noqa: F401  (before mmdet)
from repvit_dense.compat.panoptic_api import OFFSET, VOID, PQStat, id2rgb, rgb2id


def test_mmdet_has_what_it_asks_for():
    from mmdet.datasets.transforms import LoadPanopticAnnotations
    from mmdet.evaluation.functional import panoptic_utils
    from mmdet.evaluation.metrics import coco_panoptic_metric

    assert coco_panoptic_metric.PQStat is panoptic_utils.PQStat is not None
    transform = pickle.loads(pickle.dumps(LoadPanopticAnnotations()))  # to a worker that is spawned
    assert transform.rgb2id(np.array([[[1, 2, 3]]], np.uint8)) == 1 + 2 * 256 + 3 * 256**2


def test_ids_and_colours_are_inverses():
    ids = np.random.default_rng(0).integers(VOID, OFFSET, (5, 7)).astype(np.int32)
    colours = id2rgb(ids)
    assert (colours.shape, colours.dtype) == ((5, 7, 3), np.uint8)
    assert (rgb2id(colours) == ids).all()
    assert id2rgb(np.array([[258]])).tolist() == [[[2, 1, 0]]]


@pytest.fixture
def stat():
    """Category 1, a thing: 3 matches, 1 false positive. Category 2, stuff: missed twice. 3, a thing: nowhere."""
    first, second = PQStat(), PQStat()
    first[1].tp, first[1].iou, first[1].fp = 2, 1.7, 1
    second[1].tp, second[1].iou = 1, 0.7
    second[2].fn = 2
    first += second
    return first


CATEGORIES = {1: {'isthing': 1}, 2: {'isthing': 0}, 3: {'isthing': 1}}


@pytest.mark.parametrize(
    'isthing, expected',
    [
        (True, {'pq': 2.4 / 3.5, 'sq': 0.8, 'rq': 3 / 3.5, 'n': 1}),
        (False, {'pq': 0, 'sq': 0, 'rq': 0, 'n': 1}),
        (None, {'pq': 1.2 / 3.5, 'sq': 0.4, 'rq': 1.5 / 3.5, 'n': 2}),
    ],
)
def test_quality_is_that_of_the_paper(stat, isthing, expected):
    """arXiv 1801.00868, equations 1 and 2; a category that does not occur has no part in the mean."""
    mean, each = stat.pq_average(CATEGORIES, isthing)
    assert mean == pytest.approx(expected)
    assert set(each) == {i for i, category in CATEGORIES.items() if isthing in (None, bool(category['isthing']))}


def test_nothing_to_count():
    assert PQStat().pq_average(CATEGORIES, None)[0] == {'pq': 0, 'sq': 0, 'rq': 0, 'n': 0}
