"""Run mmengine on a device other than the one it chooses when it is imported."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from repvit_dense.errors import InputError


@contextmanager
def on_device(name: str | None) -> Iterator[None]:
    """Let a run use this device, of those that `config.devices` accepts; None leaves the choice to mmengine.

    On 'cpu' torch reports no GPU, so that neither mixed precision nor pinned memory nor a launcher expects one.

    Raises:
        InputError: there is no such GPU.
    """
    if name is None:
        yield
        return
    import torch
    from mmengine.device import utils

    kind, _, index = str(name).partition(':')
    if kind == 'cuda' and int(index or 0) >= torch.cuda.device_count():
        raise InputError(f'--device {name}: torch finds {torch.cuda.device_count()} GPUs')
    with ExitStack() as changes:
        changes.enter_context(patch.object(utils, 'DEVICE', kind))
        if kind == 'cpu':
            changes.enter_context(patch.object(torch.cuda, 'is_available', lambda: False))
        elif index:
            changes.enter_context(torch.cuda.device(int(index)))
        yield
