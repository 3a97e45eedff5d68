"""Unpickle a checkpoint without executing anything in it, within a budget of memory.

The pickles of torch.save use few instructions. Each is carried out here on plain containers, and what a pickle calls is
looked up in a table of functions that build tensors, arrays and numbers. Any other name is refused.
"""

import pickletools
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import Tensor

from repvit_dense.checkpoints.constructors import Constructor, Storage, are_counts, as_key, look_up, set_attributes

# Memory that a pickle may ask for: a constant and a multiple of the file's size. Checkpoints need less than twice it.
BUDGET, BUDGET_PER_BYTE = 2**26, 8
INSTRUCTION, CALL = 64, 512  # estimated bytes per instruction and per called function
_SIZED = (str, bytes, tuple, list, dict)


class Oversized(Exception):
    """A pickle asks for much more memory than its file is large."""


class Protocol(Exception):
    """A pickle of another protocol than torch.save writes by default."""


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
                    stack.append(look_up(*argument.split(' ', 1)))
                case 'REDUCE' | 'NEWOBJ':
                    function, arguments = _last(stack, 2)
                    stack[-2:] = [self._call(function, arguments)]
                case 'BUILD':
                    item, state = _last(stack, 2)
                    self._call(Constructor('state', set_attributes), (item, state))
                    stack.pop()
                case 'BINPERSID':
                    stack.append(self._load_storage(stack.pop()))
                case 'PROTO':
                    if argument != 2:
                        raise Protocol(f'pickle protocol {argument}')
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
        if kind != 'storage' or not isinstance(dtype, torch.dtype) or not are_counts((count,)) or any(view):
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
        container.update(zip(map(as_key, items[::2]), items[1::2], strict=True))
    else:
        raise TypeError(f'items for a {type(container).__name__}')
