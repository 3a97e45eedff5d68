"""A process that has used OpenVINO still handles signals."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason="OpenVINO leaves other systems' signal stacks alone")

# Load two models, unload them in the same order, then send a signal.
CODE = """
import os, signal, sys
import numpy as np
import openvino
from contextlib import nullcontext
from openvino import opset13
from repvit_dense.compat.signal_stack import keep_signal_stack

parameter = opset13.parameter([1, 4], np.float32)
model = openvino.Model([opset13.relu(parameter)], [parameter])
loading = {'kept': keep_signal_stack, 'replaced': nullcontext}[sys.argv[1]]
with loading():
    first = openvino.Core().compile_model(model, 'CPU')
with loading():
    second = openvino.Core().compile_model(model, 'CPU')
assert second([np.full((1, 4), 3, np.float32)])[0].sum() == 12
del first, second
signal.signal(signal.SIGINT, lambda *_: print('handled'))
os.kill(os.getpid(), signal.SIGINT)
"""


def run(loading):
    return subprocess.run([sys.executable, '-c', CODE, loading], capture_output=True, text=True)


def test_a_signal_is_handled_after_two_models_are_unloaded():
    done = run('kept')
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'handled\n'


def test_openvino_still_replaces_the_stack():
    """If this fails, OpenVINO has fixed the error and `signal_stack.py` can be removed."""
    assert run('replaced').returncode < 0
