"""The ops in new interpreters: imports from the start, and worker processes."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[3]


def run(code, *options, cwd=ROOT):
    """Run a script with the repository on its path; return its output."""
    code = f'import sys; sys.path.insert(0, {str(ROOT)!r})\n' + textwrap.dedent(code)
    done = subprocess.run([sys.executable, *options, '-c', code], capture_output=True, text=True, cwd=cwd, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_without_mmcv_the_import_fails_as_usual():
    # -S: only the standard library and this repository can be imported.
    out = run(
        """
        from repvit_dense.compat import mmcv_ops

        mmcv_ops.install()
        assert 'torch' not in sys.modules
        try:
            import mmcv._ext
        except ModuleNotFoundError as error:
            print(error)
        """,
        '-S',
    )
    assert "No module named 'mmcv'" in out


def test_openmmlab_imports_without_warnings_even_if_mmcv_ops_failed_before():
    out = run(
        """
        import importlib.machinery, warnings

        # Hide the compiled extension of mmcv, if there is one.
        finder = importlib.machinery.PathFinder
        find = finder.find_spec
        finder.find_spec = lambda name, *rest: None if name == 'mmcv._ext' else find(name, *rest)
        try:
            import mmcv.ops
        except ModuleNotFoundError as error:
            print(error)

        from repvit_dense.compat import mmcv_ops

        mmcv_ops.install()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            import mmcv.cnn, mmcv.ops
            import mmdet.models, mmseg.models
        print([str(w.message) for w in caught if 'MultiScaleDeformableAttention' in str(w.message)])

        from mmcv.utils.ext_loader import check_ops_exist
        from mmengine.utils.dl_utils import mmcv_full_available

        from mmcv.ops import get_compiling_cuda_version, nms_rotated
        import torch

        assert check_ops_exist() and mmcv_full_available()
        assert get_compiling_cuda_version() == 'not available'
        try:
            nms_rotated(torch.rand(1, 5), torch.rand(1), 0.5)
        except NotImplementedError as error:
            print(error)
        """
    )
    assert "No module named 'mmcv._ext'" in out
    assert 'Fail to import' not in out and 'not compiled' not in out
    assert "'nms_rotated' has no fallback" in out


DATASET = """
from torch.utils.data import Dataset

import mmcv._ext  # as importing mmdet does


class Ops(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return mmcv._ext.nms.__name__ + str(index)
"""


def test_spawned_data_loader_workers_find_the_ops(tmp_path):
    # A child of `python -c` imports no main module, it unpickles the data set first. An empty folder stands in for mmcv
    # without a compiled extension.
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    (tmp_path / 'dataset.py').write_text(DATASET)
    out = run(
        """
        from repvit_dense.compat import child_processes
        from dataset import Ops
        from torch.utils.data import DataLoader

        assert 'mmengine' not in sys.modules
        with child_processes.patched():
            print(list(DataLoader(Ops(), batch_size=None, num_workers=1, multiprocessing_context='spawn')))
        """,
        cwd=tmp_path,
    )
    assert "['nms0', 'nms1']" in out


def test_workers_of_every_kind_get_the_parts_and_pass_them_on():
    # Look the parts up without importing this package.
    probe = """' '.join((
        __import__('sys').meta_path[-1].__class__.__module__,
        str('repvit_dense' in __import__('multiprocessing').current_process()._config),
        __import__('panopticapi.utils').utils.rgb2id.__module__,
    ))"""
    out = run(
        f"""
        import concurrent.futures, multiprocessing

        from repvit_dense.compat import child_processes, panoptic_api

        with panoptic_api.patched(), child_processes.patched():
            for method in ('fork', 'spawn', 'forkserver'):
                context = multiprocessing.get_context(method)
                with context.Pool(1) as pool, concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
                    print(pool.apply(eval, [{probe!r}]), executor.submit(eval, {probe!r}).result())
        assert 'torch' not in sys.modules
        """
    )
    expected = ['repvit_dense.compat.mmcv_ops.finder', 'True', 'repvit_dense.compat.panoptic_api']
    assert out.split() == expected * 6
