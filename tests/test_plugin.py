"""The effects of importing the package, in interpreters that have not imported anything yet."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

REGISTERED = """
from mmengine.registry import HOOKS, LOOPS, MODELS, WEIGHT_INITIALIZERS

assert 'RepViT' in MODELS
assert 'DensePretrainedInit' in WEIGHT_INITIALIZERS
for name in ('DenseNonFiniteLossHook', 'DenseProgressHook', 'DenseCurvesHook', 'DenseSaveOnSignalHook'):
    assert name in HOOKS, name
assert 'DenseEpochLoop' in LOOPS
"""
CONFIG = """
custom_imports = dict(imports=['repvit_dense'], allow_failed_imports=False)
model = dict(backbone=dict(type='RepViT', arch='m0_6'))
"""
BROKEN = """
import warnings
import repvit_dense
from repvit_dense import plugin

plugin.PARTS = ('repvit_dense.no_such_part',)
"""

# Each runs in a fork of a process that has imported torch, which takes seconds, but not mmengine.
CASES = {
    'package first': """
import importlib
import repvit_dense
importlib.reload(repvit_dense)
waiting = [finder for finder in sys.meta_path if type(finder).__module__ == 'repvit_dense.plugin']
assert len(waiting) == 1
assert 'mmengine' not in sys.modules

from mmengine.config import Config  # importing a part of mmengine is enough
import mmengine
assert waiting[0] not in sys.meta_path
assert type(mmengine.__loader__).__module__ == type(mmengine.__spec__.loader).__module__ == '_frozen_importlib_external'
"""
    + REGISTERED,
    'mmengine first': 'import mmengine\nimport repvit_dense\n' + REGISTERED,
    'reparam': 'import repvit_dense.reparam\nassert "mmengine" not in sys.modules\nimport mmengine\n' + REGISTERED,
    'backbones': 'from repvit_dense.backbones import RepViT\n' + REGISTERED,
    'checkpoint': 'from repvit_dense.checkpoints.loading import load_checkpoint\n' + REGISTERED,
    'engine': 'from repvit_dense.engine.runner import DenseRunner\n' + REGISTERED,
    'metric': 'from repvit_dense.compat.coco_metric import dense_coco_metric\n' + REGISTERED,
    'custom_imports': f"""
import pathlib, tempfile
from mmengine.config import Config
assert 'repvit_dense' not in sys.modules
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'config.py')
    path.write_text({CONFIG!r})
    cfg = Config.fromfile(path)
from mmdet.registry import MODELS
backbone = MODELS.build(cfg.model.backbone)
assert type(backbone).__module__ == 'repvit_dense.backbones.repvit'
from mmseg.registry import MODELS
assert type(MODELS.build(cfg.model.backbone)) is type(backbone)
""",
    'an error becomes one warning': BROKEN
    + """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    import mmengine
caught = [str(warning.message) for warning in caught if 'repvit_dense' in str(warning.message)]
assert len(caught) == 1, caught
assert "ModuleNotFoundError: No module named 'repvit_dense.no_such_part'" in caught[0]
assert mmengine.__version__
""",
    'an error is raised by an explicit import': """
import mmengine
sys.modules['repvit_dense.engine'] = None  # importing it fails
try:
    import repvit_dense
except ImportError as error:
    assert 'repvit_dense.engine' in str(error)
else:
    raise AssertionError('no error')
""",
}

FORK = """
import json, os, sys, tempfile, traceback
import torch
import torch.distributed.fsdp, torch.distributed.optim, torchvision  # parts that mmengine and mmcv import

assert 'mmengine' not in sys.modules
results = {}
for name, code in json.loads(sys.argv[1]).items():
    with tempfile.TemporaryFile('w+') as report:
        if os.fork() == 0:
            try:
                exec(code, {'sys': sys})
            except BaseException:
                traceback.print_exc(file=report)
                report.flush()
            finally:
                os._exit(0)
        os.wait()
        report.seek(0)
        results[name] = report.read()
json.dump(results, sys.__stdout__)
"""


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code), *arguments], capture_output=True, text=True, cwd=ROOT, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def results():
    return json.loads(run(FORK, json.dumps(CASES)).splitlines()[-1])


@pytest.mark.parametrize('case', CASES)
def test_parts_are_registered(results, case):
    assert results[case] == ''


def test_the_package_is_light_and_needs_no_openmmlab():
    out = run("""
        import sys


        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.partition('.')[0] in ('mmcv', 'mmdet', 'mmengine', 'mmseg'):
                    raise ModuleNotFoundError(f'No module named {name!r}', name=name)


        sys.meta_path.insert(0, Blocked())
        import repvit_dense

        print(sorted({'torch', 'numpy', 'cv2', 'matplotlib'} & set(sys.modules)), repvit_dense.__version__)
        import repvit_dense.reparam

        print(repvit_dense.reparam.reparameterize_model.__name__)
        try:
            import mmengine
        except ModuleNotFoundError as error:
            print(error)
    """)
    assert out.splitlines() == ['[] 0.1.0', 'reparameterize_model', "No module named 'mmengine'"]
