"""Import every family of backbones, which registers them."""

import importlib
import pkgutil

from repvit_dense import backbones


def import_families() -> None:
    """Import every module of this folder whose name does not begin with an underscore; a second call is harmless."""
    for module in pkgutil.iter_modules(backbones.__path__):
        if not module.name.startswith('_'):
            importlib.import_module(f'{backbones.__name__}.{module.name}')


import_families()
