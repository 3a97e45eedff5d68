"""What only a fresh interpreter shows: imports from the beginning, and workers that start with nothing."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(code, *options, cwd=ROOT):
    """Run a script given as text, with the repository on its path; return what it printed."""
    code = f'import sys; sys.path.insert(0, {str(ROOT)!r})\n' + textwrap.dedent(code)
    done = subprocess.run([sys.executable, *options, '-c', code], capture_output=True, text=True, cwd=cwd, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_without_mmcv_or_torch_the_import_fails_as_ever():
    # -S: without site-packages nothing but the standard library and this repository can be imported.
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


def test_openmmlab_imports_in_silence_even_where_mmcv_ops_had_failed_before():
    out = run(
        """
        import importlib.machinery, warnings

        # As if mmcv had no compiled extension, whether or not it has one here.
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

import mmcv._ext  # as the import of mmdet ends up doing


class Ops(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return mmcv._ext.nms.__name__ + str(index)
"""


def test_spawned_data_loader_workers_find_the_ops(tmp_path):
    # A child of `python -c` imports no main module: the first thing it does is to unpickle the dataset. An empty folder
    # is mmcv enough here, and no compiled extension lies in it.
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    (tmp_path / 'dataset.py').write_text(DATASET)
    out = run(
        """
        from repvit_dense.compat import mmcv_ops

        mmcv_ops.install()
        from dataset import Ops
        from torch.utils.data import DataLoader

        assert 'mmengine' not in sys.modules
        print(list(DataLoader(Ops(), batch_size=None, num_workers=1, multiprocessing_context='spawn')))
        """,
        cwd=tmp_path,
    )
    assert "['nms0', 'nms1']" in out


def test_workers_of_every_kind_get_the_finder_and_pass_it_on():
    probe = """__import__('sys').meta_path[-1].__class__.__module__ + ' ' + str('repvit_dense' in
        __import__('multiprocessing').current_process()._config)"""
    out = run(
        f"""
        import concurrent.futures, multiprocessing

        from repvit_dense.compat import mmcv_ops

        mmcv_ops.install()
        for method in ('fork', 'spawn', 'forkserver'):
            context = multiprocessing.get_context(method)
            with context.Pool(1) as pool, concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
                print(pool.apply(eval, [{probe!r}]), executor.submit(eval, {probe!r}).result())
        assert 'torch' not in sys.modules
        """
    )
    assert out.split() == ['repvit_dense.compat.mmcv_ops', 'True'] * 6
