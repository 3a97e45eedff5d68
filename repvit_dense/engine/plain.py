"""Convert the content of a checkpoint to plain Python values and tensors, and the log histories in it back.

`torch.load(path, weights_only=True)` reads such a file in any process, without this package or mmengine.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

# Each base type, with the function that converts a subclass of it, such as numpy.float64 or an enum.
_SCALARS: dict[type, Callable[[Any], Any]] = {bool: bool, int: int.__pos__, float: float.__pos__, str: str.__str__}


def plain(value: Any, name: str, left_out: list[str]) -> Any:
    """Return a value without classes of other libraries; arrays become lists, log histories dictionaries of tensors.

    Args:
        value: any value.
        name: name of the value, for `left_out`.
        left_out: receives 'NAME (TYPE)' for each value that cannot be converted; None takes its place.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, torch.Tensor):
        return value
    for base, convert in _SCALARS.items():
        if isinstance(value, base):
            return value if type(value) is base else convert(value)
    if isinstance(value, Mapping):
        content = {plain(key, name, left_out): plain(item, f'{name}.{key}', left_out) for key, item in value.items()}
        if type(value) is not OrderedDict:
            return content
        ordered = OrderedDict(content)
        ordered.__dict__.update(plain(value.__dict__, name, left_out))  # `_metadata` of a state dict
        return ordered
    if isinstance(value, tuple | list | set | frozenset):
        items = [plain(item, f'{name}[{i}]', left_out) for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, HistoryBuffer):
        values, counts = map(torch.from_numpy, value.data)
        return {'values': values, 'counts': counts, 'max_length': value.max_length}
    if isinstance(value, PathLike):
        return str(value)
    if isinstance(value, torch.device | torch.dtype):
        return value
    left_out.append(f'{name} ({type(value).__name__})')
    return None


def restore_histories(message_hub: dict) -> None:
    """Convert the log histories of a checkpoint back, in place; those of an older file are left as they are."""
    for name, history in message_hub['log_scalars'].items():
        if isinstance(history, dict):
            arrays = (history[key].cpu().numpy() for key in ('values', 'counts'))
            message_hub['log_scalars'][name] = HistoryBuffer(*arrays, max_length=history['max_length'])
