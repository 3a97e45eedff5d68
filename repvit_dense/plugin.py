"""Register this package's parts with OpenMMLab, as soon as mmengine is imported and not before."""

import importlib
import importlib.abc
import importlib.util
import sys

# Importing one of these registers what it defines.
PARTS = ('repvit_dense.backbones', 'repvit_dense.checkpoints', 'repvit_dense.engine')


def install() -> None:
    """Register now where mmengine is loaded (`custom_imports` in a config), else right after its first import."""
    if 'mmengine' in sys.modules:
        register()
    elif not any(isinstance(finder, _AfterMmengine) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterMmengine())


def register() -> None:
    """Import every part that registers something; a second call does nothing."""
    for part in PARTS:
        importlib.import_module(part)


class _AfterMmengine(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Find mmengine as usual, but call `register` when its own import has run to the end."""

    def find_spec(self, name, path=None, target=None):
        if name != 'mmengine':
            return None
        sys.meta_path.remove(self)  # once is enough, and the search below must not come back here
        spec = importlib.util.find_spec(name)
        if spec is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        register()
