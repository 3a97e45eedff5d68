"""Unpickle a checkpoint without executing anything in it, within a budget of memory.

The pickles of torch.save use few instructions. Each is carried out here on plain containers, and what a pickle calls is
looked up in a table of functions that build tensors, arrays and numbers. Any other name is refused.
"""

import argparse
import pickletools
import re
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmengine.logging import HistoryBuffer

# Memory that a pickle may ask for: a constant and a multiple of the file's size. Checkpoints need less than twice it.
BUDGET, BUDGET_PER_BYTE = 2**26, 8
INSTRUCTION, CALL = 64, 512  # estimated bytes per instruction and per called function
MOST_DIMENSIONS = 32
_SIZED = (str, bytes, tuple, list, dict)


class Untrusted(Exception):
    """A pickle refers to a name that weights do not need."""


class Oversized(Exception):
    """A pickle asks for much more memory than its file is large."""


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


class Unpickler:
    """Read pickles of protocol 2.

    Args:
        storage: `storage(dtype, key, location, count)` returns the values of a storage.
        file_size: size of the file in bytes, which limits the memory.
    """

    def __init__(self, storage: Callable[[torch.dtype, str, str, int], Tensor], file_size: int):
        self._storage = storage
        self._left = BUDGET + BUDGET_PER_BYTE * file_size

    def load(self, file: BinaryIO) -> Any:
        """Return the content of the next pickle in a file.

        Raises:
            Untrusted: it refers to a name that is not in the table; nothing was executed.
            Oversized: it asks for too much memory.
            Exception: the pickle is damaged; the class depends on the damage.
        """
        stack: list = []
        marked: list[list] = []  # stacks below the marks
        memo: dict[int, Any] = {}
        argument: Any
        for code, argument, _ in pickletools.genops(file):
            self._spend(INSTRUCTION + (sys.getsizeof(argument) if isinstance(argument, str) else 0))
            match code.name:
                case 'BINPUT' | 'LONG_BINPUT':
                    memo[argument] = stack[-1]
                case 'BINGET' | 'LONG_BINGET':
                    stack.append(memo[argument])
                case 'BINUNICODE' | 'SHORT_BINSTRING' | 'BININT' | 'BININT1' | 'BININT2' | 'LONG1' | 'BINFLOAT':
                    stack.append(argument)
                case 'NONE' | 'NEWTRUE' | 'NEWFALSE':
                    stack.append({'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}[code.name])
                case 'EMPTY_TUPLE' | 'EMPTY_LIST' | 'EMPTY_DICT':
                    stack.append({'EMPTY_TUPLE': tuple, 'EMPTY_LIST': list, 'EMPTY_DICT': dict}[code.name]())
                case 'MARK':
                    marked.append(stack)
                    stack = []
                case 'TUPLE':
                    items, stack = stack, marked.pop()
                    stack.append(tuple(items))
                case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                    count = int(code.name[-1])
                    stack[-count:] = [tuple(_last(stack, count))]
                case 'APPENDS' | 'SETITEMS':
                    items, stack = stack, marked.pop()
                    _extend(stack[-1], items)
                case 'APPEND' | 'SETITEM':
                    items = _last(stack, 1 if code.name == 'APPEND' else 2)
                    del stack[-len(items) :]
                    _extend(stack[-1], items)
                case 'GLOBAL':
                    stack.append(_look_up(*argument.split(' ', 1)))
                case 'REDUCE' | 'NEWOBJ':
                    function, arguments = _last(stack, 2)
                    stack[-2:] = [self._call(function, arguments)]
                case 'BUILD':
                    item, state = _last(stack, 2)
                    self._call(Constructor('state', _set_state), (item, state))
                    stack.pop()
                case 'BINPERSID':
                    stack.append(self._load_storage(stack.pop()))
                case 'PROTO':
                    pass
                case 'STOP':
                    return stack[-1]
                case _:
                    raise ValueError(f'instruction {code.name}')
        raise EOFError

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Oversized

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Constructor) or type(arguments) is not tuple:
            raise TypeError('a call of a value')
        self._spend(CALL + _copy_size(arguments))
        for item in arguments:
            self._spend(_copy_size(item))
            if type(item) is tuple:
                self._spend(INSTRUCTION * len(item))
                self._spend(sum(map(_copy_size, item)))
        return function.build(*arguments)

    def _load_storage(self, reference: Any) -> Storage:
        kind, dtype, key, location, count, *view = reference
        if kind != 'storage' or not isinstance(dtype, torch.dtype) or not _are_counts((count,)) or any(view):
            raise ValueError('an unknown storage')
        if not isinstance(key, str) or not isinstance(location, str):
            raise TypeError('a storage without a name')
        self._spend(CALL)
        return Storage(self._storage(dtype, key, location, count))


def _copy_size(item: Any) -> int:
    """Return the bytes that a shallow copy of an argument takes."""
    return len(item) * (1 if isinstance(item, str | bytes) else 8) if isinstance(item, _SIZED) else 0


def _last(stack: list, count: int) -> list:
    items = stack[-count:]
    if len(items) < count:
        raise IndexError('the stack is empty')
    return items


def _extend(container: Any, items: list) -> None:
    """Append items to a list, or keys and values to a dictionary."""
    if type(container) is list:
        container.extend(items)
    elif isinstance(container, dict):
        container.update(zip(map(_key, items[::2]), items[1::2], strict=True))
    else:
        raise TypeError(f'items for a {type(container).__name__}')


def _key(key: Any) -> Any:
    """Return a dictionary's key; a crafted one may have a hash that takes for ever or is shared by many keys."""
    if isinstance(key, str | bool | None) or (isinstance(key, int) and abs(key) < 2**60):
        return key
    if type(key) is tuple and len(key) < MOST_DIMENSIONS and all(isinstance(part, str | int) for part in key):
        return key
    raise TypeError(f'a key of type {type(key).__name__}')


def _are_counts(values: Any) -> bool:
    """Return whether all values are natural numbers of at most 63 bits."""
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


# --- the functions that pickles may call ------------------------------------------------------------------------------


def _tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """Return a view of a storage; gradient, hooks and further attributes are left out."""
    if not isinstance(storage, Storage) or type(size) is not tuple or type(stride) is not tuple:
        raise TypeError('a tensor without a storage')
    if not _are_counts((offset, *size, *stride)) or len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
        raise ValueError('a tensor of an impossible size')
    end = offset + 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if all(size) else 0
    if end > storage.values.numel():
        raise ValueError('a tensor that lies outside its storage')
    return storage.values.as_strided(size, stride, offset)


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
    return OrderedDict((_key(key), value) for key, value in (pairs.items() if type(pairs) is dict else pairs))


def _counter(counts: Any = None) -> Counter:
    if type(counts) not in (dict, type(None)):
        raise TypeError('a counter of no dictionary')
    return Counter(counts)


def _set(items: Any = ()) -> set:
    if type(items) is not list:
        raise TypeError('a set of no list')
    return {_key(item) for item in items}


def _bytes(text: str, encoding: str) -> bytes:
    if encoding not in ('latin1', 'latin-1'):
        raise Untrusted('_codecs.encode')
    return str.encode(text, 'latin1')


def _size(items: tuple) -> torch.Size:
    if type(items) is not tuple or not _are_counts(items):
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
        if not isinstance(number, _Number) or not isinstance(data, bytes) or not _are_counts(shape):
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


def _history_class() -> 'type[HistoryBuffer]':
    from mmengine.logging import HistoryBuffer  # not above, see `reading`

    return HistoryBuffer


def _set_state(item: Any, state: Any) -> None:
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
    'builtins.set': _set,
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


def _look_up(module: str, name: str) -> Any:
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
