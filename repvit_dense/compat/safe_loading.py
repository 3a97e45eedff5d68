"""Checkpoint loading of mmengine through a reader that runs no code from the file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def patched(read: Callable) -> Iterator[None]:
    """Let every load by mmengine, pretrained stock backbones included, go through `read`.

    mmengine's own loaders fall back to a full unpickling, which executes code from the file. Schemes registered inside
    the context keep their loader.

    Args:
        read: `read(source, map_location) -> dict`.
    """
    from mmengine.runner import CheckpointLoader

    def load_from_safe_reader(filename, map_location=None):  # mmengine logs the name from its 11th letter on
        return read(filename, map_location or 'cpu')

    before = dict(CheckpointLoader._schemes)
    CheckpointLoader._schemes.update(dict.fromkeys(before, load_from_safe_reader))
    try:
        yield
    finally:
        schemes = CheckpointLoader._schemes  # registering a scheme replaces the dictionary
        schemes.update({key: loader for key, loader in before.items() if schemes[key] is load_from_safe_reader})
