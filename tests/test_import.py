"""Importing the package beside other code changes nothing but registries, and `mmcv._ext` if mmcv lacks it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# With its ops, mmcv can be imported completely, and mmdet and mmseg with it, before this package. A stand-in without
# function replaces the compiled extension if that is missing: importing needs no more.
WITH_OPS = """
try:
    import mmcv._ext
except ImportError:
    def op(name):
        if name.startswith('_'):
            raise AttributeError(name)
        return print

    mmcv._ext = sys.modules['mmcv._ext'] = types.ModuleType('mmcv._ext')
    vars(mmcv._ext).update(__file__='_ext.so', __getattr__=op)
import mmdet.apis, mmdet.datasets, mmdet.engine, mmdet.evaluation, mmdet.models, mmdet.visualization
import mmseg.apis, mmseg.datasets, mmseg.engine, mmseg.evaluation, mmseg.models, mmseg.visualization
"""
CODE = """
import json, runpy, sys, types
import cv2, matplotlib, mmengine.hooks, mmengine.runner, mmengine.visualization, mmcv, pycocotools, timm, torchvision
import mmcv.cnn, mmcv.transforms

{imports}
import safetensors.torch
snapshot = runpy.run_path({path!r})
before = snapshot['take']()
import repvit_dense.backbones, repvit_dense.engine.runner
json.dump(snapshot['changes'](before, snapshot['take']()), sys.__stdout__)
print(file=sys.__stdout__)
registry = sys.modules['mmengine.registry']
json.dump([key.split(': ')[1] for key in before['registry']], sys.__stdout__)
"""


def changes_of(imports):
    """Return the changes by importing the package after `imports`, and the registry keys that existed before."""
    code = CODE.format(imports=imports, path=str(TESTS / 'snapshot.py'))
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=TESTS.parent, timeout=280)
    assert done.returncode == 0, done.stderr
    changes, keys = map(json.loads, done.stdout.splitlines()[-2:])
    return changes, keys


@pytest.fixture(scope='module')
def with_ops():
    return changes_of(WITH_OPS)


@pytest.fixture(scope='module')
def without_ops():
    return changes_of('')


def registered(changes):
    return [line.rpartition(': ')[2] for line in changes if line.startswith('adds registry mmengine ')]


@pytest.mark.parametrize('state', ['with_ops', 'without_ops'])
def test_the_import_adds_its_modules_its_registry_keys_and_one_finder(request, state):
    changes, _ = request.getfixturevalue(state)
    expected = (
        'adds module repvit_dense',
        'adds registry mmengine ',
        'adds setting sys.meta_path[repvit_dense.compat.',
    )
    unexpected = [line for line in changes if not line.startswith(expected)]
    assert not unexpected, '\n'.join(['importing repvit_dense changes other libraries:', *unexpected])
    assert len([line for line in changes if 'sys.meta_path' in line]) == 1
    assert len(registered(changes)) > 15


def test_registered_names_begin_with_the_prefix_of_this_package(with_ops):
    names = registered(with_ops[0])
    assert [name for name in names if not name.startswith(('Dense', 'RepViT'))] == []


def test_no_registered_name_exists_in_mmdet_or_mmseg(with_ops):
    changes, keys = with_ops
    assert {'RetinaNet', 'SegformerHead', 'CocoMetric'} <= set(keys)
    assert set(registered(changes)) & set(keys) == set()
