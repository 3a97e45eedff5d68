"""The decorator that gives a function the calling convention of a compiled op of mmcv."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


class Ops(dict):
    """The ops of one file: a dictionary from op name to function, filled by the decorator `op`."""

    def op(self, *outputs: int) -> Callable:
        """Register the decorated function as an op of the extension.

        The function returns one value per output, None to leave the output as it is; any value beyond these goes to the
        caller. Half and bfloat16 arguments reach it as float32, because torchvision's CPU kernels lack those types. By
        convention an output `d_x` is the gradient with respect to x; `columns` and `ones` are scratch space of mmcv's
        kernels.

        Args:
            outputs: positions of the arguments that mmcv allocates and expects to be filled.
        """

        def register(function):
            def fill(*args, **kwargs):
                inputs = [arg if i in outputs else _widen(arg) for i, arg in enumerate(args)]
                results = function(*inputs, **{key: _widen(value) for key, value in kwargs.items()})
                results = results if isinstance(results, tuple) else (results,)
                for i, result in zip(outputs, results, strict=False):
                    if result is not None:
                        args[i].copy_(result)
                if len(results) == len(outputs):
                    return None
                returned = results[-1]
                floating = isinstance(returned, Tensor) and returned.is_floating_point()
                return returned.to(args[0].dtype) if floating else returned

            opaque = None

            @functools.wraps(function)
            def call(*args, **kwargs):
                nonlocal opaque
                if opaque is None:
                    # Takes seconds, which segmentors and data-loading workers, that run no op, are spared.
                    import torchvision  # noqa: F401  registers torch.ops.torchvision

                    # torch.compile must not trace into the function, only call it, as it does with a compiled op:
                    # traced through mmcv's autograd Functions, gradients were silently wrong (torch 2.11).
                    opaque = torch.compiler.disable(fill)
                return opaque(*args, **kwargs)

            self[function.__name__] = call
            return call

        return register


def _widen(value):
    low = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if low else value
