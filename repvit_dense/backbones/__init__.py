"""Backbones, registered in mmengine's root registry so that every OpenMMLab library finds them.

`base` says how to add one. This module imports none of them, so that the catalogue can be read without PyTorch.
"""

from typing import TYPE_CHECKING, Any

from repvit_dense import plugin

if not plugin.is_postponed():
    # Imported first: right after mmengine, the plugin imports `checkpoints`, which imports modules of this package.
    import mmengine  # noqa: F401

if TYPE_CHECKING:
    from repvit_dense.backbones.repvit import RepViT

__all__ = ['RepViT']


def __getattr__(name: str) -> Any:
    if name == 'RepViT':
        from repvit_dense.backbones.repvit import RepViT

        return RepViT
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
