"""RepViT and its peers as mobile backbones for dense prediction, from training to device.

Importing this package registers its backbones, hooks and initialisers with OpenMMLab and provides `mmcv._ext` if mmcv
was installed without its compiled extension; nothing else. Both happen when mmengine or mmcv is imported. The functions
of the Python API are imported at their first use, so that `import repvit_dense` stays fast.
"""

from typing import TYPE_CHECKING, Any

from repvit_dense import plugin
from repvit_dense.compat import mmcv_ops

if TYPE_CHECKING:
    from repvit_dense.api import card, export, list_backbones, list_configs, load, predict, push, serve, test, train

__version__ = '0.1.0'
__all__ = [
    '__version__',
    'card',
    'export',
    'list_backbones',
    'list_configs',
    'load',
    'predict',
    'push',
    'serve',
    'test',
    'train',
]

mmcv_ops.install()
plugin.install()


def __getattr__(name: str) -> Any:
    if name in __all__:
        from repvit_dense import api

        return getattr(api, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
