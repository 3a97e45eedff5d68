"""Register this package's parts with OpenMMLab as soon as mmengine is imported, and not before.

The command line postpones this further, see `postpone`.
"""

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from repvit_dense.screen import passing

# Modules that register classes when they are imported.
PARTS = (
    'repvit_dense.backbones',
    'repvit_dense.checkpoints.loading',
    'repvit_dense.data.label_map',
    'repvit_dense.engine',
)

_postponed = False


def postpone() -> None:
    """Let mmengine be imported without the parts, which takes a tenth of the time, until `register` is called.

    Only the command line does this: it reads names, configs and data first, and reports their faults at once.
    """
    global _postponed  # noqa: PLW0603
    _postponed = 'mmengine' not in sys.modules


def install() -> None:
    """Register now if mmengine is imported (`custom_imports` in a config), otherwise right after its first import."""
    if 'mmengine' in sys.modules:
        register()
    elif not any(isinstance(finder, _AfterMmengine) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterMmengine())


def load() -> None:
    """Import PyTorch and OpenMMLab, which takes seconds and is said to the user, and register; then do nothing."""
    if _postponed or 'mmengine' not in sys.modules:
        with passing('loading PyTorch and OpenMMLab ...'):
            importlib.import_module('mmengine')
            register()


def register() -> None:
    """Import all parts that register something; a second call does nothing."""
    global _postponed  # noqa: PLW0603
    _postponed = False
    for part in PARTS:
        importlib.import_module(part)


class _AfterMmengine(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """A finder that leaves mmengine's import as it is and calls `register` at its end."""

    loader: importlib.abc.Loader  # of mmengine

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != 'mmengine':
            return None
        sys.meta_path.remove(self)  # it is needed once, and the search below must not find it
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        if _postponed:
            return
        try:
            register()
        except Exception as error:
            warnings.warn(
                'repvit_dense is not registered with OpenMMLab, so configs that use it will fail. '
                f'Cause: {type(error).__name__}: {error}',
                stacklevel=2,
            )
