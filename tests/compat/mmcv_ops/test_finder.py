"""The stand-in module `mmcv._ext` and the finder that provides it."""

import importlib.util
import inspect
import pickle
import sys

import pytest

from repvit_dense.compat import mmcv_ops


def test_an_op_without_fallback_fails_when_it_is_called(fallback):
    for name in ('nms_rotated', 'three_nn_forward', 'an_op_of_a_later_mmcv'):
        with pytest.raises(NotImplementedError, match=f"'{name}' has no fallback.*`make compiled-ops`"):
            getattr(fallback, name)(1, key=2)
        assert pickle.loads(pickle.dumps(getattr(fallback, name))).args == (name,)


def test_probing_the_module_is_harmless(fallback):
    for name in ('__path__', '__file__', '__wrapped__', '__all__', '_repr_html_'):
        assert not hasattr(fallback, name)
    assert fallback.__name__ == fallback.__spec__.name == 'mmcv._ext'
    assert inspect.unwrap(fallback) is fallback and inspect.getdoc(fallback)
    assert {name for name, _ in inspect.getmembers(fallback, inspect.isfunction)} > {'nms', 'roi_align_forward'}
    assert fallback.get_compiling_cuda_version() == 'not available'


def test_the_finder_answers_for_one_name_and_is_installed_once():
    finders = [finder for finder in sys.meta_path if isinstance(finder, mmcv_ops.Finder)]
    mmcv_ops.install()
    assert [finder for finder in sys.meta_path if isinstance(finder, mmcv_ops.Finder)] == finders
    assert len(finders) == 1
    assert importlib.util.find_spec('mmcv._ext') is not None
    assert importlib.util.find_spec('mmcv._extension') is None
    assert finders[0].find_spec('mmcv') is None
