"""The input, device and precision of a measurement."""

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from torch import Tensor


class Workload(NamedTuple):
    """The input, device and precision that all subjects of one run share.

    Attributes:
        batch: batch size.
        size: height and width of the network input in pixels.
        device: device in PyTorch notation.
        precision: 'fp32', or 'bf16' for autocast.
        compiled: run through `torch.compile`.
    """

    batch: int
    size: tuple[int, int]
    device: str = 'cpu'
    precision: str = 'fp32'
    compiled: bool = False

    def autocast(self) -> AbstractContextManager:
        """Return the autocast context of the precision."""
        import torch

        return torch.autocast(self.device, torch.bfloat16) if self.precision == 'bf16' else nullcontext()

    def images(self) -> 'Tensor':
        """Return normalised images `(B, 3, H, W)` on the device: Gaussian noise with a fixed seed."""
        import torch

        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, 3, *self.size, generator=generator).to(self.device)

    def pictures(self) -> 'list[np.ndarray]':
        """Return `batch` uint8 images `(H, W, 3)`: uniform noise with a fixed seed."""
        import numpy as np

        return list(np.random.default_rng(0).integers(0, 256, (self.batch, *self.size, 3), np.uint8))


def check_device(device: str) -> None:
    """Raise InputError if PyTorch has no such device."""
    import torch

    if device.startswith('cuda') and not torch.cuda.is_available():
        raise InputError(f'--device {device}: PyTorch finds no GPU on this machine')
    try:
        kind = torch.device(device).type
        torch.zeros(1, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise InputError(f'--device {device}: {" ".join(str(error).split())}') from error
    if kind == 'meta' or (kind == 'cpu' and device != 'cpu'):
        raise InputError(f'--device {device}: nothing is computed there; use cpu or cuda')


def device_name(device: str) -> str:
    """Return the product name of a GPU, and any other device name unchanged."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith('cuda') else device


@contextmanager
def cpu_threads(count: int | None) -> 'Iterator[None]':
    """Run PyTorch's CPU operations in `count` threads inside the context; None keeps the current number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
