"""Backbones, registered in mmengine's root registry so that every OpenMMLab library finds them.

Every module of this folder whose name does not begin with an underscore is imported; `base` says how to add one.
"""

import importlib
import pkgutil

# Importing mmengine makes the plugin import modules that import this package: this has to end before the loop begins.
import mmengine  # noqa: F401

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith('_'):
        importlib.import_module(f'{__name__}.{_module.name}')

from repvit_dense.backbones.repvit import RepViT  # noqa: E402

__all__ = ['RepViT']
