"""The functions and values that the pickle of a checkpoint may refer to; they build tensors, arrays and numbers only.

Every argument comes from a file that may be crafted: types are checked, and nothing may take long, as the hash or the
text of nested tuples would.
"""

import argparse
import datetime
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmengine.logging import HistoryBuffer

MOST_DIMENSIONS = 32


class Untrusted(Exception):
    """A pickle refers to a name that weights do not need."""


class OtherTensor(NamedTuple):
    """A placeholder for a tensor that no network here can load, such as a sparse one."""

    kind: str


class Constructor(NamedTuple):
    """A function that pickles may call, in place of the one of this name."""

    name: str
    build: Callable


class Storage(NamedTuple):
    """The memory that tensors share: `values` is a one-dimensional tensor."""

    values: Tensor


def as_key(key: Any) -> Any:
    """Return a dictionary's key; a crafted one may have a hash that takes for ever or is shared by many keys."""
    if isinstance(key, str | float | bool | None) or (isinstance(key, int) and abs(key) < 2**60):
        return key
    if type(key) is tuple and len(key) < MOST_DIMENSIONS and all(isinstance(part, str | int) for part in key):
        return key
    raise TypeError(f'a key of type {type(key).__name__}')


def are_counts(values: Any) -> bool:
    """Return whether all values are natural numbers of at most 63 bits."""
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _tensor(
    storage: Storage, offset: int, size: tuple, stride: tuple, _gradient: Any = 0, _hooks: Any = 0, bits: Any = None
) -> Tensor:
    """Return a view of a storage; gradient and hooks are left out. `bits` says whether its values count as negated."""
    if not isinstance(storage, Storage) or type(size) is not tuple or type(stride) is not tuple:
        raise TypeError('a tensor without a storage')
    if not are_counts((offset, *size, *stride)) or len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
        raise ValueError('a tensor of an impossible size')
    end = offset + 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if all(size) else 0
    if end > storage.values.numel():
        raise ValueError('a tensor that lies outside its storage')
    tensor = storage.values.as_strided(size, stride, offset)
    for name, change in (('conj', torch.conj), ('neg', torch._neg_view)):  # views: values may follow later
        tensor = change(tensor) if type(bits) is dict and bits.get(name) is True else tensor
    return tensor


def _parameter(tensor: Tensor, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor | OtherTensor):
        raise TypeError('a parameter without a tensor')
    return tensor


def _with_attributes(rebuild: Constructor, kind: Constructor, arguments: tuple, _: Any) -> Any:
    """Return a tensor without its Python attributes; one of a subclass is not loaded."""
    if kind.name not in ('torch.Tensor', PARAMETER):
        return OtherTensor('tensor of a subclass')
    if rebuild.build not in (_tensor, _parameter):
        return OtherTensor(f'tensor made by {rebuild.name}')
    return rebuild.build(*arguments)


def _no_value(*_: Any) -> None:
    raise TypeError('a call of a class')


def _ordered(pairs: Any = ()) -> OrderedDict:
    return OrderedDict((as_key(key), value) for key, value in (pairs.items() if type(pairs) is dict else pairs))


def _counter(counts: Any = None) -> Counter:
    if type(counts) not in (dict, type(None)):
        raise TypeError('a counter of no dictionary')
    return Counter(counts)


def _set(items: Any = ()) -> set:
    if type(items) is not list:
        raise TypeError('a set of no list')
    return {as_key(item) for item in items}


def _mapping(*_: Any) -> dict:
    return {}


def _path(*parts: Any) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise TypeError('a path of no text')
    return re.sub('^//', '/', '/'.join(parts))


def _time(moment: Any, *_: Any) -> datetime.datetime:
    if not isinstance(moment, bytes):
        raise TypeError('a time of no bytes')
    return datetime.datetime(moment)  # type: ignore[call-arg, arg-type]


def _no_bytes() -> bytes:
    return b''


def _bytearray(content: Any = b'') -> bytearray:
    if not isinstance(content, bytes):
        raise Untrusted('builtins.bytearray')  # of a number, which may be large
    return bytearray(content)


def _bytes(text: str, encoding: str) -> bytes:
    if encoding not in ('latin1', 'latin-1'):
        raise Untrusted('_codecs.encode')
    return str.encode(text, 'latin1')


def _size(items: tuple) -> torch.Size:
    if type(items) is not tuple or not are_counts(items):
        raise ValueError('an impossible size')
    return torch.Size(items)


def _device(*arguments: Any) -> torch.device:
    return torch.device(*(part if isinstance(part, int) else str.__str__(part) for part in arguments))


class _Number:
    """A dtype of numpy that allows only plain numbers; a crafted real one can access foreign memory."""

    def __init__(self, code: str, *_: Any):
        if type(code) is not str or not re.fullmatch(r'[bifu]\d{1,2}', code):
            raise Untrusted('numpy.dtype of other things than numbers')
        self.dtype = np.dtype(code)

    def set_state(self, state: tuple) -> None:
        if state[1] == '>':
            self.dtype = self.dtype.newbyteorder('>')


class _Array(np.ndarray):
    """A stand-in for `numpy.ndarray` that allows only plain numbers; copying or saving it yields a plain array."""

    def __new__(cls, *_: Any):
        return super().__new__(cls, 0, np.int8)

    def set_state(self, state: tuple) -> None:
        _, shape, number, fortran, data = state
        if not isinstance(number, _Number) or not isinstance(data, bytes) or not are_counts(shape):
            raise Untrusted('numpy.ndarray of objects')
        super().__setstate__((1, shape, number.dtype, fortran, data))

    def __reduce__(self):
        return self.view(np.ndarray).__reduce__()


def _scalar(number: _Number, data: bytes) -> Any:
    return np.frombuffer(data, number.dtype, 1)[0]


def _statistic(owner: Any, name: str) -> Any:
    """Stand in for `getattr`, by which the statistics of a HistoryBuffer are pickled; allow nothing else."""
    if getattr(owner, 'build', None) is not _history or name not in ('min', 'max', 'current', 'mean'):
        raise Untrusted('builtins.getattr')
    return getattr(_history_class(), name)


def _history() -> 'HistoryBuffer':
    return _history_class().__new__(_history_class())


def _history_class() -> Any:
    from mmengine.logging import HistoryBuffer  # not above, see `reading`

    return HistoryBuffer


def set_attributes(item: Any, state: Any) -> None:
    """Set the attributes of an object."""
    if isinstance(item, _Number | _Array):
        item.set_state(state)
    elif isinstance(item, argparse.Namespace) and type(state) is dict and all(isinstance(key, str) for key in state):
        vars(item).update(state)
    elif isinstance(item, OrderedDict):
        pass  # a state dict has `_metadata`, which nothing here needs
    elif isinstance(item, _history_class()):
        item.max_length = int(state['max_length'])
        for name in ('_log_history', '_count_history'):
            if not isinstance(state[name], np.ndarray):
                raise TypeError('a history of no numbers')
            setattr(item, name, state[name])
    else:
        raise TypeError(f'attributes of a {type(item).__name__}')


PARAMETER = 'torch.nn.parameter.Parameter'
_STORAGES = {
    'Double': torch.float64,
    'Float': torch.float32,
    'Half': torch.float16,
    'BFloat16': torch.bfloat16,
    'Long': torch.int64,
    'Int': torch.int32,
    'Short': torch.int16,
    'Char': torch.int8,
    'Byte': torch.uint8,
    'Bool': torch.bool,
    'ComplexFloat': torch.complex64,
    'ComplexDouble': torch.complex128,
    **dict.fromkeys(('QInt8', 'QUInt8', 'QInt32', 'QUInt4x2', 'QUInt2x4'), torch.uint8),  # of tensors not loaded
}
_VALUES = {
    **{str(value): value for value in vars(torch).values() if isinstance(value, (torch.dtype, torch.qscheme))},
    **{f'torch.{name}Storage': dtype for name, dtype in _STORAGES.items()},
    'torch.storage.UntypedStorage': torch.uint8,
}
_PATHS = ('Posix', 'Windows', 'PurePosix', 'PureWindows')
# Tensors of another kind, by the function that builds them; a placeholder takes their place.
_OTHER_TENSORS = {
    f'torch._utils._rebuild_{name}': kind
    for name, kind in {
        'sparse_tensor': 'sparse tensor',
        'qtensor': 'quantised tensor',
        'nested_tensor': 'nested tensor',
        'meta_tensor_no_storage': 'tensor without data (device meta)',
        'wrapper_subclass': 'tensor of a subclass',
        'tensor_v3': 'tensor of an unusual dtype',
        'device_tensor_from_numpy': 'tensor of another device',
        'device_tensor_from_cpu_tensor': 'tensor of another device',
    }.items()
}
_FUNCTIONS: dict[str, Callable] = {
    'collections.OrderedDict': _ordered,
    'collections.Counter': _counter,
    'builtins.bytearray': _bytearray,
    'builtins.bytes': _no_bytes,
    'builtins.set': _set,
    'builtins.frozenset': _set,
    'collections.defaultdict': _mapping,
    **dict.fromkeys(('builtins.dict', 'builtins.list', 'builtins.int', 'builtins.float'), _no_value),
    **{f'{module}.{kind}Path': _path for module in ('pathlib', 'pathlib._local') for kind in _PATHS},
    'datetime.datetime': _time,
    'builtins.complex': complex,
    'builtins.getattr': _statistic,
    '_codecs.encode': _bytes,
    'torch.Size': _size,
    'torch.device': _device,
    'torch.serialization._get_layout': str,  # of a sparse tensor
    'torch.Tensor': _no_value,
    PARAMETER: _no_value,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._tensor._rebuild_from_type_v2': _with_attributes,
    'mmengine.logging.history_buffer.HistoryBuffer': _history,
    'argparse.Namespace': argparse.Namespace,
    'numpy.dtype': _Number,
    'numpy.ndarray': _no_value,
    'numpy.core.multiarray._reconstruct': _Array,  # numpy 1
    'numpy.core.multiarray.scalar': _scalar,
    'numpy._core.multiarray._reconstruct': _Array,  # numpy 2
    'numpy._core.multiarray.scalar': _scalar,
}


def look_up(module: str, name: str) -> Any:
    """Return the constructor or the value of this name.

    Raises:
        Untrusted: weights do not need it.
    """
    full = f'{ {"__builtin__": "builtins"}.get(module, module) }.{name}'
    if full in _FUNCTIONS:
        return Constructor(full, _FUNCTIONS[full])
    if full in _OTHER_TENSORS:
        return Constructor(full, lambda *_: OtherTensor(_OTHER_TENSORS[full]))
    if full not in _VALUES:
        raise Untrusted(full)
    return _VALUES[full]
