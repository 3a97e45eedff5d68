"""Backbones, registered in mmengine's root registry so that every OpenMMLab library finds them.

`base` says how to add one.
"""

import importlib
import pkgutil

# Imported first: right after mmengine, the plugin imports `checkpoints`, which imports modules of this package; these
# need all of mmengine.
import mmengine  # noqa: F401


def import_families() -> None:
    """Import every module of this folder whose name does not begin with an underscore; a second call is harmless."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith('_'):
            importlib.import_module(f'{__name__}.{module.name}')


import_families()

from repvit_dense.backbones.repvit import RepViT  # noqa: E402

__all__ = ['RepViT']
