"""The names that mmdet imports from `panopticapi`: ids of a PNG, quality of counts, and the time they are present."""

import pickle
import sys

import numpy as np
import pytest

import repvit_dense  # noqa: F401  (before mmdet)
from repvit_dense.compat import panoptic_api
from repvit_dense.compat.panoptic_api import OFFSET, VOID, PQStat, id2rgb, rgb2id


def state():
    return {name: panoptic_api._names_in(name) for name in panoptic_api.WITHOUT_PACKAGE if name in sys.modules}


@pytest.fixture
def mmdet():
    """Import the modules of mmdet that use panopticapi; mmdet's values without the package are those of the table."""
    from mmdet.datasets.transforms import LoadPanopticAnnotations
    from mmdet.evaluation.functional import panoptic_utils
    from mmdet.evaluation.metrics import coco_panoptic_metric

    assert state() == {name: panoptic_api.WITHOUT_PACKAGE[name] for name in state()}
    return LoadPanopticAnnotations, panoptic_utils, coco_panoptic_metric


def test_mmdet_has_the_names_inside_and_not_outside(mmdet):
    load, utils, metric = mmdet
    before = state()
    with panoptic_api.patched():
        assert metric.PQStat is utils.PQStat is PQStat
        transform = load()
        with panoptic_api.patched():
            pass
        assert metric.panopticapi is sys.modules['panopticapi']
    assert state() == before
    assert 'panopticapi' not in sys.modules
    with pytest.raises(ImportError, match='panopticapi is not installed'):
        load()
    transform = pickle.loads(pickle.dumps(transform))  # as for a spawned worker
    assert transform.rgb2id(np.array([[[1, 2, 3]]], np.uint8)) == 1 + 2 * 256 + 3 * 256**2


def test_a_module_imported_inside_is_as_without_the_package_outside(mmdet, monkeypatch):
    name = 'mmdet.evaluation.functional.panoptic_utils'
    monkeypatch.delitem(sys.modules, name)
    with panoptic_api.patched():
        __import__(name)
        assert sys.modules[name].PQStat is PQStat
    assert panoptic_api._names_in(name) == panoptic_api.WITHOUT_PACKAGE[name]


def test_an_installed_package_is_used(tmp_path, monkeypatch, mmdet):
    before = state()
    (tmp_path / 'panopticapi').mkdir()
    (tmp_path / 'panopticapi/__init__.py').write_text('real = True')
    monkeypatch.syspath_prepend(tmp_path)
    with panoptic_api.patched():
        assert state() == before
        assert __import__('panopticapi').real
    assert sys.modules.pop('panopticapi').real


def test_ids_and_colours_are_inverses():
    ids = np.random.default_rng(0).integers(VOID, OFFSET, (5, 7)).astype(np.int32)
    colours = id2rgb(ids)
    assert (colours.shape, colours.dtype) == ((5, 7, 3), np.uint8)
    assert (rgb2id(colours) == ids).all()
    assert id2rgb(np.array([[258]])).tolist() == [[[2, 1, 0]]]


@pytest.fixture
def stat():
    """Return counts of category 1 (a thing): 3 matches, 1 false positive; and of category 2 (stuff): 2 misses."""
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
def test_the_quality_is_as_the_paper_defines_it(stat, isthing, expected):
    """Compare with arXiv 1801.00868, equations 1 and 2; category 3 does not occur and is left out of the mean."""
    mean, each = stat.pq_average(CATEGORIES, isthing)
    assert mean == pytest.approx(expected)
    assert set(each) == {i for i, category in CATEGORIES.items() if isthing in (None, bool(category['isthing']))}


def test_without_segments_the_quality_is_zero():
    assert PQStat().pq_average(CATEGORIES, None)[0] == {'pq': 0, 'sq': 0, 'rq': 0, 'n': 0}
