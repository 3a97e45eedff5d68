"""The import machinery that makes `mmcv._ext` importable where mmcv was built without it."""

import functools
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec

EXTENSION = 'mmcv._ext'
FILES = ('boxes', 'roi', 'deform', 'focal', 'psa')  # modules of this package that define ops


def install() -> None:
    """Make `mmcv._ext` importable in this process; a second call changes nothing."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())


class Finder:
    """Finder and loader of `mmcv._ext`. Python imports mmcv before it, which fails as usual if mmcv is missing."""

    def find_spec(self, name, path=None, target=None):
        """Return a spec for `mmcv._ext`, None for any other module."""
        return ModuleSpec(name, self, origin=__name__) if name == EXTENSION else None

    def create_module(self, spec):
        """Return None: Python creates an empty module."""
        return

    def exec_module(self, module):
        """Fill the module with the ops."""
        module.__doc__ = "Stands in for mmcv's compiled extension, see repvit_dense.compat.mmcv_ops."
        for file in FILES:
            module.__dict__.update(import_module(f'repvit_dense.compat.mmcv_ops.{file}').ops)
        module.__dict__.update(
            # mmcv's environment report calls both; the second answers as an extension compiled without CUDA does.
            get_compiler_version=lambda: "none (torchvision's ops)",
            get_compiling_cuda_version=lambda: 'not available',
            __getattr__=_missing_op,
        )


def _missing_op(name):
    # No op of mmcv starts with an underscore, while inspect, pickle, doctest and IPython probe for many such names.
    if name.startswith('_'):
        raise AttributeError(f"module '{EXTENSION}' has no attribute '{name}'")
    return functools.partial(_no_fallback, name)


def _no_fallback(name, *args, **kwargs):
    raise NotImplementedError(
        f"mmcv's op '{name}' has no fallback: it needs mmcv's compiled extension. `make compiled-ops` compiles it."
    )
